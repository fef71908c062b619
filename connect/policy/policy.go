// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package policy turns intentions into decisions. It decides from values alone:
// no clock, no I/O, and no knowledge of where intentions come from.
package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/jwt"
)

// Settings are what a policy is made of.
type Settings struct {
	// Intentions are in the order of [connect.SortIntentions]. The policy keeps
	// them, so nobody may change them afterwards.
	Intentions []connect.Intention
	// Default decides where no intention does; its zero value denies.
	Default     connect.Action
	TrustDomain string // callers of any other are denied, unless they are of a peer
	// Peers are found by the name under which intentions refer to them. Rules on
	// callers of one that is missing or proves nobody cover nobody, and its
	// callers are denied.
	Peers map[string]connect.Peer
	// Protocol is the service's own. Only with one that speaks HTTP can
	// permissions and tokens be met.
	Protocol connect.Protocol
	// Providers are found by the name under which intentions refer to them. What
	// a caller sends in the forwarding header of any of them is not passed on.
	Providers map[string]connect.JWTProvider
}

// A Policy answers who may open a connection to one service and make which
// requests. It is immutable and safe for concurrent use; the nil Policy denies
// everyone.
type Policy struct {
	trustDomain string
	peers       map[string]string // trust domains of those that prove their callers, by name
	http        bool
	exact       map[source]int // rules for one exact source, by position
	wild        []int          // positions of rules with a wildcard, ascending
	rules       []rule
	fallback    Decision
	stranger    Decision // the fallback for callers of peers
	strip       []string // fields that only a verified token may fill
	problems    []string
}

// source is what an exact rule is found by.
type source struct{ peer, partition, namespace, name string }

// Compile builds the policy of one service. The first intention whose source
// covers the caller decides, then the default (Consul, service intentions:
// precedence). The default lets in nobody of a peer, whatever it says: who is
// exported what is not known here, so that only a rule which names the peer can
// be meant for its callers. A rule that cannot be understood, whose regular expression is no RE2 say, is not left out: it
// denies whoever it covers, and Problems names it.
func Compile(s Settings) *Policy {
	p := &Policy{
		trustDomain: s.TrustDomain,
		http:        s.Protocol.Speaks(),
		exact:       make(map[source]int, len(s.Intentions)),
		rules:       make([]rule, len(s.Intentions)),
	}
	p.fallback = Decision{policy: p, Allowed: s.Default == connect.Allow, kind: byDefault}
	if !p.fallback.Allowed {
		p.fallback.Reason = connect.IntentionDenied
	}
	p.stranger = Decision{policy: p, kind: byDefault, Reason: connect.IntentionDenied, note: "the default policy is not for callers of peers"}
	p.peers = make(map[string]string, len(s.Peers))
	for name, peer := range s.Peers {
		if peer.Proves() {
			p.peers[name] = peer.Bundle.TrustDomain
		}
	}
	verifiers := make(map[string]*jwt.Verifier, len(s.Providers))
	for name, provider := range s.Providers {
		v := jwt.Compile(provider)
		verifiers[name] = v
		if field := v.ForwardHeader(); field != "" && !slices.Contains(p.strip, field) {
			p.strip = append(p.strip, field)
		}
	}
	slices.Sort(p.strip)
	for i := range s.Intentions {
		p.rules[i] = p.compileRule(&s.Intentions[i], i+1, verifiers)
		p.checkPeer(&s.Intentions[i], s.Peers)
		p.index(i, s.Intentions[i].Source)
	}
	return p
}

func (p *Policy) index(i int, s connect.Source) {
	switch {
	case s.Name == connect.Wildcard || s.Namespace == connect.Wildcard:
		p.wild = append(p.wild, i)
	default:
		key := source{s.Peer, s.Partition, s.Namespace, s.Name}
		if s.Peer != "" {
			key.partition = "" // as in Source.Covers
		}
		if _, taken := p.exact[key]; !taken {
			p.exact[key] = i
		}
	}
}

// checkPeer reports a rule that covers nobody for want of the peer's roots.
func (p *Policy) checkPeer(i *connect.Intention, peers map[string]connect.Peer) {
	name := i.Source.Peer
	if _, proves := p.peers[name]; name == "" || proves {
		return
	}
	why := "its trust bundle has not been heard of yet"
	if peer, known := peers[name]; known && peer.Problem != "" {
		why = peer.Problem
	}
	p.report(i, "callers of peer %q cannot be recognised and are denied: %s", name, why)
}

// Problems says which rules deny although they were meant to do something else,
// and which tokens cannot be verified for now, one sentence each, for logs and
// status.
func (p *Policy) Problems() []string {
	if p == nil {
		return nil
	}
	return slices.Clone(p.problems)
}

func (p *Policy) report(i *connect.Intention, format string, args ...any) string {
	problem := fmt.Sprintf(format, args...)
	if sentence := fmt.Sprintf("intention %q: %s", i, problem); !slices.Contains(p.problems, sentence) {
		p.problems = append(p.problems, sentence)
	}
	return problem
}

// Authorize decides on a connection of a caller whose identity TLS has proved.
// A rule with L7 permissions, or one that asks for a token, cannot be satisfied
// by a connection alone and denies; that is so whatever the protocol. It
// allocates nothing.
func (p *Policy) Authorize(caller connect.Identity) Decision {
	r, d := p.find(caller)
	if r == nil {
		return d
	}
	return r.connection
}

// AuthorizeRequest decides on one request, normalised, of a caller whose
// identity TLS has proved, at now. It does not change h: once the request is
// allowed, [Decision.Edit] must. It allocates nothing, except for tokens,
// regular expressions and repeated fields.
//
// The first rule whose source covers the caller decides. With permissions, the
// first whose HTTP part matches gives the action; none means the default. Lower
// rules are not asked (Consul, service intentions: permissions). What is allowed
// so must still meet the rule's own token requirement and the permission's.
//
// Where Consul configures Envoy in another way, this is stricter:
//   - A request without the token that is asked for is denied. Envoy falls back
//     to the default policy, so under a default of allow it asks for no token.
//   - A deny holds with or without a token: leaving the token out does not
//     escape a deny that asks for one.
//   - Under a policy for TCP, rules for requests deny.
//
// Permissions match the request as it came, tokens included; Envoy has removed
// the tokens that it could verify by then.
func (p *Policy) AuthorizeRequest(caller connect.Identity, h *connect.Head, now time.Time) Decision {
	r, d := p.find(caller)
	switch {
	case r == nil:
		return d
	case !p.http || h == nil:
		return r.connection
	case r.broken != "":
		return r.decide(false, 0).because(r.broken)
	}
	permission := r.match(h)
	switch {
	case permission > 0:
		d = r.decide(r.permissions[permission-1].allow, permission)
	case len(r.permissions) > 0:
		d = p.fallbackFor(caller)
		d.rule, d.index, d.kind = r.intention, r.index, byNoPermission
	default:
		d = r.decide(r.intention.Action == connect.Allow, 0)
	}
	if !d.Allowed {
		return d
	}
	return r.checkTokens(d, h, now)
}

// find returns the rule that decides on a caller, or nil and the decision when
// no rule does.
func (p *Policy) find(caller connect.Identity) (*rule, Decision) {
	if p == nil || !p.ours(caller) {
		return nil, Decision{policy: p, Reason: connect.IntentionDenied, kind: byTrustDomain}
	}
	key := source{caller.Peer, caller.Partition, caller.Namespace, caller.Service}
	if caller.Peer != "" {
		key.partition = ""
	}
	best, found := p.exact[key]
	for _, i := range p.wild {
		if found && best < i {
			break
		}
		if p.rules[i].intention.Source.Covers(caller) {
			best, found = i, true
			break
		}
	}
	if !found {
		return nil, p.fallbackFor(caller)
	}
	return &p.rules[best], Decision{}
}

// ours reports whether the caller is of a trust domain that may be let in: our
// own, or for a caller of a peer the peer's.
func (p *Policy) ours(caller connect.Identity) bool {
	if caller.Peer == "" {
		return caller.TrustDomain == p.trustDomain
	}
	domain, known := p.peers[caller.Peer]
	return known && domain == caller.TrustDomain
}

func (p *Policy) fallbackFor(caller connect.Identity) Decision {
	if caller.Peer != "" {
		return p.stranger
	}
	return p.fallback
}
