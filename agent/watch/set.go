// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// A Set keeps one watch per key that somebody wants, however many owners want
// it. Its methods may be called from any goroutine.
type Set[K comparable, V any] struct {
	name  string
	open  func(K) Fetch[V]
	equal func(a, b V) bool
	opts  Options
	wake  chan struct{} // of capacity 1: Run must look at keys again

	mu      sync.Mutex // guards what follows; never held while a sink runs
	keys    map[K]*entry[V]
	running bool
}

// An entry is the watch of one key.
type entry[V any] struct {
	label string
	fetch Fetch[V]
	sinks map[string]*sink[V] // by owner

	number      uint64 // of the last good value; 0 means none yet
	value       V
	lastSuccess time.Time
	failures    int
	err         error
}

// A sink is one owner's interest in one key.
type sink[V any] struct {
	mu      sync.Mutex // held while call runs
	call    func(V)
	seen    uint64 // number of the last value delivered
	dropped bool
}

// deliver calls the sink unless it was dropped or has seen a newer value:
// Reconcile and the key's goroutine may both hold a value for it.
func (s *sink[V]) deliver(number uint64, value V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped || number <= s.seen {
		return
	}
	s.seen = number
	s.call(value)
}

// NewSet returns a set that watches nothing yet. name says in logs and status
// what its keys are; open makes the query of a key and is called once for each
// time the key becomes wanted; equal reports whether two values are the same to
// everybody, so that the second is not delivered (nil: none are).
func NewSet[K comparable, V any](name string, open func(K) Fetch[V], equal func(a, b V) bool, opts Options) *Set[K, V] {
	if equal == nil {
		equal = func(V, V) bool { return false }
	}
	return &Set[K, V]{
		name:  name,
		open:  open,
		equal: equal,
		opts:  opts.WithDefaults(),
		wake:  make(chan struct{}, 1),
		keys:  make(map[K]*entry[V]),
	}
}

// Reconcile makes wanted all that owner wants; nil or empty means nothing more.
// It may be called before, during and after Run; only Run fetches.
//
// The contract with the functions in wanted, the sinks:
//
//   - A sink is called with each good value that differs from the one before.
//     Calls to it come one at a time and in order; a value may be left out when
//     a newer one is there.
//   - A key that is new to the owner and has a good value already is delivered
//     before Reconcile returns, from the caller's goroutine. All other calls
//     come from the goroutine of the key.
//   - For a key that the owner wanted before, the new function takes the place
//     of the old one and is first called when the value changes.
//   - When Reconcile returns, a sink that it dropped or replaced is not running
//     and is not called again. Reconcile waits for that. Therefore a sink must
//     not call Reconcile of its own set, nor wait for a lock that is held by
//     somebody who calls Reconcile. Calling Reconcile of another set is fine.
//
// Two calls for one owner must not overlap: the caller decides which is later.
func (s *Set[K, V]) Reconcile(owner string, wanted map[K]func(V)) {
	var after []func() // what needs sink locks, done without ours
	s.mu.Lock()
	for key, e := range s.keys {
		if old := e.sinks[owner]; old != nil && wanted[key] == nil {
			after = append(after, old.drop)
			delete(e.sinks, owner)
			if len(e.sinks) == 0 {
				delete(s.keys, key)
			}
		}
	}
	for key, call := range wanted {
		if call == nil {
			continue
		}
		e := s.keys[key]
		if e == nil {
			e = &entry[V]{label: label(s.name, key), fetch: s.open(key), sinks: make(map[string]*sink[V])}
			s.keys[key] = e
		}
		after = append(after, e.join(owner, call))
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // Run will look anyway.
	}
	for _, f := range after {
		f()
	}
}

// join adds or replaces the sink of owner and returns what remains to be done
// without the set's lock.
func (e *entry[V]) join(owner string, call func(V)) func() {
	if old := e.sinks[owner]; old != nil {
		return func() { old.replace(call) }
	}
	added := &sink[V]{call: call}
	e.sinks[owner] = added
	number, value := e.number, e.value
	return func() { added.deliver(number, value) }
}

func (s *sink[V]) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropped = true
}

func (s *sink[V]) replace(call func(V)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.call = call
}

func label[K comparable](name string, key K) string {
	if _, alone := any(key).(struct{}); alone {
		return name
	}
	return fmt.Sprintf("%s %v", name, key)
}

var (
	errRunning = errors.New("the watches run already")
	errNoPlace = errors.New("not watched: too many keys of this kind are wanted at once")
)

// Run fetches what is wanted until ctx ends, then returns nil once every
// goroutine it started has ended. Good values are kept for a later Run. A
// second Run at the same time is an error.
func (s *Set[K, V]) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running {
		s.mu.Unlock()
		return fmt.Errorf("run watches of %s: %w", s.name, errRunning)
	}
	s.running = true
	s.mu.Unlock()

	var loops sync.WaitGroup
	stop := make(map[*entry[V]]context.CancelFunc)
	for {
		s.adjust(ctx, stop, &loops)
		select {
		case <-s.wake:
			continue
		case <-ctx.Done():
		}
		break
	}
	for _, cancel := range stop {
		cancel()
	}
	loops.Wait()
	s.mu.Lock()
	s.running = false
	s.mu.Unlock()
	return nil
}

// adjust stops the loops of keys nobody wants and starts those of new ones, as
// far as the limit allows.
func (s *Set[K, V]) adjust(ctx context.Context, stop map[*entry[V]]context.CancelFunc, loops *sync.WaitGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := make(map[*entry[V]]bool, len(s.keys))
	for _, e := range s.keys {
		wanted[e] = true
	}
	for e, cancel := range stop {
		if !wanted[e] {
			cancel()
			delete(stop, e)
		}
	}
	for e := range wanted {
		switch {
		case stop[e] != nil:
		case len(stop) >= s.opts.Limit:
			if e.err == nil {
				s.opts.Logger.Error("too many watches, one is left out", "watch", e.label, "limit", s.opts.Limit)
			}
			e.err = errNoPlace
		default:
			if errors.Is(e.err, errNoPlace) {
				e.err = nil
			}
			own, cancel := context.WithCancel(ctx)
			stop[e] = cancel
			loops.Go(func() { s.watch(own, e) })
		}
	}
}

// watch is the goroutine of one key.
func (s *Set[K, V]) watch(ctx context.Context, e *entry[V]) {
	opts := s.opts
	opts.Name = e.label
	loop(ctx, opts, e.fetch, func(a answer[V]) { s.receive(e, a) })
}

// receive records an answer and delivers its value if it is news.
func (s *Set[K, V]) receive(e *entry[V], a answer[V]) {
	if a.err != nil {
		s.mu.Lock()
		e.failures, e.err = a.failures, a.err
		s.mu.Unlock()
		return
	}
	// Only this goroutine writes number and value, so they may be read without
	// the lock, and a slow comparison blocks nobody.
	news := a.moved && (e.number == 0 || !s.equal(e.value, a.value))
	s.mu.Lock()
	e.lastSuccess, e.failures, e.err = time.Now(), 0, nil
	if !news {
		s.mu.Unlock()
		return
	}
	e.number++
	e.value = a.value
	number := e.number
	sinks := make([]*sink[V], 0, len(e.sinks))
	for _, k := range e.sinks {
		sinks = append(sinks, k)
	}
	s.mu.Unlock()
	for _, k := range sinks {
		k.deliver(number, a.value)
	}
}

// A Status says how one watch fares.
type Status struct {
	Key         string    // the name of the set and the key: "intentions web"
	LastSuccess time.Time // of the last good answer, new or not; zero: none yet
	Failures    int       // consecutive, since then
	Err         error     // why the last query failed; nil when fine
}

// Status returns the state of every watch, sorted by Key.
func (s *Set[K, V]) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Status, 0, len(s.keys))
	for _, e := range s.keys {
		all = append(all, Status{Key: e.label, LastSuccess: e.lastSuccess, Failures: e.failures, Err: e.err})
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Key, b.Key) })
	return all
}
