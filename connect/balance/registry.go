// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"sync"

	"github.com/outrider-mesh/outrider/connect"
)

// A Key names the group of states of one target of one upstream. State is never
// shared between keys: what fails through one upstream's settings says nothing
// about another's.
type Key struct {
	Upstream connect.UpstreamID
	Target   connect.TargetID
}

// A Registry holds the states that outlive snapshots. Safe for concurrent use.
type Registry struct {
	mu     sync.Mutex
	groups map[Key]kept
}

// kept is what the next group of a key takes over from the latest one.
type kept struct {
	entries []Entry
	table   *table
	history *history
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{groups: make(map[Key]kept)} }

// attach gives each entry the state that its address has had under key, or a
// new one, and forgets the states of addresses that are gone. Consul keeps the
// order of endpoints from answer to answer, so the search starts where the last
// one was found and seldom goes further. For the same reason a table of hashes
// is taken over only when the order has not changed either.
func (r *Registry) attach(key Key, g *Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.groups[key]
	var fresh []State
	at := 0
	for i := range g.entries {
		e := &g.entries[i]
		if j := find(old.entries, e.Endpoint, at); j >= 0 {
			e.State, at = old.entries[j].State, j+1
			continue
		}
		if fresh == nil {
			fresh = make([]State, len(g.entries)-i)
		}
		e.State, fresh = &fresh[0], fresh[1:]
	}
	// Two groups of one snapshot may share a key, since two resolvers may name
	// one target: one that hashes nothing must not cost the other its table.
	if g.table != nil && !g.table.same(old.table) {
		old.table = g.table
	} else if g.table != nil {
		g.table = old.table
	}
	if old.history == nil {
		old.history = new(history)
	}
	g.outlier.history = old.history
	r.groups[key] = kept{g.entries, old.table, old.history}
}

// find returns the position in old of the endpoint's address, looking at start
// first, or -1.
func find(old []Entry, e *connect.Endpoint, start int) int {
	for n := range old {
		j := (start + n) % len(old)
		if old[j].Endpoint.Port == e.Port && old[j].Endpoint.Address == e.Address {
			return j
		}
	}
	return -1
}

// Retain forgets every key that keep does not hold.
func (r *Registry) Retain(keep map[Key]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.groups {
		if !keep[key] {
			delete(r.groups, key)
		}
	}
}
