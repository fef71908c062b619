// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package policy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

// keyOf is the signing key of a provider, one for each test binary.
var keyOf = map[string]func() *ecdsa.PrivateKey{"okta": sync.OnceValue(newKey), "auth0": sync.OnceValue(newKey)}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// providers are okta, whose token is in Authorization; auth0, whose token is in
// X-Token; and one whose keys are not known.
func providers() map[string]connect.JWTProvider {
	out := map[string]connect.JWTProvider{
		"okta":  {Issuer: "okta", Forward: connect.TokenForward{Header: "x-payload"}},
		"auth0": {Issuer: "auth0", Locations: []connect.TokenLocation{{Header: "X-Token"}}},
		"gone":  {Issuer: "gone", Problem: "fetch the keys: connection refused"},
	}
	for name, p := range out {
		p.Name = name
		if key := keyOf[name]; key != nil {
			raw, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key().Public(), KeyID: name}}})
			if err != nil {
				panic(err)
			}
			p.Keys = string(raw)
		}
		out[name] = p
	}
	return out
}

func clock() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func body(issuer, role string) string {
	return `{"iss":"` + issuer + `","role":"` + role + `","exp":1767330000}` // 2026-01-02T05:00:00Z
}

func token(t testing.TB, name, issuer, role string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: keyOf[name](), KeyID: name}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign([]byte(body(issuer, role)))
	if err != nil {
		t.Fatal(err)
	}
	out, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func need(role string, names ...string) *connect.JWTRequirement {
	out := &connect.JWTRequirement{}
	for _, name := range names {
		claims := connect.JWTClaims{Provider: name}
		if role != "" {
			claims.Claims = []connect.JWTClaim{{Path: []string{"role"}, Value: role}}
		}
		out.Providers = append(out.Providers, claims)
	}
	return out
}

func TestTokensThatAreAskedForMustBeThere(t *testing.T) {
	t.Parallel()
	allow := func(entry *connect.JWTRequirement, permissions ...connect.Permission) connect.Intention {
		rule := intention("web", "api", 9, connect.Allow)
		rule.JWT, rule.Permissions = entry, permissions
		return rule
	}
	deny := allow(need("", "okta"))
	deny.Action = connect.Deny
	okta, admin, auth0 := token(t, "okta", "okta", "user"), token(t, "okta", "okta", "admin"), token(t, "auth0", "auth0", "user")
	perms := []connect.Permission{
		{Action: connect.Deny, HTTP: at("/no"), JWT: need("", "okta")},
		{Action: connect.Allow, HTTP: at("/admin"), JWT: need("admin", "okta")},
		{Action: connect.Allow, HTTP: at("/open")},
		{Action: connect.Allow, HTTP: at("/")},
	}
	for name, tc := range map[string]struct {
		rule    connect.Intention
		path    string
		okta    string
		auth0   string
		late    bool
		allowed bool
		why     string // in the decision's words
	}{
		"rule: there":                      {rule: allow(need("", "okta")), okta: okta, allowed: true},
		"rule: missing":                    {rule: allow(need("", "okta")), why: `denied by intention "web → api": its JWT requirement is not met: provider "okta": no token found (precedence 9)`},
		"rule: expired":                    {rule: allow(need("", "okta")), okta: okta, late: true, why: `the token expired at 2026-01-02T05:00:00Z`},
		"rule: garbage":                    {rule: allow(need("", "okta")), okta: "a.b.c", why: `malformed`},
		"rule: another issuer":             {rule: allow(need("", "okta")), okta: token(t, "okta", "evil", ""), why: `issuer is "evil", want "okta"`},
		"rule: of another provider":        {rule: allow(need("", "okta")), okta: auth0, why: `no key with id "auth0"`},
		"rule: elsewhere":                  {rule: allow(need("", "okta")), auth0: okta, why: `no token found`},
		"rule: claim met":                  {rule: allow(need("admin", "okta")), okta: admin, allowed: true},
		"rule: claim not met":              {rule: allow(need("admin", "okta")), okta: okta, why: `provider "okta": claim role is not "admin"`},
		"rule: second provider":            {rule: allow(need("", "okta", "auth0")), auth0: auth0, allowed: true},
		"rule: no provider's":              {rule: allow(need("", "okta", "auth0")), why: `provider "okta": no token found; provider "auth0": no token found`},
		"rule: claim of the second":        {rule: allow(need("admin", "okta", "auth0")), okta: okta, auth0: token(t, "auth0", "auth0", "admin"), allowed: true},
		"rule: keys not known":             {rule: allow(need("", "gone")), okta: okta, why: `provider "gone": no key is known: fetch the keys: connection refused`},
		"rule: keys not known, or another": {rule: allow(need("", "gone", "okta")), okta: okta, allowed: true},
		"rule: provider not known":         {rule: allow(need("", "nobody")), okta: okta, why: `provider "nobody": the provider is not known`},
		"rule: no provider named":          {rule: allow(&connect.JWTRequirement{}), okta: okta, why: `it names no provider`},
		"deny holds with a token":          {rule: deny, okta: okta, why: `denied by intention "web → api" (precedence 9)`},
		"deny holds without a token":       {rule: deny, why: `denied by intention "web → api" (precedence 9)`},

		"permission: there": {rule: allow(nil, perms...), path: "/admin", okta: admin, allowed: true},
		"permission: claim not met, later ones not tried": {rule: allow(nil, perms...), path: "/admin", okta: okta, why: `denied by permission 2 of intention "web → api": its JWT requirement is not met: provider "okta": claim role is not "admin" (precedence 9)`},
		"permission: missing, later ones not tried":       {rule: allow(nil, perms...), path: "/admin", why: `no token found`},
		"permission: another asks for none":               {rule: allow(nil, perms...), path: "/open", allowed: true},
		"permission: deny holds with a token":             {rule: allow(nil, perms...), path: "/no", okta: okta, why: `denied by permission 1 of intention "web → api" (precedence 9)`},
		"permission: deny holds without a token":          {rule: allow(nil, perms...), path: "/no", why: `denied by permission 1 of intention "web → api" (precedence 9)`},

		"both: both there":                 {rule: allow(need("", "auth0"), perms...), path: "/admin", okta: admin, auth0: auth0, allowed: true},
		"both: the rule's missing":         {rule: allow(need("", "auth0"), perms...), path: "/admin", okta: admin, why: `provider "auth0": no token found`},
		"both: the permission's missing":   {rule: allow(need("", "auth0"), perms...), path: "/admin", auth0: auth0, why: `provider "okta": no token found`},
		"both: permission without a token": {rule: allow(need("", "auth0"), perms...), path: "/open", auth0: auth0, allowed: true},
		"both: and the rule's is missing":  {rule: allow(need("", "auth0"), perms...), path: "/open", why: `provider "auth0": no token found`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, fallback := range []connect.Action{connect.Deny, connect.Allow} {
				h := get(tc.path)
				if tc.okta != "" {
					h.Header["Authorization"] = []string{"Bearer " + tc.okta}
				}
				if tc.auth0 != "" {
					h.Header["X-Token"] = []string{tc.auth0}
				}
				now := clock()
				if tc.late {
					now = now.Add(24 * time.Hour)
				}
				d := httpPolicy(fallback, tc.rule, intention("*", "api", 8, connect.Allow)).AuthorizeRequest(caller("web"), h, now)
				want := connect.Reason("")
				if strings.Contains(d.Why(), "JWT requirement") {
					want = connect.JWTInvalid
				} else if !tc.allowed {
					want = connect.IntentionDenied
				}
				if d.Allowed != tc.allowed || !strings.Contains(d.Why(), tc.why) || d.Reason != want {
					t.Errorf("default %s: allowed=%v, reason %q: %s; want allowed=%v: %s", fallback, d.Allowed, d.Reason, d.Why(), tc.allowed, tc.why)
				}
				for part := range strings.SplitSeq(tc.okta+"."+tc.auth0, ".") {
					if len(part) > 12 && strings.Contains(d.Why(), part) {
						t.Errorf("the words hold a part of the token: %s", d.Why())
					}
				}
			}
		})
	}
}

// Under a default of allow the default must not stand in for a token either.
func TestNoPermissionMatchesUnderARuleThatAsksForAToken(t *testing.T) {
	t.Parallel()
	rule := intention("web", "api", 9, connect.Deny)
	rule.JWT, rule.Permissions = need("", "okta"), []connect.Permission{{Action: connect.Deny, HTTP: at("/x")}}
	p := httpPolicy(connect.Allow, rule)
	h := get("/y")
	if d := p.AuthorizeRequest(caller("web"), h, clock()); d.Allowed || d.Reason != connect.JWTInvalid {
		t.Errorf("without a token: %s", d.Why())
	}
	h.Header["Authorization"] = []string{"Bearer " + token(t, "okta", "okta", "user")}
	if d := p.AuthorizeRequest(caller("web"), h, clock()); !d.Allowed {
		t.Errorf("with a token: %s", d.Why())
	}
}

func TestAllowedRequestLosesItsTokensAndGainsThePayload(t *testing.T) {
	t.Parallel()
	rule := intention("web", "api", 9, connect.Allow)
	rule.JWT = need("", "auth0")
	rule.Permissions = []connect.Permission{{Action: connect.Allow, JWT: need("", "okta")}}
	h := get("/")
	h.Header = connect.Header{
		"Authorization": {"Bearer " + token(t, "okta", "okta", "user")},
		"X-Token":       {token(t, "auth0", "auth0", "user")},
		"X-Payload":     {"forged", "twice"},
		"X-Other":       {"a"},
	}
	d := httpPolicy(connect.Deny, rule).AuthorizeRequest(caller("web"), h, clock())
	if !d.Allowed {
		t.Fatal(d.Why())
	}
	d.Edit(h)
	want := connect.Header{
		"X-Payload": {base64.RawURLEncoding.EncodeToString([]byte(body("okta", "user")))},
		"X-Other":   {"a"},
	}
	if diff := cmp.Diff(want, h.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

func TestTokensThatCannotBeVerifiedAreReported(t *testing.T) {
	t.Parallel()
	rule := intention("web", "api", 9, connect.Allow)
	rule.JWT = need("", "okta", "gone", "nobody")
	rule.Permissions = []connect.Permission{{Action: connect.Allow, JWT: &connect.JWTRequirement{}}, {Action: connect.Allow, JWT: need("", "gone")}}
	want := []string{
		`intention "web → api": no token of JWT provider "gone" can be verified: no key is known: fetch the keys: connection refused`,
		`intention "web → api": no token of JWT provider "nobody" can be verified: the provider is not known`,
		`intention "web → api": it asks for a JWT but names no provider, so it denies`,
	}
	if diff := cmp.Diff(want, httpPolicy(connect.Allow, rule).Problems()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}
