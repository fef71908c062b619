// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package policy

import (
	"fmt"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/jwt"
)

// A Decision is the verdict on one caller or request, with what led to it. The
// zero Decision denies.
type Decision struct {
	Allowed bool
	// Reason is "" when allowed, else IntentionDenied or JWTInvalid.
	Reason     connect.Reason
	policy     *Policy            // nil for that of the nil Policy
	rule       *connect.Intention // nil when no rule covers the caller
	kind       kind
	index      int // of rule in the policy, from 1
	permission int
	note       string // what else there is to say, in words
	// Of the rule and of the permission; the zero Token where none was asked for.
	tokens [2]jwt.Token
}

// kind says who decided.
type kind uint8

const (
	byRule kind = iota
	byDefault
	byTrustDomain
	byNoPermission // the default, because no permission of the rule matched
)

func (d Decision) because(note string) Decision {
	d.note = note
	return d
}

// Intention names the rule that covers the caller, "web → api", "default policy"
// when none does, or "trust domain" for a caller of another mesh. The rule is
// named also where none of its permissions matched and the default decided: it
// is the one to look at, since no other was asked.
func (d Decision) Intention() string {
	switch {
	case d.rule != nil:
		return d.rule.String()
	case d.kind == byTrustDomain:
		return "trust domain"
	}
	return "default policy"
}

// Rule is the position of the rule that covers the caller among the policy's
// intentions, -1 when none does.
func (d Decision) Rule() int { return d.index - 1 }

// Precedence is Consul's precedence of the rule, 0 when no rule covers the
// caller.
func (d Decision) Precedence() int {
	if d.rule == nil {
		return 0
	}
	return d.rule.Precedence
}

// Permission is the position, from 1, of the rule's permission that matched the
// request, 0 when none did or the rule has none.
func (d Decision) Permission() int { return d.permission }

// Why is the verdict in words, for logs and explain. It holds nothing of a
// token but its key id, issuer, audience and times.
func (d Decision) Why() string {
	verdict := "denied"
	if d.Allowed {
		verdict = "allowed"
	}
	switch {
	case d.kind == byTrustDomain:
		return "denied: the caller is not of our trust domain"
	case d.kind == byNoPermission:
		return fmt.Sprintf("%s by the default policy: no permission of intention %q matches the request (precedence %d)", verdict, d.rule, d.rule.Precedence)
	case d.rule == nil && d.note != "":
		return fmt.Sprintf("%s: no intention covers the caller, and %s", verdict, d.note)
	case d.rule == nil:
		return verdict + " by the default policy: no intention covers the caller"
	}
	by := fmt.Sprintf("intention %q", d.rule)
	if d.permission > 0 {
		by = fmt.Sprintf("permission %d of %s", d.permission, by)
	}
	if d.note != "" {
		by += ": " + d.note
	}
	return fmt.Sprintf("%s by %s (precedence %d)", verdict, by, d.rule.Precedence)
}

// Edit makes an allowed request fit for the application. Fields that only a
// verified token may fill are removed, whoever sent them and whichever rule
// decided; then the tokens that were asked for are removed as their providers
// say, and their payloads forwarded (Consul, jwt-provider: forwarding). The path
// changes only where a token was in the query. h must be the head that was
// decided on.
//
// Only tokens that the deciding rule asks for are removed. Envoy removes those
// of every provider that any intention of the service names.
func (d Decision) Edit(h *connect.Head) {
	if d.policy == nil {
		return
	}
	if h.Header == nil {
		h.Header = connect.Header{}
	}
	d.policy.Strip(h.Header)
	for _, token := range d.tokens {
		token.Remove(h)
	}
	for _, token := range d.tokens {
		token.Forward(h.Header)
	}
}

// Strip removes the fields that only a verified token may fill, from requests
// that reach the application without being judged.
func (p *Policy) Strip(h connect.Header) {
	for _, field := range p.strip {
		delete(h, field)
	}
}
