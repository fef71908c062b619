// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package measure

import (
	"cmp"
	"crypto/tls"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// An Upstream is what is measured of one upstream.
type Upstream struct {
	set  *Set
	id   connect.UpstreamID
	edge *edge // of what has come to no target
	// edges are those to its targets: few, looked through in order. Replaced, never
	// written to.
	edges   atomic.Pointer[[]*edge]
	targets map[connect.TargetID]*Target // guarded by set.mu
	budget  prometheus.Counter
}

// Upstream returns what is measured of an upstream; it is the same for the same ID
// until [Set.Retain] forgets it. The number of upstreams is bounded by
// [MaxUpstreams]: those beyond are counted together. It may lock: once per compile.
func (s *Set) Upstream(id connect.UpstreamID) *Upstream {
	if s == nil {
		return nil
	}
	if u := (*s.upstreams.Load())[id]; u != nil {
		return u
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := *s.upstreams.Load()
	if _, there := known[id]; !there && len(known) >= MaxUpstreams {
		id = Other
	}
	if u := known[id]; u != nil {
		return u
	}
	u := &Upstream{
		set: s, id: id, targets: make(map[connect.TargetID]*Target),
		edge:   newEdge(s, flow.Outbound, s.service, destinationOf(id), string(id), ""),
		budget: s.vecs.budgets.counter(clean(string(id))),
	}
	u.edges.Store(&[]*edge{})
	s.upstreams.Store(with(known, id, u))
	return u
}

// destinationOf names whom an upstream calls as the other side names itself:
// "api", or "east/api" for a service of peer east.
func destinationOf(id connect.UpstreamID) string {
	name, query, _ := strings.Cut(string(id), "?")
	for part := range strings.SplitSeq(query, "&") {
		if peer, ok := strings.CutPrefix(part, "peer="); ok && peer != "" {
			return peer + "/" + name
		}
	}
	return name
}

// serviceOf names the service of a target, "[subset.]service.namespace.partition.
// datacenter" or "service.namespace.partition.external.peer". What is of another
// form is named whole.
func serviceOf(id connect.TargetID) string {
	parts := strings.Split(string(id), ".")
	n := len(parts)
	switch {
	case n >= 5 && parts[n-2] == "external":
		return parts[n-1] + "/" + strings.Join(parts[:n-4], ".")
	case n == 5:
		return parts[1]
	case n == 4:
		return parts[0]
	}
	return string(id)
}

// towards is the edge to a target; the number of targets is bounded.
func (u *Upstream) towards(id connect.TargetID) *edge {
	if id == "" {
		return u.edge
	}
	for _, e := range *u.edges.Load() {
		if e.target == id {
			return e
		}
	}
	u.set.mu.Lock()
	defer u.set.mu.Unlock()
	return u.edgeLocked(id)
}

func (u *Upstream) edgeLocked(id connect.TargetID) *edge {
	known := *u.edges.Load()
	var other *edge
	for _, e := range known {
		switch e.target {
		case id:
			return e
		case Other:
			other = e
		}
	}
	destination := serviceOf(id)
	if len(known) >= MaxTargets {
		if other != nil {
			return other
		}
		id, destination = Other, Other
	}
	e := newEdge(u.set, flow.Outbound, u.set.service, destination, string(u.id), string(id))
	e.gone = u.edge.gone
	more := append(slices.Clip(known), e)
	u.edges.Store(&more)
	return e
}

// forget has nothing of the upstream counted again. The Set is locked.
func (u *Upstream) forget() {
	u.edge.gone = true
	for _, e := range *u.edges.Load() {
		e.gone = true
	}
}

// Opened counts a connection to the upstream's listener; it is open until its
// record is done.
func (u *Upstream) Opened() {
	if u != nil {
		u.edge.opened()
	}
}

// Done counts a connection or request of the upstream at its end.
func (u *Upstream) Done(r *flow.Record) {
	if u == nil {
		return
	}
	u.set.failed.count(r)
	if r.Kind == flow.Connection {
		u.edge.closed()
	}
	u.towards(r.Target).done(r)
}

// BudgetSpent counts a retry that the budget did not allow.
func (u *Upstream) BudgetSpent() {
	if u != nil {
		u.budget.Inc()
	}
}

// A Target is what is measured of the tries at one target of an upstream.
type Target struct {
	first, again prometheus.Counter
	took         prometheus.Observer
	ejections    prometheus.Counter
	edge         *edge
	labels       []string
	failures     [reasons]cell[prometheus.Counter]
}

// Target returns what is measured of the tries at a target. The number of targets
// is bounded by [MaxTargets]: those beyond are counted together. Once per compile.
func (u *Upstream) Target(id connect.TargetID) *Target {
	if u == nil {
		return nil
	}
	u.set.mu.Lock()
	defer u.set.mu.Unlock()
	if t := u.targets[id]; t != nil {
		return t
	}
	e := u.edgeLocked(id)
	if t := u.targets[e.target]; t != nil {
		return t
	}
	v, labels := &u.set.vecs, []string{e.labels[3], e.labels[4], e.labels[2]}
	t := &Target{
		edge: e, labels: labels,
		first:     v.tries.counter(append(labels[:3:3], "false")...),
		again:     v.tries.counter(append(labels[:3:3], "true")...),
		took:      v.try.observer(labels...),
		ejections: v.ejections.counter(labels...),
	}
	u.targets[e.target] = t
	return t
}

// Tried counts one attempt at an endpoint of the target, retry says that it is not
// the first of its request.
func (t *Target) Tried(try *flow.Try, retry bool) {
	if t == nil {
		return
	}
	if retry {
		t.again.Inc()
	} else {
		t.first.Inc()
	}
	t.took.Observe(try.Took.Seconds())
	if try.Reason == "" {
		return
	}
	at := reasonAt(try.Reason)
	c := &t.failures[at]
	p := c.series.Load()
	if p == nil {
		p = c.in(t.edge, func() prometheus.Counter {
			return t.edge.set.vecs.tryFailures.counter(append(t.labels[:3:3], reasonWords()[at])...)
		})
	}
	bump(p, 1)
}

// Ejected counts an endpoint that is left out for a while.
func (t *Target) Ejected() {
	if t != nil {
		t.ejections.Inc()
	}
}

// handshakes are those of TLS, inbound and outbound.
type handshakes struct {
	done   [2][2][2]prometheus.Counter // by direction, version, resumed
	failed [2][reasons]prometheus.Counter
	took   [2]prometheus.Observer
}

func (h *handshakes) init(v *vecs) {
	words := reasonWords()
	for d, direction := range []string{flow.Inbound.String(), flow.Outbound.String()} {
		for i, version := range []string{"1.2", "1.3"} {
			h.done[d][i][0] = v.handshakes.counter(direction, "full", version, "")
			h.done[d][i][1] = v.handshakes.counter(direction, "resumed", version, "")
		}
		for i := range h.failed[d] {
			h.failed[d][i] = v.handshakes.counter(direction, "failed", "", words[i])
		}
		h.took[d] = v.handshaking.observer(direction)
	}
}

// Shook counts a TLS handshake: of a caller when inbound, else ours with an
// endpoint. reason is "" when it succeeded; state may be nil when it did not.
func (s *Set) Shook(inbound bool, state *tls.ConnectionState, reason connect.Reason, took time.Duration) {
	if s == nil {
		return
	}
	d := 1
	if inbound {
		d = 0
	}
	if reason != "" || state == nil {
		s.shaken.failed[d][reasonAt(cmp.Or(reason, connect.TLSFailed))].Inc()
		return
	}
	version, resumed := 1, 0
	if state.Version == tls.VersionTLS12 {
		version = 0 // No older one is spoken.
	}
	if state.DidResume {
		resumed = 1
	}
	s.shaken.done[d][version][resumed].Inc()
	s.shaken.took[d].Observe(took.Seconds())
}
