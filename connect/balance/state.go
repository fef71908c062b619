// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"sync/atomic"
	"time"
)

// A State is what is remembered of one endpoint of one target of one upstream,
// over all snapshots. Safe for concurrent use.
type State struct {
	active       atomic.Int64
	failures     atomic.Int32 // consecutive
	ejections    atomic.Int32 // since the last long quiet time
	ejectedUntil atomic.Int64 // unix nanoseconds
	lastFailure  atomic.Pointer[string]
	latency      latency
	window       tally
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

// Blame remembers a failure in words; nothing is decided by it. Callers of
// [Group.Observe] say here what went wrong; [Group.Failed] does it itself.
func (s *State) Blame(cause string) {
	if p := s.lastFailure.Load(); p == nil || *p != cause {
		kept := cause // the copy is all that is allocated, and only here
		s.lastFailure.Store(&kept)
	}
}

// Latency is the estimate at now of the time to an answer's headers, 0 when
// there is none. Only groups under peak_ewma keep it.
func (s *State) Latency(now time.Time) time.Duration {
	return time.Duration(s.latency.estimate(now) * float64(time.Second))
}

// Active is the number of connections or requests in use.
func (s *State) Active() int64 { return s.active.Load() }

// Begin counts a connection or request; End must follow.
func (s *State) Begin() { s.active.Add(1) }

// End is the end of what Begin counted.
func (s *State) End() { s.active.Add(-1) }

// A tally counts requests above and successes below in one word, so that both
// are read and reset at once.
type tally struct{ word atomic.Uint64 }

func (t *tally) add(success bool) {
	one := uint64(1) << 32
	if success {
		one++
	}
	t.word.Add(one)
}

// take returns the counts and starts over.
func (t *tally) take() (requests, successes uint32) {
	word := t.word.Swap(0)
	return uint32(word >> 32), uint32(word) //nolint:gosec // the two halves
}
