// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/outrider-mesh/outrider/connect"
)

const issuer = "https://issuer.example"

// now is the time of every test that does not say another.
func now() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// Making RSA keys is slow, so the tests share one of each sort.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	shortRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 1024)) })
	p256     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	p521     = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)) })
	edKey    = sync.OnceValue(func() ed25519.PrivateKey {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return must(key, err)
	})
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type fields map[string]any

// payload is the payload of a good token, changed by the fields; a nil field is
// left out.
func payload(t testing.TB, change fields) string {
	t.Helper()
	all := fields{"iss": issuer, "sub": "alice", "exp": now().Add(time.Hour).Unix()}
	for name, value := range change {
		all[name] = value
		if value == nil {
			delete(all, name)
		}
	}
	raw, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// sign makes a token; kid may be "".
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, kid, body string, extra map[jose.HeaderKey]any) string {
	t.Helper()
	options := &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{}}
	maps.Copy(options.ExtraHeaders, extra)
	if kid != "" {
		options.ExtraHeaders["kid"] = kid
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	if err != nil {
		t.Fatalf("signer: %v", err)
	}
	signed, err := signer.Sign([]byte(body))
	if err != nil {
		t.Fatalf("sign: %v", err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		t.Fatalf("serialize: %v", err)
	}
	return token
}

// assemble makes a token of three plain parts.
func assemble(header, body string, signature []byte) string {
	return b64(header) + "." + b64(body) + "." + b64(string(signature))
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// keySet makes the JSON of public keys, each under the name of its id.
func keySet(t testing.TB, keys ...jose.JSONWebKey) string {
	t.Helper()
	raw, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func jwk(kid string, key crypto.Signer) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key.Public(), KeyID: kid}
}

// provider has one key of each accepted sort, under ids that say which.
func provider(t testing.TB) connect.JWTProvider {
	t.Helper()
	return connect.JWTProvider{Name: "okta", Issuer: issuer, Keys: keySet(t,
		jwk("rsa", rsaKey()), jwk("p256", p256()), jwk("p384", p384()), jwk("p521", p521()), jwk("ed", edKey()))}
}

func verifier(t testing.TB, p connect.JWTProvider) *Verifier {
	t.Helper()
	v := Compile(p)
	if problem := v.Problem(); problem != "" {
		t.Fatalf("provider: %s", problem)
	}
	return v
}

func bearer(token string) *connect.Head {
	return &connect.Head{
		Method: "GET", Scheme: "http", Authority: "api", Path: "/",
		Header: connect.Header{"Authorization": {"Bearer " + token}},
	}
}

// refused checks that a token is refused with a text, and that nothing of the
// token is in it.
func refused(t *testing.T, err error, want, token string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted, want %q", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q, want %q in it", err, want)
	}
	if len(err.Error()) > 300 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
	for part := range strings.SplitSeq(token, ".") {
		if len(part) > 12 && strings.Contains(err.Error(), part) {
			t.Errorf("error %q holds a part of the token", err)
		}
	}
}
