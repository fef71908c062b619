// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package measure counts what a sidecar does, in the metrics that Prometheus
// reads. It must not decide anything, and takes no lock where traffic passes:
// labels are resolved when a snapshot is compiled or a connection begins.
package measure

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// What is measured apart, at most; the rest is counted together as "other".
const (
	MaxSources    = 256  // callers of one sidecar
	MaxUpstreams  = 1024 // of one sidecar
	MaxTargets    = 64   // of one upstream
	MaxIntentions = 256  // of one sidecar
)

// Other is the label value of what is beyond the bounds.
const Other = "other"

// A Set is what is measured of one sidecar. Safe for concurrent use; all methods
// of a nil Set, and of what a nil Set returns, do nothing.
//
// Its series live as long as it does: whoever serves metrics forgets a sidecar
// with its Set.
type Set struct {
	service string
	proxyID string

	vecs   vecs
	shaken handshakes
	failed failures
	rest   [flow.Passed + 1]*edge // of what belongs to no caller and no upstream
	others *Peer                  // callers beyond the bound

	// peers and upstreams are replaced, never written to: reading them takes no
	// lock.
	mu        sync.Mutex
	peers     atomic.Pointer[map[caller]*Peer]
	upstreams atomic.Pointer[map[connect.UpstreamID]*Upstream]
	rules     []string // names that there are decisions of
	latest    []string // those of the latest policy
}

// caller is whoever shares one label value.
type caller struct{ peer, service string }

// NewSet returns the measurements of the sidecar of a service. The name of the
// service and the ID of the proxy are labels of every series: two sidecars of one
// process never share one.
func NewSet(service, proxyID string) *Set {
	s := &Set{service: service, proxyID: proxyID}
	s.vecs = newVecs(prometheus.Labels{"service": clean(service), "proxy_id": clean(proxyID)})
	s.peers.Store(&map[caller]*Peer{})
	s.upstreams.Store(&map[connect.UpstreamID]*Upstream{})
	s.shaken.init(&s.vecs)
	s.failed.init(&s.vecs)
	s.others = &Peer{newEdge(s, flow.Inbound, Other, service, "", "")}
	for d := range s.rest {
		source, destination := "", ""
		switch flow.Direction(d) {
		case flow.Inbound, flow.Exposed:
			destination = service
		case flow.Outbound, flow.Passed:
			source = service
		}
		s.rest[d] = newEdge(s, flow.Direction(d), source, destination, "", "")
	}
	return s
}

// Service and ProxyID are the labels of every series.
func (s *Set) Service() string {
	if s == nil {
		return ""
	}
	return s.service
}

// ProxyID is the ID of the sidecar.
func (s *Set) ProxyID() string {
	if s == nil {
		return ""
	}
	return s.proxyID
}

// A Peer is what is measured of inbound traffic of one source.
type Peer struct{ edge *edge }

// Peer returns what is measured of one caller, "web" or "east/web"; the zero
// Identity is "unknown". The number of callers is bounded by [MaxSources]: those
// beyond are counted together. It locks for a caller that is new only.
func (s *Set) Peer(source connect.Identity) *Peer {
	if s == nil {
		return nil
	}
	key, label := caller{source.Peer, source.Service}, source.Label()
	if source.Service == "" {
		key, label = caller{}, "unknown"
	}
	known := *s.peers.Load()
	if p := known[key]; p != nil {
		return p
	}
	if len(known) >= MaxSources {
		return s.others
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known = *s.peers.Load()
	if p := known[key]; p != nil {
		return p
	}
	if len(known) >= MaxSources {
		return s.others
	}
	p := &Peer{newEdge(s, flow.Inbound, label, s.service, "", "")}
	s.peers.Store(with(known, key, p))
	return p
}

// with is a copy of m that has key as well.
func with[K comparable, V any](m map[K]V, key K, v V) *map[K]V {
	out := make(map[K]V, len(m)+1)
	maps.Copy(out, m)
	out[key] = v
	return &out
}

// Opened counts a connection of the caller that was let in; it is open until its
// record is done.
func (p *Peer) Opened() {
	if p != nil {
		p.edge.opened()
	}
}

// Done counts a connection or request of the caller at its end.
func (p *Peer) Done(r *flow.Record) {
	if p == nil {
		return
	}
	p.edge.set.failed.count(r)
	if r.Kind == flow.Connection {
		p.edge.closed()
	}
	p.edge.done(r)
}

// Done counts what belongs to no caller and no upstream: refused before it was
// known whose it is, exposed paths, and connections to outside the mesh.
func (s *Set) Done(r *flow.Record) {
	if s == nil {
		return
	}
	s.failed.count(r)
	e := s.rest[min(r.Direction, flow.Passed)]
	if r.Kind == flow.Connection && r.Reason == "" {
		e.served()
	}
	e.done(r)
}

// Retain forgets what is measured of upstreams that keep does not hold, and of
// rules that are not of the latest policy. What they still have under way is not
// measured any more. It is called when a snapshot is in force.
func (s *Set) Retain(keep func(connect.UpstreamID) bool) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	left := make(map[connect.UpstreamID]*Upstream)
	for id, u := range *s.upstreams.Load() {
		if keep(id) || id == Other {
			left[id] = u
			continue
		}
		u.forget()
		s.vecs.forget(string(id))
	}
	s.upstreams.Store(&left)
	for _, old := range s.rules {
		if !slices.Contains(s.latest, old) {
			s.vecs.decisions.forget(0, old)
		}
	}
	s.rules = slices.Clone(s.latest)
}

// Rules are what is measured of the decisions of one policy.
type Rules struct {
	rules    []decisions
	fallback decisions
}

// decisions are those of one rule: denied, allowed.
type decisions [2]prometheus.Counter

// Rules returns what is measured of decisions, by the position of the rule, of what
// is to be the policy. Those of rules that it does not have are forgotten with the
// next [Set.Retain]. Once per compile.
func (s *Set) Rules(intentions []connect.Intention) *Rules {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &Rules{fallback: s.decisions("default policy")}
	names := make([]string, 0, len(intentions))
	for i := range intentions {
		name := clean(intentions[i].String())
		if i >= MaxIntentions {
			name = Other
		}
		names = append(names, name)
		r.rules = append(r.rules, s.decisions(name))
	}
	s.latest = names
	s.rules = append(s.rules, names...)
	slices.Sort(s.rules)
	s.rules = slices.Compact(s.rules)
	return r
}

func (s *Set) decisions(name string) decisions {
	return decisions{
		s.vecs.decisions.counter(name, connect.Deny.String()),
		s.vecs.decisions.counter(name, connect.Allow.String()),
	}
}

// Decided counts a decision; rule is its position, -1 for the default policy.
func (r *Rules) Decided(rule int, allowed bool) {
	if r == nil {
		return
	}
	d := &r.fallback
	if rule >= 0 && rule < len(r.rules) {
		d = &r.rules[rule]
	}
	if allowed {
		d[1].Inc()
	} else {
		d[0].Inc()
	}
}
