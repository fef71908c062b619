// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package watch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A source is a tiny server of blocking queries: one value per key.
type source struct {
	mu      sync.Mutex
	index   uint64
	values  map[string]string
	fail    error
	changed chan struct{}
	queries map[string]int // running now, by key
	peak    int            // most running at once for one key
	opened  map[string]int
}

func newSource() *source {
	return &source{values: map[string]string{}, changed: make(chan struct{}), queries: map[string]int{}, opened: map[string]int{}}
}

func (s *source) set(key, value string) {
	s.change(func() { s.values[key] = value })
}

func (s *source) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.index++
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *source) open(key string) Fetch[string] {
	s.mu.Lock()
	s.opened[key]++
	s.mu.Unlock()
	return func(ctx context.Context, after Cursor) (string, Cursor, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.queries[key]++
		s.peak = max(s.peak, s.queries[key])
		defer func() { s.queries[key]-- }()
		for after.Index != 0 && s.index <= after.Index {
			changed := s.changed
			s.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
			}
			s.mu.Lock()
			if ctx.Err() != nil {
				return "", Cursor{}, ctx.Err()
			}
		}
		if s.fail != nil {
			return "", Cursor{}, s.fail
		}
		return s.values[key], Cursor{Index: s.index}, nil
	}
}

func (s *source) running(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queries[key]
}

// A tape collects what a sink was given.
type tape struct {
	mu  sync.Mutex
	got []string
}

func (t *tape) add(v string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.got = append(t.got, v)
}

func (t *tape) values() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.got)
}

func want(t *testing.T, what string, tp *tape, values ...string) {
	t.Helper()
	if diff := cmp.Diff(values, tp.values()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func same(a, b string) bool { return a == b }

// start runs the set in the test's bubble and stops it when the test ends. A
// goroutine left behind makes the bubble fail.
func start(t *testing.T, set *Set[string, string]) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- set.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func settle() {
	time.Sleep(time.Minute) // of the bubble: gaps and backoffs are over.
	synctest.Wait()
}

func TestTwoOwnersShareOneQueryAndTheLateOneGetsTheLastValueAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.set("api", "v1")
		set := NewSet("chain", src.open, same, Options{})
		defer start(t, set)()
		var early, late tape
		set.Reconcile("web", map[string]func(string){"api": early.add})
		settle()
		set.Reconcile("db", map[string]func(string){"api": late.add})
		want(t, "late owner before any wait", &late, "v1")
		src.set("api", "v2")
		settle()
		want(t, "early owner", &early, "v1", "v2")
		want(t, "late owner", &late, "v1", "v2")
		if src.opened["api"] != 1 || src.peak != 1 {
			t.Errorf("opened %d times, %d queries at once; want 1 and 1", src.opened["api"], src.peak)
		}
	})
}

func TestReconcileBeforeRunIsServedByRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.set("api", "v1")
		set := NewSet("chain", src.open, same, Options{})
		var got tape
		set.Reconcile("web", map[string]func(string){"api": got.add})
		settle()
		want(t, "before Run", &got)
		stop := start(t, set)
		settle()
		stop()
		want(t, "after Run", &got, "v1")
	})
}

func TestEqualValuesAreNotDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.set("api", "v1")
		set := NewSet("chain", src.open, same, Options{})
		defer start(t, set)()
		var got tape
		set.Reconcile("web", map[string]func(string){"api": got.add})
		settle()
		src.set("other", "x") // wakes every query, changes nothing for api.
		settle()
		src.set("api", "v2")
		settle()
		want(t, "delivered", &got, "v1", "v2")
	})
}

func TestErrorsKeepTheLastGoodValueAndShowInStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.set("api", "v1")
		set := NewSet("chain", src.open, same, Options{})
		defer start(t, set)()
		var got, late tape
		set.Reconcile("web", map[string]func(string){"api": got.add})
		synctest.Wait()
		good := time.Now()

		boom := errors.New("boom")
		time.Sleep(time.Hour)
		src.change(func() { src.fail = boom })
		settle()
		status := set.Status()
		if len(status) != 1 || status[0].Key != "chain api" || !errors.Is(status[0].Err, boom) || status[0].Failures == 0 || !status[0].LastSuccess.Equal(good) {
			t.Errorf("status while failing: %+v, want last success %v", status, good)
		}
		set.Reconcile("db", map[string]func(string){"api": late.add})
		want(t, "late owner during the outage", &late, "v1")

		src.change(func() { src.fail = nil })
		settle()
		status = set.Status()
		if status[0].Err != nil || status[0].Failures != 0 || !status[0].LastSuccess.After(good) {
			t.Errorf("status after recovery: %+v", status[0])
		}
		want(t, "the value did not change", &got, "v1")
	})
}

func TestDroppingTheLastOwnerCancelsTheQuery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.set("api", "v1")
		set := NewSet("chain", src.open, same, Options{})
		defer start(t, set)()
		var web, db tape
		set.Reconcile("web", map[string]func(string){"api": web.add})
		set.Reconcile("db", map[string]func(string){"api": db.add})
		settle()
		set.Reconcile("web", nil)
		settle()
		if n := src.running("api"); n != 1 {
			t.Errorf("%d queries while one owner remains, want 1", n)
		}
		set.Reconcile("db", map[string]func(string){"other": db.add})
		synctest.Wait()
		if n := src.running("api"); n != 0 {
			t.Errorf("%d queries for a key nobody wants", n)
		}
		if st := set.Status(); len(st) != 1 || st[0].Key != "chain other" {
			t.Errorf("status %+v, want only the key that is wanted", st)
		}
		src.set("api", "v2")
		settle()
		want(t, "dropped owner", &web, "v1")
	})
}

func TestAReplacedSinkIsNotCalledAgainAndTheNewOneFromTheNextChangeOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.set("api", "v1")
		set := NewSet("chain", src.open, same, Options{})
		defer start(t, set)()
		var before, after tape
		set.Reconcile("web", map[string]func(string){"api": before.add})
		settle()
		set.Reconcile("web", map[string]func(string){"api": after.add})
		want(t, "new function of a kept key", &after)
		src.set("api", "v2")
		settle()
		want(t, "old function", &before, "v1")
		want(t, "new function", &after, "v2")
		if src.opened["api"] != 1 {
			t.Errorf("opened %d times, want 1: the key was wanted all the time", src.opened["api"])
		}
	})
}

// This one needs real time: waiting for a mutex does not count as blocked in a
// bubble. A Reconcile that does not wait returns long before the timer.
func TestReconcileWaitsForTheSinkItDrops(t *testing.T) {
	src := newSource()
	src.set("api", "v1")
	set := NewSet("chain", src.open, same, Options{})
	defer start(t, set)()
	var inside atomic.Bool
	entered := make(chan struct{})
	set.Reconcile("web", map[string]func(string){"api": func(string) {
		inside.Store(true)
		release := time.NewTimer(50 * time.Millisecond)
		close(entered) // a second call would panic here.
		<-release.C
		inside.Store(false)
	}})
	<-entered
	set.Reconcile("web", nil)
	if inside.Load() {
		t.Error("Reconcile returned while the dropped sink ran")
	}
	src.set("api", "v2")
}

func TestTheLimitLeavesKeysOutUntilThereIsAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.set("any", "x")
		var log recorder
		set := NewSet("chain", src.open, same, Options{Limit: 2, Logger: log.logger()})
		defer start(t, set)()
		var got tape
		set.Reconcile("web", map[string]func(string){"a": got.add, "b": got.add})
		settle()
		set.Reconcile("db", map[string]func(string){"c": got.add})
		settle()
		status := set.Status()
		if src.running("c") != 0 || !errors.Is(status[2].Err, errNoPlace) {
			t.Errorf("third key: %d queries, status %+v", src.running("c"), status[2])
		}
		set.Reconcile("web", map[string]func(string){"a": got.add})
		settle()
		if src.running("c") != 1 || set.Status()[1].Err != nil {
			t.Errorf("after a place is free: %d queries, status %+v", src.running("c"), set.Status())
		}
	})
}

func TestRunTwiceAtOnceIsAnErrorAndOneAfterAnotherIsNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.set("api", "v1")
		set := NewSet("chain", src.open, same, Options{})
		var got tape
		set.Reconcile("web", map[string]func(string){"api": got.add})
		stop := start(t, set)
		settle()
		if err := set.Run(t.Context()); !errors.Is(err, errRunning) {
			t.Errorf("second Run: %v, want %v", err, errRunning)
		}
		stop()
		src.set("api", "v2")
		stop = start(t, set)
		settle()
		stop()
		want(t, "over two runs", &got, "v1", "v2")
	})
}

// Values only grow at the source, so every sink must see a growing sequence
// whatever Reconcile does meanwhile, and nothing once it is dropped.
func TestSinksSeeGrowingValuesUnderConcurrentReconciles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSource()
		src.set("api", "0000")
		set := NewSet("chain", src.open, same, Options{MinGap: time.Microsecond})
		stop := start(t, set)
		var owners sync.WaitGroup
		for o := range 8 {
			owners.Go(func() {
				owner := fmt.Sprint("owner ", o)
				for range 50 {
					var last string
					var gone atomic.Bool
					set.Reconcile(owner, map[string]func(string){"api": func(v string) {
						if gone.Load() {
							t.Errorf("%s: called after it was dropped", owner)
						}
						if v <= last {
							t.Errorf("%s: %q after %q", owner, v, last)
						}
						last = v
					}})
					time.Sleep(time.Duration(o+1) * time.Microsecond)
					set.Reconcile(owner, nil)
					gone.Store(true)
				}
			})
		}
		for i := range 400 {
			src.set("api", fmt.Sprintf("%04d", i+1))
			time.Sleep(time.Microsecond)
		}
		owners.Wait()
		stop()
	})
}

func TestAKeylessSetIsNamedByItsNameAlone(t *testing.T) {
	set := NewSet("roots", func(struct{}) Fetch[string] { return nil }, same, Options{})
	set.Reconcile("web", map[struct{}]func(string){{}: func(string) {}})
	if got := set.Status(); len(got) != 1 || got[0].Key != "roots" {
		t.Errorf("status %+v, want key \"roots\"", got)
	}
}
