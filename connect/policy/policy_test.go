// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

const td = "11111111-2222-3333-4444-555555555555.consul"

func caller(service string) connect.Identity {
	return connect.Identity{TrustDomain: td, Partition: "default", Namespace: "default", Datacenter: "dc1", Service: service}
}

func intention(src, dst string, precedence int, action connect.Action) connect.Intention {
	return connect.Intention{
		Source:      connect.Source{Partition: "default", Namespace: "default", Name: src},
		Destination: dst, Namespace: "default", Precedence: precedence, Action: action,
	}
}

func TestFirstMatchingSourceByPrecedenceDecides(t *testing.T) {
	l7 := intention("web", "api", 9, connect.Allow)
	l7.Permissions = []connect.Permission{{Action: connect.Allow}}
	jwt := intention("web", "api", 9, connect.Allow)
	jwt.JWT = &connect.JWTRequirement{Providers: []connect.JWTClaims{{Provider: "okta"}}}
	peer := intention("web", "api", 9, connect.Allow)
	peer.Source.Peer = "east"
	partition := intention("*", "api", 8, connect.Allow)
	partition.Source.Partition = "other"
	anyNamespace := intention("*", "api", 7, connect.Allow)
	anyNamespace.Source.Namespace = "*"

	other := caller("web")
	other.TrustDomain = "99999999-2222-3333-4444-555555555555.consul"
	remote := caller("web")
	remote.Datacenter = "dc9"

	for _, tc := range []struct {
		name     string
		rules    []connect.Intention
		fallback connect.Action
		caller   connect.Identity
		allowed  bool
		by       string
		reason   connect.Reason
	}{
		{"nothing matches, default deny", nil, connect.Deny, caller("web"), false, "default policy", connect.IntentionDenied},
		{"nothing matches, default allow", nil, connect.Allow, caller("web"), true, "default policy", ""},
		{"exact allow under default deny", []connect.Intention{intention("web", "api", 9, connect.Allow)}, connect.Deny, caller("web"), true, "web → api", ""},
		{"exact deny under default allow", []connect.Intention{intention("web", "api", 9, connect.Deny)}, connect.Allow, caller("web"), false, "web → api", connect.IntentionDenied},
		{"exact source before any source", []connect.Intention{intention("*", "api", 8, connect.Deny), intention("web", "api", 9, connect.Allow)}, connect.Deny, caller("web"), true, "web → api", ""},
		{"any source for the others", []connect.Intention{intention("*", "api", 8, connect.Deny), intention("web", "api", 9, connect.Allow)}, connect.Allow, caller("shop"), false, "* → api", connect.IntentionDenied},
		{"any source on this service before exact source on all services", []connect.Intention{intention("web", "*", 6, connect.Allow), intention("*", "api", 8, connect.Deny)}, connect.Allow, caller("web"), false, "* → api", connect.IntentionDenied},
		{"exact source on all services before any source on all", []connect.Intention{intention("*", "*", 5, connect.Deny), intention("web", "*", 6, connect.Allow)}, connect.Deny, caller("web"), true, "web → *", ""},
		{"same source twice: the more specific destination counts", []connect.Intention{intention("web", "*", 6, connect.Allow), intention("web", "api", 9, connect.Deny)}, connect.Allow, caller("web"), false, "web → api", connect.IntentionDenied},
		{"L7 permissions on TCP deny", []connect.Intention{l7}, connect.Allow, caller("web"), false, "web → api", connect.IntentionDenied},
		{"a token requirement on TCP denies", []connect.Intention{jwt}, connect.Allow, caller("web"), false, "web → api", connect.JWTInvalid},
		{"a rule for a peer does not cover a local caller", []connect.Intention{peer}, connect.Deny, caller("web"), false, "default policy", connect.IntentionDenied},
		{"a wildcard does not cross partitions", []connect.Intention{partition}, connect.Deny, caller("web"), false, "default policy", connect.IntentionDenied},
		{"a wildcard namespace covers any namespace", []connect.Intention{anyNamespace}, connect.Deny, caller("web"), true, "* → api", ""},
		{"another trust domain is never allowed", []connect.Intention{intention("*", "*", 5, connect.Allow)}, connect.Allow, other, false, "trust domain", connect.IntentionDenied},
		{"the caller's datacenter does not matter", []connect.Intention{intention("web", "api", 9, connect.Allow)}, connect.Deny, remote, true, "web → api", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := Compile(Settings{Intentions: connect.SortIntentions(tc.rules), Default: tc.fallback, TrustDomain: td, Protocol: connect.TCP})
			got := p.Authorize(tc.caller)
			if got.Allowed != tc.allowed || got.Intention() != tc.by || got.Reason != tc.reason {
				t.Errorf("got %+v by %q, want allowed=%v by %q, reason %q", got, got.Intention(), tc.allowed, tc.by, tc.reason)
			}
			verdict := map[bool]string{true: "allowed", false: "denied"}[tc.allowed]
			if why := got.Why(); !strings.HasPrefix(why, verdict) || strings.Contains(why, "%!") || (got.Precedence() > 0 && !strings.Contains(why, tc.by)) {
				t.Errorf("why: %s", why)
			}
		})
	}
}

// The compiled lookup must agree with the plain reading of the rule: walk in
// order, take the first that covers the caller.
func TestLookupAgreesWithWalk(t *testing.T) {
	names := []string{"*", "a", "b", "c"}
	var rules []connect.Intention
	for _, src := range names {
		for _, dst := range []string{"api", "*"} {
			precedence := map[[2]bool]int{{false, false}: 9, {true, false}: 8, {false, true}: 6, {true, true}: 5}[[2]bool{src == "*", dst == "*"}]
			rules = append(rules, intention(src, dst, precedence, connect.Allow))
		}
	}
	for mask := range 1 << len(rules) {
		var some []connect.Intention
		for i, r := range rules {
			if mask&(1<<i) != 0 {
				r.Action = connect.Action(i % 2)
				some = append(some, r)
			}
		}
		some = connect.SortIntentions(some)
		p := Compile(Settings{Intentions: some, TrustDomain: td})
		for _, name := range []string{"a", "b", "d"} {
			want := "default policy"
			for _, r := range some {
				if r.Source.Covers(caller(name)) {
					want = r.String()
					break
				}
			}
			if got := p.Authorize(caller(name)).Intention(); got != want {
				t.Fatalf("rules %v, caller %s: decided by %q, want %q", some, name, got, want)
			}
		}
	}
}

func TestNilPolicyDenies(t *testing.T) {
	var p *Policy
	if d := p.Authorize(caller("web")); d.Allowed || d.Reason != connect.IntentionDenied {
		t.Errorf("nil policy said %+v", d)
	}
}

func BenchmarkAuthorize1000(b *testing.B) {
	var rules []connect.Intention
	for i := range 998 {
		rules = append(rules, intention(fmt.Sprintf("service-%d", i), "api", 9, connect.Allow))
	}
	rules = append(rules, intention("*", "api", 8, connect.Deny), intention("*", "*", 5, connect.Allow))
	p := Compile(Settings{Intentions: connect.SortIntentions(rules), TrustDomain: td})
	for _, name := range []string{"service-0", "service-997", "stranger"} {
		b.Run(name, func(b *testing.B) {
			id := caller(name)
			b.ReportAllocs()
			for b.Loop() {
				if d := p.Authorize(id); d.Allowed && d.Reason != "" {
					b.Fatal("contradiction")
				}
			}
		})
	}
}
