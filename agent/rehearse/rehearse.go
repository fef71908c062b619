// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package rehearse says what intentions would decide without anybody calling: on
// the lines of a table, on the calls that were seen, and which intentions those
// calls would need. It asks the evaluator that the proxy asks, and must not
// read files or Consul, nor change anything.
package rehearse

import (
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/policy"
	"github.com/outrider-mesh/outrider/connect/request"
)

// Rules are what decides on the calls of one service.
type Rules struct {
	// Intentions are in any order; those that others of the same source stand
	// before may be among them.
	Intentions    []connect.Intention
	Default       connect.Action
	DefaultFrom   string // how Default was learnt, for people
	Protocol      connect.Protocol
	Normalization connect.Normalization
	Providers     map[string]connect.JWTProvider
}

// trustDomain is that of every caller in a rehearsal.
const trustDomain = "rehearsal.consul"

// A Judge rehearses calls of one service.
type Judge struct {
	rules      Rules
	intentions []connect.Intention // as they are evaluated
	policy     *policy.Policy
	mint       *mint
	tokens     bool // some intention asks for one; else none is looked at
}

// NewJudge compiles rules. peers are the names of peers that callers are of,
// besides those that the rules name: each proves its callers here.
func NewJudge(r Rules, peers ...string) (*Judge, error) {
	m, err := newMint()
	if err != nil {
		return nil, err
	}
	j := &Judge{rules: r, mint: m, intentions: connect.SortIntentions(slices.Clone(r.Intentions))}
	known := map[string]connect.Peer{}
	for _, i := range j.intentions {
		peers = append(peers, i.Source.Peer)
	}
	for _, name := range peers {
		if name != "" {
			known[name] = connect.Peer{Name: name, Partition: connect.DefaultName, Bundle: &connect.TrustBundle{TrustDomain: domainOf(name)}}
		}
	}
	asked := j.asked()
	j.tokens = len(asked) > 0
	j.policy = policy.Compile(policy.Settings{
		Intentions: j.intentions, Default: r.Default, TrustDomain: trustDomain, Peers: known,
		Protocol: r.Protocol, Providers: m.believed(r.Providers, asked),
	})
	return j, nil
}

// asked are the names of the providers whose tokens intentions ask for, which
// are those that the proxy knows. One that is not there is among them.
func (j *Judge) asked() map[string]bool {
	names := map[string]bool{}
	add := func(r *connect.JWTRequirement) {
		if r != nil {
			for _, p := range r.Providers {
				names[p.Provider] = true
			}
		}
	}
	for _, i := range j.intentions {
		add(i.JWT)
		for _, p := range i.Permissions {
			add(p.JWT)
		}
	}
	return names
}

func domainOf(peer string) string {
	if peer == "" {
		return trustDomain
	}
	return peer + ".peer"
}

// Problems are sentences on rules that deny although they were meant to do
// something else.
func (j *Judge) Problems() []string { return j.policy.Problems() }

// caller is a service of a peer, or of ours for "".
func caller(peer, service string) connect.Identity {
	return connect.Identity{
		TrustDomain: domainOf(peer), Peer: peer, Service: service,
		Partition: connect.DefaultName, Namespace: connect.DefaultName, Datacenter: "rehearsal",
	}
}

// rule returns the intention that decides on a caller, nil for none.
func (j *Judge) rule(id connect.Identity) *connect.Intention {
	for i := range j.intentions {
		if j.intentions[i].Source.Covers(id) {
			return &j.intentions[i]
		}
	}
	return nil
}

// An outcome is what becomes of a call.
type outcome struct {
	allowed   bool
	reason    connect.Reason // "" when allowed
	why       string
	intention string // that decided
}

func decided(d policy.Decision) outcome {
	return outcome{allowed: d.Allowed, reason: d.Reason, why: d.Why(), intention: d.Intention()}
}

// connection decides on a connection whose requests are not told apart.
func (j *Judge) connection(id connect.Identity) outcome { return decided(j.policy.Authorize(id)) }

// request decides on a request as it comes; h is changed.
func (j *Judge) request(id connect.Identity, h *connect.Head, now time.Time) outcome {
	switch o := request.Normalize(j.rules.Normalization, h); {
	case o.Location != "":
		return outcome{reason: connect.RequestInvalid, why: "not passed on but redirected to " + o.Location + ": " + o.Why}
	case o.Status != 0:
		return outcome{reason: connect.RequestInvalid, why: "refused: " + o.Why}
	}
	return decided(j.policy.AuthorizeRequest(id, h, now))
}

// A Verdict is what became of one expectation.
type Verdict struct {
	Expectation Expectation
	Held        bool
	Allowed     bool
	Reason      connect.Reason // "" when allowed
	Why         string
}

// Try says whether an expectation holds at now.
func (j *Judge) Try(e Expectation, now time.Time) Verdict {
	v := Verdict{Expectation: e}
	o, err := j.play(e, now)
	if err != nil {
		v.Why = err.Error()
		return v
	}
	v.Allowed, v.Reason, v.Why = o.allowed, o.reason, o.why
	v.Held = o.allowed == (e.Want == connect.Allow) && (e.Reason == "" || e.Reason == o.reason)
	return v
}

// play has an expectation's call judged. The error says why it has no answer.
func (j *Judge) play(e Expectation, now time.Time) (outcome, error) {
	id := caller(e.Peer, e.Source)
	if e.Method == "" {
		r := j.rule(id)
		if j.rules.Protocol.Speaks() && r != nil && (len(r.Permissions) > 0 || r.JWT != nil) {
			return outcome{}, fmt.Errorf("that depends on the request, which intention %q looks at: write a method and a path, as in GET /", r)
		}
		return j.connection(id), nil
	}
	h := &connect.Head{Method: e.Method, Scheme: "http", Authority: e.Authority, Path: e.Path, Header: connect.Header{}}
	if h.Authority == "" {
		h.Authority = e.Destination
	}
	for name, values := range e.Header {
		h.Header[name] = slices.Clone(values)
	}
	for _, t := range e.Tokens {
		if !j.tokens {
			break
		}
		if err := j.mint.put(t, j.rules.Providers, h, now); err != nil {
			return outcome{}, err
		}
	}
	return j.request(id, h, now), nil
}

func set(h connect.Header, name, value string) {
	key := textproto.CanonicalMIMEHeaderKey(name)
	h[key] = append(h[key], value)
}

// Peers are the names of peers in a table, sorted.
func (t *Table) Peers() []string {
	names := map[string]bool{}
	for _, e := range t.Expectations {
		if e.Peer != "" {
			names[e.Peer] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
