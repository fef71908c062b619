// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package policy

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func at(path string) connect.RequestMatch {
	return connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: path}}
}

func get(path string) *connect.Head {
	return &connect.Head{Method: "GET", Scheme: "http", Authority: "api", Path: path, Header: connect.Header{}}
}

func httpPolicy(fallback connect.Action, rules ...connect.Intention) *Policy {
	return Compile(Settings{Intentions: connect.SortIntentions(rules), Default: fallback, TrustDomain: td, Protocol: connect.HTTP, Providers: providers()})
}

func TestRequestIsDecidedByTheFirstSourceAndItsFirstPermission(t *testing.T) {
	t.Parallel()
	l7 := intention("web", "api", 9, connect.Allow)
	l7.Permissions = []connect.Permission{
		{Action: connect.Deny, HTTP: at("/admin")},
		{Action: connect.Allow, HTTP: at("/a")},
	}
	every := intention("web", "api", 9, connect.Deny)
	every.Permissions = []connect.Permission{{Action: connect.Allow}}
	peer := l7
	peer.Source.Peer = "east"
	other := caller("web")
	other.TrustDomain = "99999999-2222-3333-4444-555555555555.consul"
	for _, tc := range []struct {
		name       string
		rules      []connect.Intention
		fallback   connect.Action
		caller     connect.Identity
		path       string
		allowed    bool
		by         string
		permission int
		why        string
	}{
		{"L4 allow", []connect.Intention{intention("web", "api", 9, connect.Allow)}, connect.Deny, caller("web"), "/", true, "web → api", 0, `allowed by intention "web → api" (precedence 9)`},
		{"L4 deny", []connect.Intention{intention("web", "api", 9, connect.Deny)}, connect.Allow, caller("web"), "/", false, "web → api", 0, `denied by intention "web → api" (precedence 9)`},
		{"first permission", []connect.Intention{l7}, connect.Deny, caller("web"), "/admin/x", false, "web → api", 1, `denied by permission 1 of intention "web → api" (precedence 9)`},
		{"second permission", []connect.Intention{l7}, connect.Deny, caller("web"), "/abc", true, "web → api", 2, `allowed by permission 2 of intention "web → api" (precedence 9)`},
		{"no permission, default deny", []connect.Intention{l7}, connect.Deny, caller("web"), "/x", false, "web → api", 0, `denied by the default policy: no permission of intention "web → api" matches the request (precedence 9)`},
		{"no permission, default allow", []connect.Intention{l7}, connect.Allow, caller("web"), "/x", true, "web → api", 0, `allowed by the default policy: no permission of intention "web → api" matches the request (precedence 9)`},
		{"no permission: lower rules are not asked", []connect.Intention{l7, intention("*", "api", 8, connect.Allow)}, connect.Deny, caller("web"), "/x", false, "web → api", 0, `denied by the default policy: no permission of intention "web → api" matches the request (precedence 9)`},
		{"a permission without HTTP is about every request", []connect.Intention{every}, connect.Deny, caller("web"), "/x", true, "web → api", 1, `allowed by permission 1 of intention "web → api" (precedence 9)`},
		{"another source", []connect.Intention{l7}, connect.Deny, caller("shop"), "/abc", false, "default policy", 0, "denied by the default policy: no intention covers the caller"},
		{"a source of a peer", []connect.Intention{peer}, connect.Deny, caller("web"), "/abc", false, "default policy", 0, "denied by the default policy: no intention covers the caller"},
		{"another trust domain", []connect.Intention{l7}, connect.Allow, other, "/abc", false, "trust domain", 0, "denied: the caller is not of our trust domain"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got := httpPolicy(tc.fallback, tc.rules...).AuthorizeRequest(tc.caller, get(tc.path), time.Time{})
			if got.Allowed != tc.allowed || got.Intention() != tc.by || got.Permission() != tc.permission || got.Why() != tc.why {
				t.Errorf("allowed=%v by %q, permission %d: %s\nwant allowed=%v by %q, permission %d: %s",
					got.Allowed, got.Intention(), got.Permission(), got.Why(), tc.allowed, tc.by, tc.permission, tc.why)
			}
			if want := map[bool]connect.Reason{false: connect.IntentionDenied}[tc.allowed]; got.Reason != want {
				t.Errorf("reason %q, want %q", got.Reason, want)
			}
		})
	}
}

func TestRulesForRequestsDenyWithoutRequests(t *testing.T) {
	t.Parallel()
	l7 := intention("web", "api", 9, connect.Allow)
	l7.Permissions = []connect.Permission{{Action: connect.Allow}}
	for _, protocol := range []connect.Protocol{"", connect.TCP, "udp"} {
		p := Compile(Settings{Intentions: []connect.Intention{l7}, Default: connect.Allow, TrustDomain: td, Protocol: protocol})
		if d := p.AuthorizeRequest(caller("web"), get("/"), time.Time{}); d.Allowed {
			t.Errorf("protocol %q: %s", protocol, d.Why())
		}
	}
	p := httpPolicy(connect.Allow, l7)
	if d := p.AuthorizeRequest(caller("web"), nil, time.Time{}); d.Allowed {
		t.Errorf("no request: %s", d.Why())
	}
	if d := p.Authorize(caller("web")); d.Allowed {
		t.Errorf("connection under a policy for HTTP: %s", d.Why())
	}
	var none *Policy
	if d := none.AuthorizeRequest(caller("web"), get("/"), time.Time{}); d.Allowed || none.Problems() != nil {
		t.Error("the nil Policy allows a request")
	}
	if d := (Decision{}); d.Allowed || !strings.HasPrefix(d.Why(), "denied") {
		t.Errorf("the zero Decision: %s", d.Why())
	}
}

// Leaving out what cannot be understood could drop the deny that stands before
// a broader allow.
func TestRuleThatCannotBeUnderstoodDeniesAndIsReported(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		match connect.RequestMatch
		want  string
	}{
		"path":    {connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchRegex, Value: "("}}, "permission 2"},
		"field":   {connect.RequestMatch{Headers: []connect.HeaderMatch{{Name: "x", Kind: connect.MatchRegex, Value: "(?=x)"}}}, "permission 2"},
		"kind":    {connect.RequestMatch{Headers: []connect.HeaderMatch{{Name: "x", Kind: "sounds_like", Value: "x"}}}, "permission 2"},
		"payload": {connect.RequestMatch{Headers: []connect.HeaderMatch{{Name: "x-PAYLOAD", Kind: connect.MatchPresent}}}, `permission 2: match header "x-PAYLOAD": it carries the payload`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := intention("web", "api", 9, connect.Deny)
			bad.Permissions = []connect.Permission{{Action: connect.Allow, HTTP: at("/a")}, {Action: connect.Deny, HTTP: tc.match}, {Action: connect.Allow}}
			good := intention("shop", "api", 9, connect.Allow)
			p := httpPolicy(connect.Allow, bad, good)
			problems := p.Problems()
			if len(problems) != 1 || !strings.HasPrefix(problems[0], `intention "web → api": permission 2: `) || !strings.Contains(problems[0], tc.want) {
				t.Fatalf("problems %q", problems)
			}
			for _, path := range []string{"/a", "/b"} {
				d := p.AuthorizeRequest(caller("web"), get(path), time.Time{})
				if d.Allowed || d.Reason != connect.IntentionDenied || !strings.Contains(d.Why(), tc.want) {
					t.Errorf("%s: %s", path, d.Why())
				}
			}
			if d := p.AuthorizeRequest(caller("shop"), get("/a"), time.Time{}); !d.Allowed {
				t.Errorf("another rule: %s", d.Why())
			}
		})
	}
}

func TestForgedPayloadNeverReachesTheApplication(t *testing.T) {
	t.Parallel()
	p := httpPolicy(connect.Allow, intention("web", "api", 9, connect.Allow))
	for _, source := range []string{"web", "stranger"} {
		h := get("/a?b")
		h.Header = connect.Header{"X-Payload": {"forged"}, "X-Other": {"a"}, "Authorization": {"Bearer x"}}
		sent := maps.Clone(h.Header)
		d := p.AuthorizeRequest(caller(source), h, time.Time{})
		if diff := cmp.Diff(sent, h.Header); diff != "" || !d.Allowed {
			t.Errorf("deciding changed the header (-want +got), or denied (%s):\n%s", d.Why(), diff)
		}
		d.Edit(h)
		if diff := cmp.Diff(connect.Header{"X-Other": {"a"}, "Authorization": {"Bearer x"}}, h.Header); diff != "" || h.Path != "/a?b" {
			t.Errorf("%s: path %s, header (-want +got):\n%s", source, h.Path, diff)
		}
	}
}

// thousand is a policy of many rules with permissions, the last of which are
// about most requests.
func thousand(b testing.TB) *Policy {
	b.Helper()
	var rules []connect.Intention
	for i := range 1000 {
		rule := intention(fmt.Sprintf("service-%d", i), "api", 9, connect.Allow)
		for n := range 9 {
			rule.Permissions = append(rule.Permissions, connect.Permission{Action: connect.Deny, HTTP: connect.RequestMatch{
				Path:    connect.PathMatch{Kind: connect.MatchPrefix, Value: fmt.Sprintf("/v1/part-%d/", n)},
				Methods: []string{"GET", "POST"},
				Headers: []connect.HeaderMatch{{Name: "x-role", Kind: connect.MatchExact, Value: "guest", IgnoreCase: n%2 == 0}},
			}})
		}
		rule.Permissions = append(rule.Permissions, connect.Permission{Action: connect.Allow, HTTP: at("/v1/")})
		rules = append(rules, rule)
	}
	return httpPolicy(connect.Deny, rules...)
}

func TestDecidingOnARequestAllocatesNothing(t *testing.T) {
	p := thousand(t)
	id, h := caller("service-997"), get("/v1/part-8/x?y=z")
	h.Header["X-Role"] = []string{"Owner"}
	for path, allowed := range map[string]bool{"/v1/part-8/x?y=z": true, "/v2": false} {
		h.Path = path
		if n := testing.AllocsPerRun(100, func() {
			if p.AuthorizeRequest(id, h, time.Time{}).Allowed != allowed {
				t.Error("wrong decision")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", path, n)
		}
	}
}

func BenchmarkAuthorizeRequest1000x10(b *testing.B) {
	p := thousand(b)
	id, h := caller("service-997"), get("/v1/part-8/x?y=z")
	h.Header["X-Role"] = []string{"Owner"}
	b.ReportAllocs()
	for b.Loop() {
		if !p.AuthorizeRequest(id, h, time.Time{}).Allowed {
			b.Fatal("denied")
		}
	}
}
