// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

const eastDomain = "99999999-2222-3333-4444-555555555555.consul"

// from is a caller that the roots of a peer have proved.
func from(peer, domain, service string) connect.Identity {
	id := caller(service)
	id.Peer, id.TrustDomain, id.Partition = peer, domain, "team"
	return id
}

// east is peer "east", which proves its callers.
func east() map[string]connect.Peer {
	return map[string]connect.Peer{"east": {Name: "east", Partition: "team", Bundle: &connect.TrustBundle{TrustDomain: eastDomain}}}
}

func TestCallersOfPeersAreLetInByRulesThatNameThePeer(t *testing.T) {
	t.Parallel()
	named := func(source string, action connect.Action) connect.Intention {
		i := intention(source, "api", map[bool]int{false: 9, true: 8}[source == "*"], action)
		i.Source.Peer = "east"
		return i
	}
	l7 := named("web", connect.Deny)
	l7.Permissions = []connect.Permission{{Action: connect.Allow, HTTP: at("/a")}}
	local, anyLocal := intention("web", "api", 9, connect.Allow), intention("*", "*", 5, connect.Allow)
	web := from("east", eastDomain, "web")
	for _, tc := range []struct {
		name     string
		rules    []connect.Intention
		peers    map[string]connect.Peer
		fallback connect.Action
		caller   connect.Identity
		allowed  bool
		why      string
	}{
		{"named", []connect.Intention{named("web", connect.Allow)}, east(), connect.Deny, web, true, `allowed by intention "east/web → api"`},
		{"named and denied", []connect.Intention{named("web", connect.Deny)}, east(), connect.Allow, web, false, `denied by intention "east/web → api"`},
		{"any of the peer", []connect.Intention{named("*", connect.Allow)}, east(), connect.Deny, web, true, `"east/* → api"`},
		{"one denied, any allowed", []connect.Intention{named("*", connect.Allow), named("web", connect.Deny)}, east(), connect.Deny, web, false, `"east/web → api"`},
		{"another service of the peer", []connect.Intention{named("shop", connect.Allow)}, east(), connect.Deny, web, false, "not for callers of peers"},
		{"a local rule of the same name", []connect.Intention{local}, east(), connect.Deny, web, false, "not for callers of peers"},
		{"a local wildcard", []connect.Intention{anyLocal}, east(), connect.Deny, web, false, "not for callers of peers"},
		{"the default does not let in", nil, east(), connect.Allow, web, false, "not for callers of peers"},
		{"a local caller under the peer's rule", []connect.Intention{named("web", connect.Allow)}, east(), connect.Deny, caller("web"), false, "no intention covers the caller"},
		{"another peer of that name's rule", []connect.Intention{named("web", connect.Allow)}, east(), connect.Deny, from("west", eastDomain, "web"), false, "not of our trust domain"},
		{"another trust domain", []connect.Intention{named("web", connect.Allow)}, east(), connect.Deny, from("east", "x.consul", "web"), false, "not of our trust domain"},
		{"our own trust domain", []connect.Intention{named("web", connect.Allow)}, east(), connect.Deny, from("east", td, "web"), false, "not of our trust domain"},
		{"a peer that is gone", []connect.Intention{named("web", connect.Allow)}, nil, connect.Allow, web, false, "not of our trust domain"},
		{"permission matches", []connect.Intention{l7}, east(), connect.Deny, web, true, "permission 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := Compile(Settings{Intentions: connect.SortIntentions(tc.rules), Default: tc.fallback, TrustDomain: td, Protocol: connect.HTTP, Peers: tc.peers})
			d := p.AuthorizeRequest(tc.caller, get("/abc"), time.Time{})
			if d.Allowed != tc.allowed || !strings.Contains(d.Why(), tc.why) {
				t.Errorf("allowed=%v: %s; want allowed=%v: %s", d.Allowed, d.Why(), tc.allowed, tc.why)
			}
			if len(tc.rules) == 1 && len(tc.rules[0].Permissions) > 0 {
				if d := p.AuthorizeRequest(tc.caller, get("/x"), time.Time{}); d.Allowed {
					t.Errorf("no permission: %s", d.Why())
				}
				return
			}
			if d := p.Authorize(tc.caller); d.Allowed != tc.allowed {
				t.Errorf("connection: allowed=%v: %s", d.Allowed, d.Why())
			}
		})
	}
}

// Under a default of allow, a request that no permission of a peer's rule is
// about must not come in by the default either.
func TestDefaultDoesNotLetInWhatNoPermissionOfAPeersRuleIsAbout(t *testing.T) {
	t.Parallel()
	rule := intention("web", "api", 9, connect.Deny)
	rule.Source.Peer = "east"
	rule.Permissions = []connect.Permission{{Action: connect.Deny, HTTP: at("/admin")}}
	p := Compile(Settings{Intentions: []connect.Intention{rule}, Default: connect.Allow, TrustDomain: td, Protocol: connect.HTTP, Peers: east()})
	if d := p.AuthorizeRequest(from("east", eastDomain, "web"), get("/x"), time.Time{}); d.Allowed {
		t.Error(d.Why())
	}
}

func TestPeersThatCannotBeRecognisedAreReported(t *testing.T) {
	t.Parallel()
	rule := intention("web", "api", 9, connect.Allow)
	rule.Source.Peer = "east"
	for why, peers := range map[string]map[string]connect.Peer{
		"its trust bundle has not been heard of yet": nil,
		"the peering has been ended":                 {"east": {Name: "east", Problem: "the peering has been ended"}},
		"":                                           east(),
	} {
		p := Compile(Settings{Intentions: []connect.Intention{rule}, TrustDomain: td, Peers: peers})
		text := strings.Join(p.Problems(), "\n")
		if want := why != ""; strings.Contains(text, `intention "east/web → api": callers of peer "east" cannot be recognised and are denied: `+why) != want {
			t.Errorf("%q: problems %q", why, text)
		}
	}
}
