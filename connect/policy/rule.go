// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package policy

import (
	"errors"
	"fmt"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/jwt"
	"github.com/outrider-mesh/outrider/connect/request"
)

// A rule is one intention made ready.
type rule struct {
	policy      *Policy
	intention   *connect.Intention
	index       int      // in the policy, from 1
	connection  Decision // on a connection, whatever is sent over it
	permissions []permission
	token       *requirement // nil when the rule asks for none
	broken      string       // why the rule denies every request; "" when it works
}

type permission struct {
	match *request.Matcher
	allow bool
	token *requirement // nil when the permission asks for none
}

// compileRule makes an intention ready, for requests only where the policy is
// for HTTP.
func (p *Policy) compileRule(i *connect.Intention, index int, verifiers map[string]*jwt.Verifier) rule {
	r := rule{policy: p, intention: i, index: index}
	switch {
	case len(i.Permissions) > 0:
		r.connection = r.decide(false, 0).because("its L7 permissions cannot be met by a TCP connection")
	case i.JWT != nil:
		r.connection = r.decide(false, 0).because("it asks for a JWT, which a TCP connection cannot carry")
		r.connection.Reason = connect.JWTInvalid
	default:
		r.connection = r.decide(i.Action == connect.Allow, 0)
	}
	if !p.http {
		return r
	}
	r.token = p.compileRequirement(i, i.JWT, verifiers)
	for n, wanted := range i.Permissions {
		match, err := request.Compile(wanted.HTTP)
		if field := p.forged(wanted.HTTP); err == nil && field != "" {
			err = fmt.Errorf("match header %q: it carries the payload of verified tokens, so callers cannot be told by it", field)
		}
		if err != nil && r.broken == "" {
			r.broken = p.report(i, "permission %d: %v: everything is denied until it is mended", n+1, err)
		}
		r.permissions = append(r.permissions, permission{
			match: match, allow: wanted.Action == connect.Allow,
			token: p.compileRequirement(i, wanted.JWT, verifiers),
		})
	}
	return r
}

// forged returns the first field of a match that is for payloads of verified
// tokens. Whatever stands in it when the match is made comes from the caller;
// Envoy, which verifies before it matches, would find the payload there.
func (p *Policy) forged(m connect.RequestMatch) string {
	for _, h := range m.Headers {
		if slices.Contains(p.strip, textproto.CanonicalMIMEHeaderKey(h.Name)) {
			return h.Name
		}
	}
	return ""
}

// match returns the position from 1 of the first permission that is about the
// request, 0 for none.
func (r *rule) match(h *connect.Head) int {
	for i := range r.permissions {
		if r.permissions[i].match.Matches(h) {
			return i + 1
		}
	}
	return 0
}

func (r *rule) decide(allowed bool, permission int) Decision {
	d := Decision{policy: r.policy, Allowed: allowed, rule: r.intention, index: r.index, permission: permission}
	if !allowed {
		d.Reason = connect.IntentionDenied
	}
	return d
}

// checkTokens denies what would be allowed where a token is asked for and not
// there.
func (r *rule) checkTokens(d Decision, h *connect.Head, now time.Time) Decision {
	asked := [len(d.tokens)]*requirement{r.token}
	if d.permission > 0 {
		asked[1] = r.permissions[d.permission-1].token
	}
	for i, requirement := range asked {
		if requirement == nil {
			continue
		}
		token, err := requirement.meet(h, now)
		if err != nil {
			denied := r.decide(false, d.permission).because("its JWT requirement is not met: " + err.Error())
			denied.Reason = connect.JWTInvalid
			return denied
		}
		d.tokens[i] = token
	}
	return d
}

// A requirement is met by a token of any of its providers.
type requirement struct{ providers []provider }

type provider struct {
	name     string
	verifier *jwt.Verifier // nil when the provider is not known
	claims   []connect.JWTClaim
}

// compileRequirement returns nil when no token is asked for. One that nothing
// can meet is kept, and reported: it denies.
func (p *Policy) compileRequirement(i *connect.Intention, wanted *connect.JWTRequirement, verifiers map[string]*jwt.Verifier) *requirement {
	if wanted == nil {
		return nil
	}
	out := &requirement{}
	for _, one := range wanted.Providers {
		v := verifiers[one.Provider]
		if problem := v.Problem(); problem != "" {
			p.report(i, "no token of JWT provider %q can be verified: %s", one.Provider, problem)
		}
		out.providers = append(out.providers, provider{one.Provider, v, one.Claims})
	}
	if len(out.providers) == 0 {
		p.report(i, "it asks for a JWT but names no provider, so it denies")
	}
	return out
}

// meet returns the first token that meets the requirement, or why none does.
func (q *requirement) meet(h *connect.Head, now time.Time) (jwt.Token, error) {
	var why []string
	for _, one := range q.providers {
		token, err := one.verifier.Verify(h, now)
		if err == nil {
			err = token.Meets(one.claims)
		}
		if err == nil {
			return token, nil
		}
		why = append(why, fmt.Sprintf("provider %q: %v", one.name, err))
	}
	if len(why) == 0 {
		return jwt.Token{}, errors.New("it names no provider")
	}
	return jwt.Token{}, errors.New(strings.Join(why, "; "))
}
