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
	TrustDomain string // callers of any other are denied
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
	http        bool
	exact       map[source]int // rules for one exact source, by position
	wild        []int          // positions of rules with a wildcard, ascending
	rules       []rule
	fallback    Decision
	strip       []string // fields that only a verified token may fill
	problems    []string
}

// source is what an exact rule is found by.
type source struct{ partition, namespace, name string }

// Compile builds the policy of one service. The first intention whose source
// covers the caller decides, then the default (Consul, service intentions:
// precedence). Rules for sources of peers cover nobody here. A rule that cannot
// be understood, whose regular expression is no RE2 say, is not left out: it
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
		p.rules[i] = p.compileRule(&s.Intentions[i], verifiers)
		p.index(i, s.Intentions[i].Source)
	}
	return p
}

func (p *Policy) index(i int, s connect.Source) {
	switch {
	case s.Peer != "":
	case s.Name == connect.Wildcard || s.Namespace == connect.Wildcard:
		p.wild = append(p.wild, i)
	default:
		key := source{s.Partition, s.Namespace, s.Name}
		if _, taken := p.exact[key]; !taken {
			p.exact[key] = i
		}
	}
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
		d = p.fallback
		d.rule, d.kind = r.intention, byNoPermission
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
	if p == nil || caller.TrustDomain != p.trustDomain {
		return nil, Decision{policy: p, Reason: connect.IntentionDenied, kind: byTrustDomain}
	}
	best, found := p.exact[source{caller.Partition, caller.Namespace, caller.Service}]
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
		return nil, p.fallback
	}
	return &p.rules[best], Decision{}
}
