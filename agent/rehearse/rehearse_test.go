// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package rehearse

import (
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

func noon() time.Time { return time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC) }

// intention is one for api, unless the destination is another.
func intention(source, destination string, action connect.Action, permissions ...connect.Permission) connect.Intention {
	precedence := 9
	if destination == "*" {
		precedence = 6
	}
	if source == "*" {
		precedence--
	}
	peer, name, ofPeer := strings.Cut(source, "/")
	if !ofPeer {
		peer, name = "", source
	}
	return connect.Intention{
		Source: connect.Source{Peer: peer, Partition: "default", Namespace: "default", Name: name}, Destination: destination,
		Namespace: "default", Precedence: precedence, Action: action, Permissions: permissions,
	}
}

func permission(action connect.Action, kind connect.MatchKind, path string, methods ...string) connect.Permission {
	return connect.Permission{Action: action, HTTP: connect.RequestMatch{Path: connect.PathMatch{Kind: kind, Value: path}, Methods: methods}}
}

func needs(role string, providers ...string) *connect.JWTRequirement {
	out := &connect.JWTRequirement{}
	for _, name := range providers {
		c := connect.JWTClaims{Provider: name}
		if role != "" {
			c.Claims = []connect.JWTClaim{{Path: []string{"role"}, Value: role}}
		}
		out.Providers = append(out.Providers, c)
	}
	return out
}

func tokenRules() Rules {
	admin := permission(connect.Allow, connect.MatchPrefix, "/admin")
	admin.JWT = needs("admin", "okta")
	rule := intention("web", "api", connect.Deny, permission(connect.Deny, connect.MatchExact, "/no"), admin, permission(connect.Allow, connect.MatchPrefix, "/"))
	shop := intention("shop", "api", connect.Allow)
	shop.JWT = needs("", "cookie", "query")
	broken := intention("lost", "api", connect.Allow)
	broken.JWT = needs("", "broken")
	return Rules{
		Intentions: []connect.Intention{rule, shop, broken, intention("east/web", "api", connect.Allow), intention("*", "*", connect.Deny)},
		Protocol:   connect.HTTP,
		Providers: map[string]connect.JWTProvider{
			"okta":   {Name: "okta", Issuer: "https://okta", Audiences: []string{"api", "x"}, Locations: []connect.TokenLocation{{Header: "x-tok", ValuePrefix: "T "}}, Problem: "its keys were not fetched"},
			"cookie": {Name: "cookie", Issuer: "c", Locations: []connect.TokenLocation{{Cookie: "session"}}},
			"query":  {Name: "query", Issuer: "q", Locations: []connect.TokenLocation{{Query: "tok en"}}},
			"broken": {Name: "broken", Problem: "its config entry cannot be used"},
		},
	}
}

func TestExpectationsAreJudgedByTheProxysEvaluator(t *testing.T) {
	t.Parallel()
	for line, why := range map[string]string{
		"web -> api GET /no = deny":                                                   `denied by permission 1 of intention "web → api" (precedence 9)`,
		"web -> api GET /x/../no = deny intention_denied":                             "permission 1",
		"web -> api GET /%6eo = deny":                                                 "permission 1",
		"web -> api GET /no?x=y = deny":                                               "permission 1",
		"web -> api GET /any = allow":                                                 "allowed by permission 3",
		"web -> api GET /admin = deny jwt_invalid":                                    "no token found",
		`web -> api GET /admin with jwt okta {"role": "admin"} = allow`:               "allowed by permission 2",
		`web -> api GET /admin with jwt okta {"role": ["x", "admin"]} = allow`:        "allowed by permission 2",
		`web -> api GET /admin with jwt okta {"role": "user"} = deny jwt_invalid`:     `claim role is not "admin"`,
		`web -> api GET /admin with jwt okta {"role": "admin", "exp": 1} = deny`:      "the token expired",
		`web -> api GET /admin with jwt okta {"role": "admin", "aud": "z"} = deny`:    "audience",
		`web -> api GET /admin with jwt okta {"role": "admin", "iss": "evil"} = deny`: "issuer",
		`web -> api GET /admin with header authorization: Bearer x = deny`:            "no token found",
		`shop -> api GET /?a=b with jwt query {} = allow`:                             "allowed by intention",
		`shop -> api GET / with jwt query {} = allow`:                                 "allowed by intention",
		`shop -> api GET / with jwt cookie {} = allow`:                                "allowed by intention",
		`shop -> api GET / = deny jwt_invalid`:                                        "no token found",
		`lost -> api GET / with jwt broken {} = deny jwt_invalid`:                     "its config entry cannot be used",
		"east/web -> api GET / = allow":                                               `allowed by intention "east/web → api"`,
		"west/web -> api GET / = deny":                                                "not for callers of peers",
		"other -> api GET / = deny":                                                   `denied by intention "* → *" (precedence 5)`,
		"other -> api = deny":                                                         `"* → *"`,
		"web -> api GET /a%00 = deny request_invalid":                                 "refused",
	} {
		table, err := ParseTable("t", []byte(line))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		j, err := NewJudge(tokenRules(), table.Peers()...)
		if err != nil {
			t.Fatal(err)
		}
		v := j.Try(table.Expectations[0], noon())
		if !v.Held || !strings.Contains(v.Why, why) {
			t.Errorf("%s: held %v, reason %q: %s; want %q", line, v.Held, v.Reason, v.Why, why)
		}
		// The contrary does not hold.
		e := table.Expectations[0]
		e.Reason, e.Want = "", connect.Allow-e.Want
		if j.Try(e, noon()).Held {
			t.Errorf("%s: so does the contrary", line)
		}
	}
}

func TestWhatCannotBeSaidDoesNotHold(t *testing.T) {
	t.Parallel()
	for line, why := range map[string]string{
		"web -> api = deny":                           "that depends on the request",
		"web -> api = allow":                          "that depends on the request",
		"shop -> api = deny":                          "that depends on the request",
		"web -> api GET / with jwt {} = allow":        "whose token is it? write with jwt PROVIDER",
		"web -> api GET / with jwt nobody {} = allow": `there is no JWT provider "nobody"; there are broken, cookie`,
		"web -> api GET /no = deny jwt_invalid":       "permission 1",
		"other -> api GET / = deny jwt_invalid":       `"* → *"`,
	} {
		table, err := ParseTable("t", []byte(line))
		if err != nil {
			t.Fatal(err)
		}
		j, err := NewJudge(tokenRules())
		if err != nil {
			t.Fatal(err)
		}
		if v := j.Try(table.Expectations[0], noon()); v.Held || !strings.Contains(v.Why, why) {
			t.Errorf("%s: held %v: %s; want %q", line, v.Held, v.Why, why)
		}
	}
}

func TestServiceOfTCPIsJudgedByConnection(t *testing.T) {
	t.Parallel()
	r := tokenRules()
	r.Protocol = connect.TCP
	j, err := NewJudge(r)
	if err != nil {
		t.Fatal(err)
	}
	for line, why := range map[string]string{
		"web -> api = deny":       "its L7 permissions cannot be met by a TCP connection",
		"web -> api GET / = deny": "its L7 permissions cannot be met by a TCP connection",
		"shop -> api = deny":      "it asks for a JWT, which a TCP connection cannot carry",
	} {
		table, err := ParseTable("t", []byte(line))
		if err != nil {
			t.Fatal(err)
		}
		if v := j.Try(table.Expectations[0], noon()); !v.Held || !strings.Contains(v.Why, why) {
			t.Errorf("%s: held %v: %s; want %q", line, v.Held, v.Why, why)
		}
	}
}

// Redirecting is neither: the request does not arrive.
func TestRedirectedRequestIsNotAllowed(t *testing.T) {
	t.Parallel()
	r := tokenRules()
	r.Normalization.EscapedSlashes = connect.SlashRedirect
	j, err := NewJudge(r)
	if err != nil {
		t.Fatal(err)
	}
	table, err := ParseTable("t", []byte("web -> api GET /a%2fb = deny request_invalid"))
	if err != nil {
		t.Fatal(err)
	}
	if v := j.Try(table.Expectations[0], noon()); !v.Held || !strings.Contains(v.Why, "redirected to /a/b") {
		t.Errorf("held %v: %s", v.Held, v.Why)
	}
}
