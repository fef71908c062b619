// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// permissions is an intention of web's with L7 permissions.
func permissions(of ...connect.Permission) []connect.Intention {
	i := intention("web", connect.Deny)
	i.Permissions = of
	return []connect.Intention{i}
}

func allowPrefix(prefix string, methods ...string) connect.Permission {
	return connect.Permission{Action: connect.Allow, HTTP: connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: prefix}, Methods: methods}}
}

func TestIntentionsAreJudgedPerRequestOnTheNormalisedPath(t *testing.T) {
	for _, protocol := range protocols() {
		r := newHTTPPair(t, protocol, http.HandlerFunc(mirror))
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) {
			s.DefaultAction, s.Intentions = connect.Deny, permissions(allowPrefix("/public/", http.MethodGet))
		}))
		for path, want := range map[string]int{
			"/public/a": 200, "/private": 403, "/public/../private": 403, "/x/../public/a": 200, "/PUBLIC/a": 403, "/public/%2e%2e/private": 403,
		} {
			got := r.get(t, path)
			if got.status != want {
				t.Errorf("%s %s: %d, want %d", protocol, path, got.status, want)
			}
			if want == 403 && (got.body != "RBAC: access denied" || got.header.Get("X-Outrider-Reason") != "intention_denied") {
				t.Errorf("%s %s: %q, %v", protocol, path, got.body, got.header)
			}
			if path == "/x/../public/a" && got.header.Get("Echo-Path") != "/public/a" {
				t.Errorf("what was judged is not what was forwarded: %q", got.header.Get("Echo-Path"))
			}
		}
		if got := send(t, r.client(t), newRequest(t, http.MethodPost, r.url(t, "/public/a"), nil)); got.status != 403 {
			t.Errorf("%s POST: %d", protocol, got.status)
		}
	}
}

// A request that streams for hours must not outlive the permission for it, and
// others on the same connection must not suffer.
func TestWithdrawnPermissionEndsTheRequestsItCoveredAndNoOthers(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		_ = c.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = io.WriteString(w, lines.Text()+"\n")
			_ = c.Flush()
		}
	}))
	client := r.client(t)
	open := func(path string) (*io.PipeWriter, *bufio.Reader) {
		body, feed := io.Pipe()
		t.Cleanup(func() { _ = feed.Close() })
		resp, err := client.Do(newRequest(t, http.MethodPost, r.url(t, path), body))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return feed, bufio.NewReader(resp.Body)
	}
	say := func(feed io.Writer, answers *bufio.Reader) error {
		if _, err := io.WriteString(feed, "hello\n"); err != nil {
			return err
		}
		_, err := answers.ReadString('\n')
		return err
	}
	feedA, a := open("/a/stream")
	feedB, b := open("/b/stream")
	if say(feedA, a) != nil || say(feedB, b) != nil {
		t.Fatal("the streams do not flow")
	}
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) {
		s.DefaultAction, s.Intentions = connect.Deny, permissions(allowPrefix("/b/"))
	}))
	if _, err := a.ReadString('\n'); err == nil || timedOut(err) {
		t.Errorf("the stream of /a: %v", err)
	}
	for range 3 {
		if err := say(feedB, b); err != nil {
			t.Fatalf("the stream of /b was hurt: %v", err)
		}
	}
}

func TestApplicationLearnsWhoCallsAndCannotBeLiedTo(t *testing.T) {
	uri := meshca.ID("web").String()
	lie := "By=spiffe://x;URI=spiffe://lie"
	for _, tc := range []struct {
		protocol connect.Protocol
		sanitize bool
		want     bool
	}{{connect.HTTP, false, true}, {connect.HTTP2, false, true}, {connect.HTTP, true, false}, {connect.GRPC, false, false}} {
		r := newHTTPPair(t, tc.protocol, http.HandlerFunc(mirror))
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Mesh.SanitizeXFCC = tc.sanitize }))
		got := r.get(t, "/", "X-Forwarded-Client-Cert", lie)
		var seen []string
		for _, f := range got.header["Echo-Field"] {
			if value, ok := strings.CutPrefix(f, "X-Forwarded-Client-Cert: "); ok {
				seen = append(seen, value)
			}
		}
		all := strings.Join(seen, "|")
		if strings.Contains(all, "lie") {
			t.Errorf("%+v: the application is lied to: %s", tc, all)
		}
		if tc.want != (len(seen) == 1 && strings.HasSuffix(all, ";URI="+uri) && strings.HasPrefix(all, "By="+meshca.ID("api").String()+";Hash=")) {
			t.Errorf("%+v: the application saw %q", tc, all)
		}
	}
}

// What a proved peer says in the header is about hops before it, and stays in
// front of what we know ourselves.
func TestOurElementIsTheLastOfTheCertificateHeader(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(mirror))
	c, err := r.as(t, r.ca.Leaf("web", nil))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: api\r\nX-Forwarded-Client-Cert: By=a;URI=b\r\nX-Forwarded-Client-Cert: By=c;URI=d\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	want := "X-Forwarded-Client-Cert: By=a;URI=b,By=c;URI=d,By=" + meshca.ID("api").String() + ";Hash="
	if got := strings.Join(resp.Header["Echo-Field"], "\n"); !strings.Contains(got, want) {
		t.Errorf("the application saw\n%s", got)
	}
}
