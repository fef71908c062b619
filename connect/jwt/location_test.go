// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwt

import (
	"encoding/base64"
	"maps"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func TestTokenIsFoundWhereTheProviderSays(t *testing.T) {
	t.Parallel()
	custom := []connect.TokenLocation{{Header: "x-TOKEN", ValuePrefix: "Tok:"}, {Cookie: "session"}, {Query: "t"}}
	for name, tc := range map[string]struct {
		locations []connect.TokenLocation
		path      string
		header    connect.Header
		token, at string
		wants     string // part of the error
	}{
		"bearer":                            {header: connect.Header{"Authorization": {"Bearer abc"}}, token: "abc", at: "header Authorization"},
		"bearer, more blanks":               {header: connect.Header{"Authorization": {"Bearer   abc\t"}}, token: "abc", at: "header Authorization"},
		"bearer in small letters":           {header: connect.Header{"Authorization": {"bearer abc"}}, wants: "no token found"},
		"another scheme":                    {header: connect.Header{"Authorization": {"Basic abc"}}, wants: "no token found"},
		"scheme alone":                      {header: connect.Header{"Authorization": {"Bearer "}}, wants: "no token found"},
		"nothing":                           {wants: "no token found"},
		"parameter":                         {path: "/?access_token=abc", token: "abc", at: "query parameter access_token"},
		"parameter, escaped":                {path: "/?a=b&access%5Ftoken=a%2Ebc&c", token: "a.bc", at: "query parameter access_token"},
		"parameter, badly escaped":          {path: "/?access_token=a%zz", token: "a%zz", at: "query parameter access_token"},
		"parameter of a longer name":        {path: "/?my_access_token=a&access_token2=b&Access_Token=c", wants: "no token found"},
		"parameter in the path":             {path: "/access_token=abc", wants: "no token found"},
		"parameter twice":                   {path: "/?access_token=a&access_token=b", wants: "query parameter access_token has 2 values"},
		"parameter twice, one escaped":      {path: "/?access_token=a&%61ccess_token=b", wants: "has 2 values"},
		"parameter empty":                   {path: "/?access_token=", wants: "no token found"},
		"header before parameter":           {path: "/?access_token=b", header: connect.Header{"Authorization": {"Bearer a"}}, token: "a", at: "header Authorization"},
		"header without token, parameter":   {path: "/?access_token=b", header: connect.Header{"Authorization": {"Basic a"}}, token: "b", at: "query parameter access_token"},
		"two headers":                       {header: connect.Header{"Authorization": {"Bearer a", "Bearer b"}}, wants: "header Authorization has 2 values"},
		"two headers, one a token":          {header: connect.Header{"Authorization": {"Basic a", "Bearer b"}}, wants: "header Authorization has 2 values"},
		"two headers, same token":           {header: connect.Header{"Authorization": {"Bearer a", "Bearer a"}}, wants: "has 2 values"},
		"two headers, no token, parameter":  {path: "/?access_token=b", header: connect.Header{"Authorization": {"Basic a", "Basic b"}}, token: "b", at: "query parameter access_token"},
		"custom header":                     {locations: custom, header: connect.Header{"X-Token": {"Tok:abc"}}, token: "abc", at: "header X-Token"},
		"custom locations end the defaults": {locations: custom, path: "/?access_token=a", header: connect.Header{"Authorization": {"Bearer a"}}, wants: "no token found"},
		"cookie":                            {locations: custom, header: connect.Header{"Cookie": {"a=b; session=abc; c=d"}}, token: "abc", at: "cookie session"},
		"cookie in quotes":                  {locations: custom, header: connect.Header{"Cookie": {`session="abc"`}}, token: "abc", at: "cookie session"},
		"cookie in crumbs":                  {locations: custom, header: connect.Header{"Cookie": {"a=b", "session=abc"}}, token: "abc", at: "cookie session"},
		"cookie twice":                      {locations: custom, header: connect.Header{"Cookie": {"session=a; session=b"}}, wants: "cookie session has 2 values"},
		"cookie twice in crumbs":            {locations: custom, header: connect.Header{"Cookie": {"session=a", "session=b"}}, wants: "cookie session has 2 values"},
		"cookie of another case":            {locations: custom, header: connect.Header{"Cookie": {"Session=a"}}, wants: "no token found"},
		"cookie before parameter":           {locations: custom, path: "/?t=b", header: connect.Header{"Cookie": {"session=a"}}, token: "a", at: "cookie session"},
		"no prefix": {
			locations: []connect.TokenLocation{{Header: "X-Token"}},
			header:    connect.Header{"X-Token": {" abc"}}, token: "abc", at: "header X-Token",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := provider(t)
			p.Locations = tc.locations
			token, at, err := verifier(t, p).find(&connect.Head{Path: tc.path, Header: tc.header})
			if tc.wants != "" {
				refused(t, err, tc.wants, "")
				return
			}
			if err != nil || token != tc.token || at.String() != tc.at {
				t.Errorf("found %q in %v, error %v; want %q in %s", token, at, err, tc.token, tc.at)
			}
		})
	}
}

// A bad token in the first place is not made good by another elsewhere: which
// of them the application takes cannot be known.
func TestFirstTokenCountsEvenWhenBad(t *testing.T) {
	t.Parallel()
	good := sign(t, jose.ES256, p256(), "p256", payload(t, nil), nil)
	head := bearer("x.y.z")
	head.Path = "/?access_token=" + good
	if _, err := verifier(t, provider(t)).Verify(head, now()); err == nil {
		t.Error("the second token was taken")
	}
	delete(head.Header, "Authorization")
	if _, err := verifier(t, provider(t)).Verify(head, now()); err != nil {
		t.Errorf("the token alone: %v", err)
	}
}

func TestTokenIsRemovedAndPayloadForwarded(t *testing.T) {
	t.Parallel()
	body := payload(t, nil)
	for len(body)%3 == 0 { // so that padding shows
		body += " "
	}
	token := sign(t, jose.ES256, p256(), "p256", body, nil)
	payload := b64(body)
	for name, tc := range map[string]struct {
		location connect.TokenLocation
		forward  connect.TokenForward
		path     string
		header   connect.Header
		wantPath string
		want     connect.Header
	}{
		"header": {
			location: connect.TokenLocation{Header: "authorization", ValuePrefix: "Bearer "},
			forward:  connect.TokenForward{Header: "x-payload"},
			path:     "/a?b=c", header: connect.Header{"Authorization": {"Bearer " + token}, "X-Payload": {"forged"}, "A": {"b"}},
			wantPath: "/a?b=c", want: connect.Header{"X-Payload": {payload}, "A": {"b"}},
		},
		"header, kept": {
			location: connect.TokenLocation{Header: "X-Token", Keep: true},
			path:     "/", header: connect.Header{"X-Token": {token}},
			wantPath: "/", want: connect.Header{"X-Token": {token}},
		},
		"parameter": {
			location: connect.TokenLocation{Query: "t"},
			forward:  connect.TokenForward{Header: "X-Payload", Pad: true},
			path:     "/a?x=%20&t=" + token + "&y", header: connect.Header{},
			wantPath: "/a?x=%20&y", want: connect.Header{"X-Payload": {base64.URLEncoding.EncodeToString([]byte(body))}},
		},
		"parameter alone": {
			location: connect.TokenLocation{Query: "t"},
			path:     "/a?%74=" + token, header: connect.Header{},
			wantPath: "/a", want: connect.Header{},
		},
		"cookie stays": {
			location: connect.TokenLocation{Cookie: "t"},
			path:     "/", header: connect.Header{"Cookie": {"t=" + token}},
			wantPath: "/", want: connect.Header{"Cookie": {"t=" + token}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := provider(t)
			p.Locations, p.Forward = []connect.TokenLocation{tc.location}, tc.forward
			head := &connect.Head{Method: "GET", Path: tc.path, Header: maps.Clone(tc.header)}
			got, err := verifier(t, p).Verify(head, now())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.header, head.Header); diff != "" || head.Path != tc.path {
				t.Errorf("verifying changed the request: path %s, header (-want +got):\n%s", head.Path, diff)
			}
			got.Remove(head)
			got.Forward(head.Header)
			if diff := cmp.Diff(tc.want, head.Header); diff != "" || head.Path != tc.wantPath {
				t.Errorf("path %s, want %s; header (-want +got):\n%s", head.Path, tc.wantPath, diff)
			}
		})
	}
}

func FuzzFind(f *testing.F) {
	for _, seed := range []string{"Bearer abc", "Bearer a, Bearer b", "access_token=a&access_token=b", "t=%zz", "t=\"a\"; t=b", "%74=%2e", "&&=&;"} {
		f.Add(seed, seed, seed)
	}
	p := provider(f)
	p.Locations = []connect.TokenLocation{{Header: "Authorization", ValuePrefix: "Bearer "}, {Query: "t"}, {Cookie: "t"}}
	v := verifier(f, p)
	f.Fuzz(func(t *testing.T, field, query, cookie string) {
		head := &connect.Head{Path: "/p?" + query, Header: connect.Header{"Authorization": {field}, "Cookie": {cookie}}}
		token, at, err := v.find(head)
		if err != nil {
			return
		}
		if token == "" || at == nil {
			t.Fatalf("found %q at %v", token, at)
		}
		at.remove(head)
		again, where, err := v.find(head)
		if at.Cookie == "" && err == nil && where == at {
			t.Fatalf("%q is still at %v after removal", again, where)
		}
		if !strings.HasPrefix(head.Path, "/p") {
			t.Fatalf("path became %q", head.Path)
		}
	})
}

func FuzzVerify(f *testing.F) {
	good := sign(f, jose.ES256, p256(), "p256", payload(f, nil), nil)
	f.Add(good)
	f.Add(assemble(`{"alg":"none"}`, payload(f, nil), nil))
	f.Add(assemble(`{"alg":"ES256","kid":"p256","jwk":{"kty":"EC"}}`, payload(f, nil), make([]byte, 64)))
	f.Add("..")
	v := verifier(f, provider(f))
	f.Fuzz(func(t *testing.T, token string) {
		got, err := v.Verify(bearer(token), now())
		if err == nil {
			// Whoever has a good token can write its ECDSA signature in another
			// way, but nothing else.
			a, b := strings.Split(strings.Trim(token, " \t"), "."), strings.Split(good, ".")
			if a[0] != b[0] || a[1] != b[1] {
				t.Fatalf("forged: %q", token)
			}
		}
		if (err == nil) != (got.claims != nil) {
			t.Fatalf("token %v with error %v", got, err)
		}
	})
}
