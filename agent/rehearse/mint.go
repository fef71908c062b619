// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package rehearse

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// A mint signs tokens in the place of providers, whose keys only they have. The
// policy that is asked then believes the mint's key instead of theirs: that
// signatures are looked at is not what is rehearsed. The key never leaves the
// process, and no policy that serves traffic knows it.
type mint struct {
	private ed25519.PrivateKey
	keys    string // as a JSON Web Key Set
}

const keyID = "rehearsal"

func newMint() (*mint, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make a key for tokens: %w", err)
	}
	// RFC 8037, 2.
	keys := fmt.Sprintf(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q}]}`, keyID, base64.RawURLEncoding.EncodeToString(public))
	return &mint{private, keys}, nil
}

// believed are those providers that are asked for, with the mint's key in place
// of their own, known here or not. One without an issuer is one whose config entry cannot be used:
// it stays as it is, and denies.
func (m *mint) believed(providers map[string]connect.JWTProvider, asked map[string]bool) map[string]connect.JWTProvider {
	out := make(map[string]connect.JWTProvider, len(providers))
	for name, p := range providers {
		if !asked[name] {
			continue
		}
		if p.Issuer != "" {
			p.Keys, p.Problem = m.keys, ""
		}
		out[name] = p
	}
	return out
}

// put puts a token into a request, where its provider says that it is found.
func (m *mint) put(t Token, providers map[string]connect.JWTProvider, h *connect.Head, now time.Time) error {
	p, err := choose(t.Provider, providers)
	if err != nil {
		return err
	}
	claims := map[string]any{"iss": p.Issuer, "exp": now.Add(time.Hour).Unix()}
	if len(p.Audiences) > 0 {
		claims["aud"] = p.Audiences[0]
	}
	maps.Copy(claims, t.Claims)
	text, err := m.sign(claims)
	if err != nil {
		return err
	}
	at := connect.TokenLocation{Header: "Authorization", ValuePrefix: "Bearer "}
	if len(p.Locations) > 0 {
		at = p.Locations[0]
	}
	switch {
	case at.Query != "":
		sign := "?"
		if strings.Contains(h.Path, "?") {
			sign = "&"
		}
		h.Path += sign + url.QueryEscape(at.Query) + "=" + text
	case at.Cookie != "":
		h.Header["Cookie"] = append(h.Header["Cookie"], at.Cookie+"="+text)
	default:
		set(h.Header, at.Header, at.ValuePrefix+text)
	}
	return nil
}

func choose(name string, providers map[string]connect.JWTProvider) (connect.JWTProvider, error) {
	names := slices.Sorted(maps.Keys(providers))
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	p, known := providers[name]
	switch {
	case known:
		return p, nil
	case len(names) == 0:
		return p, errors.New("there is no JWT provider, whose token the caller could have")
	case name == "":
		return p, fmt.Errorf("whose token is it? write with jwt PROVIDER {…} with one of %s", strings.Join(names, ", "))
	}
	return p, fmt.Errorf("there is no JWT provider %q; there are %s", name, strings.Join(names, ", "))
}

// sign makes a token of claims (RFC 7515, 3.1; RFC 8037, 3.1).
func (m *mint) sign(claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("write the claims: %w", err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"EdDSA","kid":"`+keyID+`"}`)) + "." + encode(payload)
	return signed + "." + encode(ed25519.Sign(m.private, []byte(signed))), nil
}
