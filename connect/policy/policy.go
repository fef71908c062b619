// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package policy turns intentions into decisions. It decides from values alone:
// no clock, no I/O, and no knowledge of where intentions come from.
package policy

import (
	"fmt"

	"github.com/outrider-mesh/outrider/connect"
)

// A Decision is the verdict on one caller, with what led to it.
type Decision struct {
	Allowed bool
	// Reason is "" when allowed, else IntentionDenied or JWTInvalid.
	Reason connect.Reason
	rule   *connect.Intention // nil when no rule decided
	why    string             // in words, with %q for the rule
}

// Intention names the rule that decided, "web → api", "default policy" when no
// rule covers the caller, or "trust domain" for a caller of another mesh.
func (d Decision) Intention() string {
	switch {
	case d.rule != nil:
		return d.rule.String()
	case d.why == foreign:
		return "trust domain"
	}
	return "default policy"
}

// Precedence is Consul's precedence of the rule, 0 when no rule decided.
func (d Decision) Precedence() int {
	if d.rule == nil {
		return 0
	}
	return d.rule.Precedence
}

// Why is the verdict in words, for logs and explain.
func (d Decision) Why() string {
	if d.rule == nil {
		return d.why
	}
	return fmt.Sprintf(d.why, d.rule) + fmt.Sprintf(" (precedence %d)", d.rule.Precedence)
}

const foreign = "denied: the caller is not of our trust domain"

// A Policy answers who may open a connection to one service. It is immutable
// and safe for concurrent use; the nil Policy denies everyone.
type Policy struct {
	trustDomain string
	exact       map[source]int // rules for one exact source, by position
	wild        []int          // positions of rules with a wildcard, ascending
	sources     []connect.Source
	decisions   []Decision // one per rule, made once so that deciding allocates nothing
	fallback    Decision
}

// source is what an exact rule is found by.
type source struct{ partition, namespace, name string }

// Compile builds the policy of a service that takes TCP connections.
// intentions, which it keeps, must be in the order of
// [connect.SortIntentions]; the first whose
// source covers the caller decides, then the default (Consul, service
// intentions: precedence). A rule with L7 permissions, or one that asks for a
// token, cannot be satisfied by a TCP connection and denies. Rules for sources
// of peers cover nobody here.
func Compile(intentions []connect.Intention, fallback connect.Action, trustDomain string) *Policy {
	p := &Policy{
		trustDomain: trustDomain,
		exact:       make(map[source]int, len(intentions)),
		sources:     make([]connect.Source, len(intentions)),
		decisions:   make([]Decision, len(intentions)),
		fallback:    defaultDecision(fallback),
	}
	for i := range intentions {
		rule := &intentions[i]
		p.sources[i], p.decisions[i] = rule.Source, decide(rule)
		p.index(i, rule.Source)
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

// Authorize decides on a caller whose identity TLS has proved. It allocates
// nothing.
func (p *Policy) Authorize(caller connect.Identity) Decision {
	if p == nil || caller.TrustDomain != p.trustDomain {
		return Decision{Reason: connect.IntentionDenied, why: foreign}
	}
	best, found := p.exact[source{caller.Partition, caller.Namespace, caller.Service}]
	for _, i := range p.wild {
		if found && best < i {
			break
		}
		if p.sources[i].Covers(caller) {
			best, found = i, true
			break
		}
	}
	if !found {
		return p.fallback
	}
	return p.decisions[best]
}

func decide(rule *connect.Intention) Decision {
	switch {
	case len(rule.Permissions) > 0:
		return Decision{rule: rule, Reason: connect.IntentionDenied, why: "denied by intention %q: its L7 permissions cannot be met by a TCP connection"}
	case rule.JWT != nil:
		return Decision{rule: rule, Reason: connect.JWTInvalid, why: "denied by intention %q: it asks for a JWT, which a TCP connection cannot carry"}
	case rule.Action == connect.Allow:
		return Decision{rule: rule, Allowed: true, why: "allowed by intention %q"}
	}
	return Decision{rule: rule, Reason: connect.IntentionDenied, why: "denied by intention %q"}
}

func defaultDecision(action connect.Action) Decision {
	if action == connect.Allow {
		return Decision{Allowed: true, why: "allowed by the default policy: no intention covers the caller"}
	}
	return Decision{Reason: connect.IntentionDenied, why: "denied by the default policy: no intention covers the caller"}
}
