// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// Envoy's defaults, which Consul documents as its own (service-defaults:
// passive_health_check).
const (
	defaultMaxFailures  = 5
	defaultMaxEjection  = 10
	defaultBaseEjection = 30 * time.Second
	maxEjection         = 300 * time.Second
)

// A State is what is remembered of one endpoint of one target of one upstream,
// over all snapshots. Safe for concurrent use.
type State struct {
	active       atomic.Int64
	failures     atomic.Int32 // consecutive
	ejections    atomic.Int32 // since the last long quiet time
	ejectedUntil atomic.Int64 // unix nanoseconds
	lastFailure  atomic.Pointer[string]
}

// Ejected reports whether the endpoint is left out at now.
func (s *State) Ejected(now time.Time) bool { return s.ejectedUntil.Load() > now.UnixNano() }

// EjectedUntil is the instant at which the endpoint is used again; zero when it
// was never ejected.
func (s *State) EjectedUntil() time.Time {
	ns := s.ejectedUntil.Load()
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// LastFailure is the most recent failure in words, "" when there was none.
func (s *State) LastFailure() string {
	if p := s.lastFailure.Load(); p != nil {
		return *p
	}
	return ""
}

// Active is the number of connections in use.
func (s *State) Active() int64 { return s.active.Load() }

// Begin counts a connection; End must follow.
func (s *State) Begin() { s.active.Add(1) }

// End is the end of a connection that Begin counted.
func (s *State) End() { s.active.Add(-1) }

// outlier is the rule of ejection of one group.
type outlier struct {
	ejecting    sync.Mutex // so that two that fail at once cannot both be the last allowed out
	maxFailures int32
	enforcing   int
	limit       int // endpoints of the group that may be out at once
	base        time.Duration
}

func (o *outlier) init(h connect.PassiveHealth, endpoints int, fallback bool) {
	o.maxFailures = int32(min(math.MaxInt32, orDefault(h.MaxFailures, defaultMaxFailures))) //nolint:gosec // bounded
	o.enforcing = orDefault(h.Enforcing, 100)
	o.limit = max(1, endpoints*min(100, orDefault(h.MaxEjectionPercent, defaultMaxEjection))/100)
	o.base = defaultBaseEjection
	if h.BaseEjectionTime > 0 {
		o.base = min(maxEjection, h.BaseEjectionTime)
	}
	if !fallback {
		o.limit = min(o.limit, endpoints-1)
	}
}

func orDefault(n, fallback int) int {
	if n == 0 {
		return fallback
	}
	return n
}

// Succeeded records that an endpoint of the group could be connected to.
func (g *Group) Succeeded(e *Entry) { e.State.failures.Store(0) }

// Failed records a failed connect or handshake, with its cause in words, and
// reports whether the endpoint was ejected for it: after so many failures in a
// row, for the base time times the number of its ejections so far, at most
// 300 s, while no more than the allowed share of the group is out.
func (g *Group) Failed(e *Entry, now time.Time, cause string) (ejected bool) {
	s := e.State
	s.lastFailure.Store(&cause)
	if s.failures.Add(1) < g.outlier.maxFailures || s.Ejected(now) {
		return false
	}
	g.outlier.ejecting.Lock()
	defer g.outlier.ejecting.Unlock()
	if s.Ejected(now) || g.out(now) >= g.outlier.limit || rand.IntN(100) >= g.outlier.enforcing {
		return false
	}
	if now.Sub(s.EjectedUntil()) > maxEjection {
		s.ejections.Store(0)
	}
	n := s.ejections.Add(1)
	s.failures.Store(0)
	s.ejectedUntil.Store(now.Add(min(maxEjection, time.Duration(n)*g.outlier.base)).UnixNano())
	return true
}

func (g *Group) out(now time.Time) int {
	n := 0
	for i := range g.entries {
		if g.entries[i].State.Ejected(now) {
			n++
		}
	}
	return n
}

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
	groups map[Key][]Entry // the latest entries of each key
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry { return &Registry{groups: make(map[Key][]Entry)} }

// attach gives each entry the state that its address has had under key, or a
// new one, and forgets the states of addresses that are gone. Consul keeps the
// order of endpoints from answer to answer, so the search starts where the last
// one was found and seldom goes further.
func (r *Registry) attach(key Key, entries []Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.groups[key]
	var fresh []State
	at := 0
	for i := range entries {
		e := &entries[i]
		if j := find(old, e.Endpoint, at); j >= 0 {
			e.State, at = old[j].State, j+1
			continue
		}
		if fresh == nil {
			fresh = make([]State, len(entries)-i)
		}
		e.State, fresh = &fresh[0], fresh[1:]
	}
	r.groups[key] = entries
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
