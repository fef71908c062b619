// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package explain

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// A Host says what sidecars do.
type Host interface {
	// Outbound says what the sidecar of the source does; nil when it is not known.
	Outbound(ctx context.Context, q Question) *Outbound
	// Inbound says what the sidecar of a destination does.
	Inbound(ctx context.Context, a Arrival) Inbound
}

// An Arrival is what comes to a destination.
type Arrival struct {
	Question Question
	Service  connect.ServiceName // Namespace and Partition are "" when nothing is said of them
	// Datacenter and Peer are where the service is; "" means our own.
	Datacenter, Peer string
	// Caller is who calls; nil when only its name is known, see [Question.Caller].
	Caller *connect.Identity
	// Protocol is the service's as its caller knows it; "" when it does not.
	Protocol connect.Protocol
	Head     *connect.Head // the request as it comes; nil for a connection
}

// Compose asks the two sides of a call and sums up what they say.
func Compose(ctx context.Context, host Host, q Question) Explanation {
	e := Explanation{Source: q.Source, Destination: q.Destination, Method: q.Method}
	e.Path, _, _ = strings.Cut(q.Path, "?")
	e.Outbound = host.Outbound(ctx, q)
	if e.Outbound == nil || e.Outbound.Reason != "" {
		in := host.Inbound(ctx, arrivalOf(q, e.Outbound))
		e.Inbound = []Inbound{in}
		one := in.outcome(Whole, "")
		if e.Outbound != nil {
			one = Outcome{Share: Whole, Reason: e.Outbound.Reason, Why: e.Outbound.Why}
		}
		e.Verdict.Outcomes = []Outcome{one}
		e.conclude()
		return e
	}
	heads := []*connect.Head{} // of e.Inbound
	for i := range e.Outbound.Ways {
		w := &e.Outbound.Ways[i]
		at := e.inboundOf(w, heads)
		if at < 0 {
			a := Arrival{
				Question: q, Caller: &e.Outbound.Caller, Protocol: e.Outbound.Protocol, Head: w.Arrives,
				Service:    connect.ServiceName{Name: w.Called.Service, Namespace: w.Called.Namespace, Partition: w.Called.Partition},
				Datacenter: w.Called.Datacenter, Peer: w.Called.Peer,
			}
			e.Inbound, heads = append(e.Inbound, host.Inbound(ctx, a)), append(heads, w.Arrives)
			at = len(heads) - 1
		}
		one := Outcome{Share: w.Share, Reason: w.Reason, Why: w.Why}
		if w.Reason == "" {
			one = e.Inbound[at].outcome(w.Share, w.Target)
		}
		e.Verdict.Outcomes = append(e.Verdict.Outcomes, one)
	}
	e.conclude()
	return e
}

// arrivalOf is what the destination would get of a call that the source does not
// get out, or of whose side nothing is known.
func arrivalOf(q Question, out *Outbound) Arrival {
	peer, name := splitPeer(q.Destination)
	a := Arrival{Question: q, Service: connect.ServiceName{Name: name}, Peer: peer}
	if out != nil {
		a.Caller, a.Protocol = &out.Caller, out.Protocol
		if out.Calls.Name != "" {
			a.Service = out.Calls
		}
	}
	if q.HTTP() {
		head := q.Head()
		a.Head = &head
	}
	return a
}

// inboundOf finds what was said already of a request that comes to the same
// service in the same form; -1 when nothing was.
func (e *Explanation) inboundOf(w *Way, heads []*connect.Head) int {
	for i := range e.Outbound.Ways {
		before := &e.Outbound.Ways[i]
		if before == w {
			break
		}
		if sameService(before.Called, w.Called) && sameHead(before.Arrives, w.Arrives) {
			return slices.Index(heads, before.Arrives)
		}
	}
	return -1
}

func sameService(a, b connect.Target) bool {
	return a.Service == b.Service && a.Namespace == b.Namespace && a.Partition == b.Partition && a.Datacenter == b.Datacenter && a.Peer == b.Peer
}

func sameHead(a, b *connect.Head) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Path == b.Path && equalHeaders(a.Header, b.Header)
}

func equalHeaders(a, b connect.Header) bool {
	if len(a) != len(b) {
		return false
	}
	for name, values := range a {
		if !slices.Equal(values, b[name]) {
			return false
		}
	}
	return true
}

func (in *Inbound) outcome(share int, target connect.TargetID) Outcome {
	o := Outcome{Share: share, Target: target, Service: in.Service}
	switch {
	case in.Unknown != "":
		o.Unknown, o.Why = true, in.Unknown
	case !in.Allowed:
		o.Reason, o.Why = in.Reason, in.Why
	}
	return o
}

// conclude sums the outcomes up in one verdict.
func (e *Explanation) conclude() {
	v := &e.Verdict
	byReason := map[connect.Reason]int{}
	var worst Outcome
	for _, o := range v.Outcomes {
		switch {
		case o.Unknown:
			v.Unknown += o.Share
			v.Why = cmp.Or(v.Why, o.Why)
		case o.Reason == "":
			v.Served += o.Share
		default:
			byReason[o.Reason] += o.Share
			if worst.Reason == "" || byReason[o.Reason] > byReason[worst.Reason] {
				worst = o
			}
		}
	}
	if worst.Reason != "" {
		v.Reason, v.Why = worst.Reason, worst.Why
		return
	}
	if l := e.latest(); l != nil {
		v.Observed, v.Reason = true, l.Reason
		v.Why = "the latest one failed: " + cmp.Or(l.Why, string(l.Reason))
	}
}

// latest is the latest failure, of either side, that says something of the next
// call: none has been served since, and it is not of a kind that was judged anew
// just now. Of a failure that both sides have seen, the one that it happened to
// knows more.
func (e *Explanation) latest() *Lately {
	var found *Lately
	look := func(l *Lately) {
		switch {
		case l == nil || l.Since > 0 || (e.Verdict.Unknown == 0 && judged(l)):
		case found == nil, found.Remote && !l.Remote, found.Remote == l.Remote && l.At.After(found.At):
			found = l
		}
	}
	if e.Outbound != nil {
		look(e.Outbound.Lately)
	}
	for i := range e.Inbound {
		look(e.Inbound[i].Lately)
	}
	return found
}

// judged reports whether explain finds a reason by itself, for this very call.
func judged(l *Lately) bool {
	switch l.Reason {
	case connect.IntentionDenied, connect.JWTInvalid, connect.NoRoute, connect.RequestInvalid:
		return true
	case connect.NoHealthyEndpoint, connect.NotReady, connect.Draining:
		return !l.Remote
	}
	return false
}
