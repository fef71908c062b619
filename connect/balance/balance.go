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
	last    bool // no other target takes over
	outlier outlier
}

// An Entry is one endpoint of a group with the state that outlives the group.
type Entry struct {
	Endpoint *connect.Endpoint // never nil, never written to
	State    *State
	weight   uint64
}

// Options are what a group is built from besides its endpoints.
type Options struct {
	LoadBalancer connect.LoadBalancer
	Health       connect.PassiveHealth
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
	g.entries = make([]Entry, 0, len(endpoints))
	for i := range endpoints {
		if e := &endpoints[i]; e.Usable() {
			g.entries = append(g.entries, Entry{Endpoint: e, weight: uint64(e.Weight)}) //nolint:gosec // usable means above 0
		}
	}
	g.choices = max(2, min(opts.LoadBalancer.ChoiceCount, len(g.entries)))
	registry.attach(key, g.entries)
	g.ends = make([]uint64, len(g.entries))
	for i := range g.entries {
		g.total += g.entries[i].weight
		g.ends[i] = g.total
	}
	g.stride = stride(g.total)
	g.outlier.init(opts.Health, len(g.entries), opts.Fallback)
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
	e := g.pick(now, tried)
	if e == nil && g.last && g.out(now) == len(g.entries) {
		e = g.pick(endOfTime, tried)
	}
	return e
}

func (g *Group) pick(now time.Time, tried []*Entry) *Entry {
	if g.policy == "least_request" {
		if e := g.leastLoaded(now, tried); e != nil {
			return e
		}
	}
	// A few draws by weight find a free endpoint unless nearly all are out;
	// then walk, so that the last free one is found for certain.
	for range 4 {
		if e := g.draw(); free(e, now, tried) {
			return e
		}
	}
	start := rand.IntN(len(g.entries))
	for i := range g.entries {
		if e := &g.entries[(start+i)%len(g.entries)]; free(e, now, tried) {
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
// TCP connection and choose at random (Consul, service-resolver: load_balancer).
func (g *Group) draw() *Entry {
	var at uint64
	switch g.policy {
	case "random", "ring_hash", "maglev", "least_request":
		at = rand.Uint64N(g.total)
	default:
		at = mulmod(g.next.Add(1)-1, g.stride, g.total)
	}
	i := sort.Search(len(g.ends), func(i int) bool { return g.ends[i] > at })
	return &g.entries[i]
}

// leastLoaded takes the least loaded of a few random endpoints, load being
// connections in use by weight.
func (g *Group) leastLoaded(now time.Time, tried []*Entry) *Entry {
	var best *Entry
	for range g.choices {
		e := &g.entries[rand.IntN(len(g.entries))]
		if !free(e, now, tried) {
			continue
		}
		if best == nil || load(e)*best.weight < load(best)*e.weight {
			best = e
		}
	}
	return best
}

func load(e *Entry) uint64 { return uint64(e.State.active.Load()) + 1 } //nolint:gosec // never negative

func free(e *Entry, now time.Time, tried []*Entry) bool {
	for _, t := range tried {
		if t.State == e.State {
			return false
		}
	}
	return !e.State.Ejected(now)
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
