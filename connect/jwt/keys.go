// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/outrider-mesh/outrider/connect"
)

const (
	maxKeySet = 256 << 10 // bytes of JSON
	maxKeys   = 64

	// minRSA is the shortest RSA modulus in bits (RFC 7518, 3.3).
	minRSA = 2048
)

// parseKeys reads the provider's key set. Keys that cannot verify a signature
// of an accepted algorithm are left out (RFC 7517, 5); a set without any other
// is an error, and so is one too large to try on every request.
func parseKeys(p connect.JWTProvider) ([]jose.JSONWebKey, error) {
	switch {
	case p.Keys == "" && p.Problem != "":
		return nil, fmt.Errorf("no key is known: %s", p.Problem)
	case p.Keys == "":
		return nil, errors.New("no key is known yet")
	case len(p.Keys) > maxKeySet:
		return nil, fmt.Errorf("the key set has %d bytes, at most %d are accepted", len(p.Keys), maxKeySet)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal([]byte(p.Keys), &set); err != nil {
		return nil, fmt.Errorf("read the key set: %w: want a JSON Web Key Set as in RFC 7517", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has %d keys, at most %d are accepted", len(set.Keys), maxKeys)
	}
	var out []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(raw); err != nil {
			continue
		}
		// Of a private key that should not be there, only the public half stays
		// in memory. Public of a symmetric key is no key.
		if key = key.Public(); verifies(&key) {
			out = append(out, key)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("none of the %d keys in the key set can be used: want public RSA keys of %d bits or more, EC keys on P-256, P-384 or P-521, or Ed25519 keys", len(set.Keys), minRSA)
	}
	return out, nil
}

// verifies reports whether a key can verify signatures.
func verifies(key *jose.JSONWebKey) bool {
	if !key.Valid() || key.Use != "" && key.Use != "sig" {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSA
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false
}

// fits reports whether a key may have signed a token with this header: of the
// same id, where both have one, and of the type that the algorithm asks for. A
// key that names its algorithm is for that one only.
func fits(key *jose.JSONWebKey, head jose.Header) bool {
	if head.KeyID != "" && key.KeyID != "" && key.KeyID != head.KeyID {
		return false
	}
	if key.Algorithm != "" && key.Algorithm != head.Algorithm {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return head.Algorithm[0] == 'R' || head.Algorithm[0] == 'P'
	case *ecdsa.PublicKey:
		return head.Algorithm == ecAlgorithm(k.Params().BitSize)
	case ed25519.PublicKey:
		return head.Algorithm == string(jose.EdDSA)
	}
	return false
}

// ecAlgorithm is the one algorithm for a curve of that size (RFC 7518, 3.4).
func ecAlgorithm(bits int) string {
	switch bits {
	case 256:
		return string(jose.ES256)
	case 384:
		return string(jose.ES384)
	case 521:
		return string(jose.ES512)
	}
	return ""
}
