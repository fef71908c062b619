// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwt

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/outrider-mesh/outrider/connect"
)

func TestKeySetsThatCannotBeUsedRefuseEveryToken(t *testing.T) {
	t.Parallel()
	good := provider(t)
	var many []jose.JSONWebKey
	for i := range maxKeys + 1 {
		many = append(many, jwk(strconv.Itoa(i), p256()))
	}
	for name, tc := range map[string]struct {
		change func(*connect.JWTProvider)
		want   string
	}{
		"no keys yet":          {func(p *connect.JWTProvider) { p.Keys = "" }, "no key is known yet"},
		"keys not fetched":     {func(p *connect.JWTProvider) { p.Keys, p.Problem = "", "fetch of keys timed out" }, "no key is known: fetch of keys timed out"},
		"not JSON":             {func(p *connect.JWTProvider) { p.Keys = "-----BEGIN" }, "read the key set"},
		"a list":               {func(p *connect.JWTProvider) { p.Keys = "[]" }, "read the key set"},
		"empty":                {func(p *connect.JWTProvider) { p.Keys = `{"keys":[]}` }, "none of the 0 keys"},
		"another name":         {func(p *connect.JWTProvider) { p.Keys = strings.Replace(p.Keys, `"keys"`, `"KEYS"`, 1) }, "none of the 0 keys"},
		"too many keys":        {func(p *connect.JWTProvider) { p.Keys = keySet(t, many...) }, "has 65 keys"},
		"too large":            {func(p *connect.JWTProvider) { p.Keys += strings.Repeat(" ", maxKeySet) }, "at most 262144"},
		"only a secret":        {func(p *connect.JWTProvider) { p.Keys = keySet(t, jose.JSONWebKey{Key: []byte("secret")}) }, "none of the 1 keys"},
		"only a short RSA key": {func(p *connect.JWTProvider) { p.Keys = keySet(t, jwk("a", shortRSA())) }, "none of the 1 keys"},
		"only for encryption": {func(p *connect.JWTProvider) {
			key := jwk("rsa", rsaKey())
			key.Use = "enc"
			p.Keys = keySet(t, key)
		}, "none of the 1 keys"},
		"no issuer":         {func(p *connect.JWTProvider) { p.Issuer = "" }, "names no issuer"},
		"an empty location": {func(p *connect.JWTProvider) { p.Locations = []connect.TokenLocation{{}} }, "token location 1"},
		"a double location": {func(p *connect.JWTProvider) {
			p.Locations = []connect.TokenLocation{{Query: "a"}, {Header: "A", Cookie: "b"}}
		}, "token location 2"},
		"a bad forward header":            {func(p *connect.JWTProvider) { p.Forward.Header = "X: y\r\nZ" }, "cannot carry a payload"},
		"a forward header of the framing": {func(p *connect.JWTProvider) { p.Forward.Header = "content-length" }, "cannot carry a payload"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := good
			tc.change(&p)
			v := Compile(p)
			if !strings.Contains(v.Problem(), tc.want) {
				t.Errorf("problem %q, want %q in it", v.Problem(), tc.want)
			}
			token := sign(t, jose.RS256, rsaKey(), "rsa", payload(t, nil), nil)
			_, err := v.Verify(bearer(token), now())
			refused(t, err, tc.want, token)
			if v.ForwardHeader() != "" {
				t.Errorf("it forwards in %q", v.ForwardHeader())
			}
		})
	}
	var none *Verifier
	if _, err := none.Verify(bearer("x"), now()); err == nil || none.Problem() == "" || none.ForwardHeader() != "" {
		t.Errorf("the nil Verifier: %v, problem %q", err, none.Problem())
	}
}

func TestKeysOfOtherSortsAreLeftOut(t *testing.T) {
	t.Parallel()
	p := provider(t)
	var set struct{ Keys []json.RawMessage }
	if err := json.Unmarshal([]byte(keySet(t, jwk("rsa", rsaKey()), jose.JSONWebKey{Key: []byte("secret"), KeyID: "rsa"})), &set); err != nil {
		t.Fatal(err)
	}
	p.Keys = `{"keys":[{"kty":"new"},{"kty":"EC","crv":"secp256k1"},7,` + string(set.Keys[1]) + `,` + string(set.Keys[0]) + `]}`
	token := sign(t, jose.RS256, rsaKey(), "rsa", payload(t, nil), nil)
	if _, err := verifier(t, p).Verify(bearer(token), now()); err != nil {
		t.Error(err)
	}
}

func TestOnlyThePublicHalfOfAKeyIsKept(t *testing.T) {
	t.Parallel()
	p := provider(t)
	p.Keys = keySet(t, jose.JSONWebKey{Key: rsaKey(), KeyID: "rsa"})
	v := verifier(t, p)
	for _, key := range v.keys {
		if !key.IsPublic() {
			t.Errorf("a key of type %T is kept", key.Key)
		}
	}
	if _, err := v.Verify(bearer(sign(t, jose.RS256, rsaKey(), "rsa", payload(t, nil), nil)), now()); err != nil {
		t.Error(err)
	}
}

func TestKeyIsChosenByIDTypeAndAlgorithm(t *testing.T) {
	t.Parallel()
	named := jwk("a", rsaKey())
	named.Algorithm = "RS256"
	for name, tc := range map[string]struct {
		keys  []jose.JSONWebKey
		alg   jose.SignatureAlgorithm
		kid   string
		wants string // "" means verified
	}{
		"two keys of one id: both are tried":     {[]jose.JSONWebKey{jwk("a", otherRSA()), jwk("a", rsaKey())}, jose.RS256, "a", ""},
		"no id in the token: all are tried":      {[]jose.JSONWebKey{jwk("a", otherRSA()), jwk("b", p256()), jwk("c", rsaKey())}, jose.RS256, "", ""},
		"no id in the key: it is tried":          {[]jose.JSONWebKey{jwk("", rsaKey())}, jose.RS256, "a", ""},
		"the key is under another id":            {[]jose.JSONWebKey{jwk("a", otherRSA()), jwk("b", rsaKey())}, jose.RS256, "a", "not of a key"},
		"ids differ in case":                     {[]jose.JSONWebKey{jwk("A", rsaKey())}, jose.RS256, "a", `no key with id "a"`},
		"the key's own algorithm":                {[]jose.JSONWebKey{named}, jose.RS256, "a", ""},
		"the key is for another algorithm":       {[]jose.JSONWebKey{named}, jose.PS256, "a", "no key with id"},
		"no key of the type, no id in the token": {[]jose.JSONWebKey{jwk("a", p256())}, jose.RS256, "", "no key for algorithm RS256"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := connect.JWTProvider{Name: "okta", Issuer: issuer, Keys: keySet(t, tc.keys...)}
			token := sign(t, tc.alg, rsaKey(), tc.kid, payload(t, nil), nil)
			_, err := verifier(t, p).Verify(bearer(token), now())
			if tc.wants != "" {
				refused(t, err, tc.wants, token)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}
