// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package jwt finds the token of a request and verifies it against the keys of
// its provider. It must not fetch keys, read a clock, decide who may call, or
// let a token appear in an error.
package jwt

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/textproto"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/outrider-mesh/outrider/connect"
)

const (
	// maxToken is the length in bytes of the longest token that is looked at.
	maxToken = 8 << 10

	// defaultSkew is what Consul documents for a provider that sets none.
	defaultSkew = 30 * time.Second
)

// algorithms returns the signature algorithms that are accepted. None of them
// is symmetric: a secret in a key set that many proxies read is none, and an
// HMAC that takes a public key for its secret is the classic forgery. Envoy
// accepts HS256, HS384 and HS512 too.
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512,
		jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512,
		jose.EdDSA,
	}
}

// A Verifier finds and verifies the tokens of one provider. It is safe for
// concurrent use and never changes, but for a bounded memory of tokens whose
// signature it has verified; that memory ends with the Verifier, and so with
// the keys. The nil Verifier verifies nothing.
type Verifier struct {
	issuer     string
	audiences  []string
	skew       time.Duration
	locations  []location
	forward    connect.TokenForward // Header is canonical
	keys       []jose.JSONWebKey
	algorithms []jose.SignatureAlgorithm
	seen       cache
	problem    string
}

// Compile makes the verifier of a provider (Consul, jwt-provider config entry).
// A provider that cannot be used is no error: its verifier refuses every token,
// and Problem says why.
func Compile(p connect.JWTProvider) *Verifier {
	v := &Verifier{
		issuer:     p.Issuer,
		audiences:  p.Audiences,
		skew:       p.ClockSkew,
		forward:    p.Forward,
		algorithms: algorithms(),
	}
	v.forward.Header = textproto.CanonicalMIMEHeaderKey(p.Forward.Header)
	switch {
	case v.skew == 0:
		v.skew = defaultSkew
	case v.skew < 0:
		v.skew = 0
	}
	var err error
	if v.locations, err = compileLocations(p.Locations); err == nil {
		v.keys, err = parseKeys(p)
	}
	switch {
	case err != nil:
		v.problem = err.Error()
	case p.Issuer == "":
		v.problem = "the provider names no issuer: set Issuer in its config entry"
	}
	if v.forward.Header != "" && !forwardable(v.forward.Header) {
		v.problem = fmt.Sprintf("forwarding header %q cannot carry a payload: name a field of its own", clip(p.Forward.Header))
		v.forward.Header = ""
	}
	return v
}

// Problem says why no token can be verified at all, "" when tokens can.
func (v *Verifier) Problem() string {
	if v == nil {
		return "the provider is not known"
	}
	return v.problem
}

// ForwardHeader is the canonical name of the field in which the payload goes to
// the application, "" for none. What a caller sends in it must never pass:
// Envoy removes it from every request, and so must whoever uses the Verifier.
func (v *Verifier) ForwardHeader() string {
	if v == nil {
		return ""
	}
	return v.forward.Header
}

// Verify finds the token in h and verifies it: signature, issuer, audience and
// times at now. The first location that holds a token counts, also when that
// token is bad; several tokens in one place are refused, because which one the
// application would take cannot be known. A token without exp does not expire,
// as with Envoy. The times exp and nbf have the tolerance of the provider.
//
// Every error is a short text without the token, fit for logs.
func (v *Verifier) Verify(h *connect.Head, now time.Time) (Token, error) {
	if problem := v.Problem(); problem != "" {
		return Token{}, errors.New(problem)
	}
	raw, at, err := v.find(h)
	if err != nil {
		return Token{}, err
	}
	c, err := v.verified(raw)
	if err != nil {
		return Token{}, err
	}
	if err := c.checkTime(now, v.skew); err != nil {
		return Token{}, err
	}
	return Token{claims: c, at: at, verifier: v}, nil
}

// verified returns what a token says whose signature, issuer and audience are
// good. Those do not change while the keys do not, so the answer is remembered.
func (v *Verifier) verified(raw string) (*claims, error) {
	if len(raw) > maxToken {
		return nil, fmt.Errorf("the token has %d bytes, at most %d are accepted", len(raw), maxToken)
	}
	key := sha256.Sum256([]byte(raw))
	if c := v.seen.find(key); c != nil {
		return c, nil
	}
	payload, err := v.checkSignature(raw)
	if err != nil {
		return nil, err
	}
	c, err := parseClaims(payload)
	if err != nil {
		return nil, err
	}
	if c.issuer != v.issuer {
		return nil, fmt.Errorf("issuer is %q, want %q", clip(c.issuer), v.issuer)
	}
	if err := c.checkAudience(v.audiences); err != nil {
		return nil, err
	}
	v.seen.keep(key, c, len(raw))
	return c, nil
}

// checkSignature returns the payload of a token that one of the keys has
// signed. Errors of the library are not passed on: they may quote the token.
func (v *Verifier) checkSignature(raw string) ([]byte, error) {
	if err := checkForm(raw); err != nil {
		return nil, err
	}
	signed, err := jose.ParseSignedCompact(raw, v.algorithms)
	var algorithm *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &algorithm):
		return nil, fmt.Errorf("algorithm %q is not accepted: want RS, PS or ES with 256, 384 or 512, or EdDSA", clip(string(algorithm.Got)))
	case err != nil:
		return nil, errors.New("the token is malformed: its header or payload cannot be read")
	}
	head := signed.Signatures[0].Protected
	for _, name := range []jose.HeaderKey{"crit", "b64"} {
		if _, extended := head.ExtraHeaders[name]; extended {
			return nil, fmt.Errorf("the token's header has %q: no extension is understood", name)
		}
	}
	tried := 0
	for i := range v.keys {
		if !fits(&v.keys[i], head) {
			continue
		}
		tried++
		// Keys are ours alone; one that the token brings along is not looked at.
		if payload, err := signed.Verify(v.keys[i].Key); err == nil {
			return payload, nil
		}
	}
	switch {
	case tried > 0:
		return nil, errors.New("the signature is not of a key of the provider")
	case head.KeyID != "":
		return nil, fmt.Errorf("no key with id %q for algorithm %s", clip(head.KeyID), head.Algorithm)
	}
	return nil, fmt.Errorf("no key for algorithm %s", head.Algorithm)
}

// checkForm refuses what is not three parts of base64url in their one spelling.
// The library's decoder passes over line breaks and over bits at the end.
func checkForm(raw string) error {
	if n := strings.Count(raw, ".") + 1; n != 3 {
		return fmt.Errorf("the token has %d parts, want the 3 of a signed one", n)
	}
	for part := range strings.SplitSeq(raw, ".") {
		if _, err := base64.RawURLEncoding.Strict().DecodeString(part); err != nil || strings.ContainsAny(part, "\r\n") {
			return errors.New("the token is malformed: a part of it is not base64url")
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// forwardable reports whether name, which is canonical, is a field name (RFC
// 9110, 5.6.2) and none that belongs to the connection or to the framing.
func forwardable(name string) bool {
	switch name {
	case "Host", "Content-Length", "Transfer-Encoding", "Connection", "Te", "Trailer", "Upgrade":
		return false
	}
	for i := range len(name) {
		if !isAlphanumeric(name[i]) && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(name[i])) {
			return false
		}
	}
	return true
}

// clip bounds what of a caller's words goes into an error.
func clip(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
