// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwt

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/json"

	"github.com/outrider-mesh/outrider/connect"
)

// A Token is a verified token and where its request carried it. The zero Token
// says nothing and changes nothing.
type Token struct {
	claims   *claims
	at       *location
	verifier *Verifier
}

// Meets returns nil when the token carries every one of the claims, else an
// error that names the first it lacks. A claim is met by the string itself or
// by a list that holds it, as Consul documents; Envoy wants the string itself.
// Numbers, booleans and null meet no claim, however they are written.
func (t Token) Meets(list []connect.JWTClaim) error {
	if t.claims == nil {
		return errors.New("no token found")
	}
	for _, want := range list {
		if !t.claims.holds(want) {
			return fmt.Errorf("claim %s is not %q", strings.Join(want.Path, "."), want.Value)
		}
	}
	return nil
}

// Remove takes the token out of h: the whole field or the query parameter that
// held it. One in a cookie stays, and one whose location says so.
func (t Token) Remove(h *connect.Head) {
	if t.at != nil {
		t.at.remove(h)
	}
}

// Forward puts the payload, base64url, into the field that the provider names,
// in place of whatever is there.
func (t Token) Forward(h connect.Header) {
	if t.verifier == nil || t.verifier.forward.Header == "" {
		return
	}
	encoding := base64.RawURLEncoding
	if t.verifier.forward.Pad {
		encoding = base64.URLEncoding
	}
	h[t.verifier.forward.Header] = []string{encoding.EncodeToString(t.claims.payload)}
}

// claims is what a payload says. It is shared by all requests with the same
// token and never changes.
type claims struct {
	payload   []byte
	all       map[string]any
	issuer    string
	audiences []string
	expires   time.Time // zero when the token does not expire
	starts    time.Time // zero when the token is good from the beginning
}

// parseClaims reads a payload whose signature is good. Names are compared
// letter by letter and none may occur twice in an object, so that no two
// readers of the token can disagree.
func parseClaims(payload []byte) (*claims, error) {
	c := &claims{payload: payload}
	if err := json.Unmarshal(payload, &c.all); err != nil || c.all == nil {
		return nil, errors.New("the token is malformed: its payload is not a JSON object with distinct names")
	}
	var ok bool
	if c.issuer, ok = c.all["iss"].(string); !ok {
		return nil, errors.New("the token names no issuer")
	}
	if c.audiences, ok = texts(c.all["aud"]); !ok {
		return nil, errors.New("claim aud is neither text nor a list of texts")
	}
	if c.expires, ok = instant(c.all, "exp", math.Floor); !ok {
		return nil, errors.New("claim exp is not a time")
	}
	if c.starts, ok = instant(c.all, "nbf", math.Ceil); !ok {
		return nil, errors.New("claim nbf is not a time")
	}
	return c, nil
}

func (c *claims) checkAudience(want []string) error {
	if len(want) == 0 || slices.ContainsFunc(c.audiences, func(a string) bool { return slices.Contains(want, a) }) {
		return nil
	}
	if len(c.audiences) == 0 {
		return fmt.Errorf("the token names no audience, want one of %q", want)
	}
	return fmt.Errorf("audience is %q, want one of %q", clip(strings.Join(c.audiences, ", ")), want)
}

func (c *claims) checkTime(now time.Time, skew time.Duration) error {
	switch {
	case !c.expires.IsZero() && !now.Before(c.expires.Add(skew)):
		return fmt.Errorf("the token expired at %s", c.expires.UTC().Format(time.RFC3339))
	case !c.starts.IsZero() && now.Add(skew).Before(c.starts):
		return fmt.Errorf("the token is not valid before %s", c.starts.UTC().Format(time.RFC3339))
	}
	return nil
}

// holds reports whether the claim is met. Nothing is at an empty path.
func (c *claims) holds(want connect.JWTClaim) bool {
	if len(want.Path) == 0 {
		return false
	}
	var at any = c.all
	for _, name := range want.Path {
		object, ok := at.(map[string]any)
		if !ok {
			return false
		}
		if at, ok = object[name]; !ok {
			return false
		}
	}
	switch value := at.(type) {
	case string:
		return value == want.Value
	case []any:
		return slices.Contains(value, any(want.Value))
	}
	return false
}

// texts reads a claim that is a text or a list of texts; nil is none.
func texts(claim any) ([]string, bool) {
	switch claim := claim.(type) {
	case nil:
		return nil, true
	case string:
		return []string{claim}, true
	case []any:
		out := make([]string, len(claim))
		for i, one := range claim {
			text, ok := one.(string)
			if !ok {
				return nil, false
			}
			out[i] = text
		}
		return out, true
	}
	return nil, false
}

// instant reads a claim that is a time (RFC 7519, 2: NumericDate), rounded so
// that the token is valid for no longer than it says. A name that is missing is
// the zero time; null is no time.
func instant(all map[string]any, name string, round func(float64) float64) (time.Time, bool) {
	claim, there := all[name]
	if !there {
		return time.Time{}, true
	}
	seconds, ok := claim.(float64)
	if !ok || seconds < 0 || seconds >= 1<<53 {
		return time.Time{}, false
	}
	return time.Unix(int64(round(seconds)), 0), true
}
