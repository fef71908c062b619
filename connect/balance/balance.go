// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package balance chooses which endpoint of a target is tried next and leaves
// out endpoints that keep failing. It dials nothing and reads no clock: time is
// an argument.
package balance

import (
	"math"
	"math/rand/v2"
	"sort"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// The policies that have code of their own here. Any other name, and none, is
// round robin, as it is in Consul (service-resolver: load_balancer.policy).
const (
	random       = "random"
	leastRequest = "least_request"
	ringHash     = "ring_hash"
	maglev       = "maglev"
	peakEWMA     = "peak_ewma"
)

// A Group is the usable endpoints of one target under one policy. Its set of
// endpoints never changes; safe for concurrent use.
type Group struct {
	entries []Entry
	ends    []uint64 // cumulative weights: entry i owns [ends[i-1], ends[i])
	total   uint64
	stride  uint64 // coprime to total, near its golden section
	next    atomic.Uint64
	policy  string
	choices int
	last    bool   // no other target takes over
	table   *table // of a hash policy, else nil
	outlier outlier
}

// An Entry is one endpoint of a group with the state that outlives the group.
type Entry struct {
	Endpoint *connect.Endpoint // never nil, never written to
	State    *State
	weight   uint64
	scale    float64 // mean weight of the group by the weight of this endpoint
}

// Options are what a group is built from besides its endpoints.
type Options struct {
	LoadBalancer connect.LoadBalancer
	Health       connect.PassiveHealth
	// Default is the policy where LoadBalancer names none; "" means round robin.
	Default string
	// Fallback reports that another target takes over when this group has no
	// endpoint left. Without it the last usable endpoint is never ejected, and
	// when the others have gone from under an ejection, ejected ones are picked:
	// leaving them out would help nobody.
	Fallback bool
}

// NewGroup returns the group of a target over endpoints, which it keeps.
// Unusable endpoints are left out.
// States come from the registry under key, so a failing endpoint stays ejected
// over any number of snapshots.
func NewGroup(registry *Registry, key Key, endpoints []connect.Endpoint, opts Options) *Group {
	g := &Group{policy: opts.LoadBalancer.Policy, last: !opts.Fallback}
	if g.policy == "" {
		g.policy = opts.Default
	}
	g.entries = make([]Entry, 0, len(endpoints))
	for i := range endpoints {
		if e := &endpoints[i]; e.Usable() {
			g.entries = append(g.entries, Entry{Endpoint: e, weight: uint64(e.Weight)}) //nolint:gosec // usable means above 0
		}
	}
	g.choices = max(2, min(opts.LoadBalancer.ChoiceCount, len(g.entries)))
	g.ends = make([]uint64, len(g.entries))
	for i := range g.entries {
		g.total += g.entries[i].weight
		g.ends[i] = g.total
	}
	mean := float64(g.total) / float64(len(g.entries))
	for i := range g.entries {
		g.entries[i].scale = mean / float64(g.entries[i].weight)
	}
	g.stride = stride(g.total)
	g.outlier.init(opts.Health, len(g.entries), opts.Fallback)
	if g.Hashes() {
		g.table = newTable(g, opts.LoadBalancer)
	}
	registry.attach(key, g)
	return g
}

// Len is the number of usable endpoints, ejected ones included.
func (g *Group) Len() int { return len(g.entries) }

// Entries returns the usable endpoints; the slice must not be written to.
func (g *Group) Entries() []Entry { return g.entries }

// Pick returns an endpoint that is neither ejected at now nor in tried, or nil
// when there is none left; see [Options] for a group whose endpoints are all
// ejected.
func (g *Group) Pick(now time.Time, tried []*Entry) *Entry {
	if len(g.entries) == 0 {
		return nil
	}
	e := g.pick(now, now, tried)
	if e == nil && g.desperate(now) {
		e = g.pick(now, endOfTime, tried)
	}
	return e
}

// desperate reports whether ejected endpoints are picked, since all of them are
// ejected and nothing else takes over.
func (g *Group) desperate(now time.Time) bool { return g.last && g.out(now) == len(g.entries) }

// pick takes those endpoints for ejected that are so at the instant ejected.
func (g *Group) pick(now, ejected time.Time, tried []*Entry) *Entry {
	var e *Entry
	switch g.policy {
	case leastRequest:
		e = g.leastLoaded(ejected, tried)
	case peakEWMA:
		e = g.cheaper(now, ejected, tried)
	}
	if e != nil {
		return e
	}
	// A few draws by weight find a free endpoint unless nearly all are out;
	// then walk, so that the last free one is found for certain.
	for range 4 {
		if e := g.draw(); free(e, ejected, tried) {
			return e
		}
	}
	return g.walk(rand.IntN(len(g.entries)), ejected, tried)
}

// walk returns the first free endpoint from position start on, or nil.
func (g *Group) walk(start int, ejected time.Time, tried []*Entry) *Entry {
	for i := range g.entries {
		if e := &g.entries[(start+i)%len(g.entries)]; free(e, ejected, tried) {
			return e
		}
	}
	return nil
}

// endOfTime is an instant at which no endpoint is ejected.
var endOfTime = time.Unix(0, math.MaxInt64)

// draw takes one endpoint by weight. Round robin visits the weights' number
// line with a stride near the golden section: over one whole round every
// endpoint gets exactly its weight, and any shorter run is spread evenly,
// without a lock and without a table. Hash policies have nothing to hash on a
// TCP connection, and on a request that has none of the parts to hash, and
// choose at random (Consul, service-resolver: load_balancer).
func (g *Group) draw() *Entry {
	switch g.policy {
	case random, ringHash, maglev, leastRequest, peakEWMA:
		return &g.entries[g.owner(rand.Uint64N(g.total))]
	}
	return &g.entries[g.owner(mulmod(g.next.Add(1)-1, g.stride, g.total))]
}

// owner returns the position of the endpoint that owns a point of the weights'
// number line.
func (g *Group) owner(point uint64) int {
	if g.total == uint64(len(g.ends)) {
		return int(point) //nolint:gosec // all weights are 1: below the number of endpoints
	}
	return sort.Search(len(g.ends), func(i int) bool { return g.ends[i] > point })
}

// leastLoaded takes the least loaded of a few random endpoints. They are drawn
// by weight and the first of equals is taken, so that an idle group is used by
// weight, and a busy one until loads are equal by weight.
func (g *Group) leastLoaded(ejected time.Time, tried []*Entry) *Entry {
	var best *Entry
	for range g.choices {
		e := &g.entries[g.owner(rand.Uint64N(g.total))]
		if free(e, ejected, tried) && (best == nil || e.load() < best.load()) {
			best = e
		}
	}
	return best
}

// load is 1 and what the endpoint has in use, a heavy endpoint's counting less.
func (e *Entry) load() float64 { return 1 + float64(e.State.active.Load())*e.scale }

// free reports whether the endpoint is not in tried, nor ejected at the instant.
func free(e *Entry, ejected time.Time, tried []*Entry) bool {
	for _, t := range tried {
		if t.State == e.State {
			return false
		}
	}
	return !e.State.Ejected(ejected)
}

// stride returns a number near total/φ that shares no factor with total.
func stride(total uint64) uint64 {
	if total < 3 {
		return 1
	}
	for s := max(1, total*618/1000); ; s++ {
		if gcd(s, total) == 1 {
			return s
		}
	}
}

// mulmod keeps the product small: total is at most 128 × endpoints.
func mulmod(n, s, total uint64) uint64 { return (n % total) * s % total }

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
