// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// A bubble is a Tracing that runs in synctest.
type bubble struct {
	*Tracing
	box  *box
	log  bytes.Buffer
	stop context.CancelFunc
	over chan error
}

func start(t *testing.T, b *box, change func(*settings)) *bubble {
	t.Helper()
	s := always(t)
	if change != nil {
		change(&s)
	}
	u := &bubble{box: b, over: make(chan error, 1)}
	u.Tracing = newTracing(s, hclog.New(&hclog.LoggerOptions{Output: &u.log, DisableTime: true}), b)
	ctx, cancel := context.WithCancel(t.Context())
	u.stop = cancel
	go func() { u.over <- u.Run(ctx) }()
	synctest.Wait()
	return u
}

// request makes n requests with one try each.
func (u *bubble) request(n int) {
	for range n {
		follow(u.Tracing, connect.Header{}, &flow.Record{Service: "web", Tries: []flow.Try{{}}})
	}
}

func (u *bubble) batches() []int {
	batches, _ := u.box.seen()
	return batches
}

// end ends Run, and returns how long that took.
func (u *bubble) end(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	u.stop()
	if err := <-u.over; err != nil || !u.box.closed {
		t.Errorf("run: %v, closed %t", err, u.box.closed)
	}
	return time.Since(began)
}

func TestSpansAreSentInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := start(t, &box{}, func(s *settings) { s.batch = 10 })
		u.request(12)
		synctest.Wait()
		if diff := cmp.Diff([]int{10, 10}, u.batches()); diff != "" {
			t.Errorf("full batches are sent at once (-want +got):\n%s", diff)
		}
		time.Sleep(defaultDelay)
		synctest.Wait()
		if diff := cmp.Diff([]int{10, 10, 4}, u.batches()); diff != "" {
			t.Errorf("the rest is sent after a while (-want +got):\n%s", diff)
		}
		u.request(7)
		synctest.Wait()
		if took := u.end(t); took != 0 {
			t.Errorf("the end took %v", took)
		}
		if diff := cmp.Diff([]int{10, 10, 4, 10, 4}, u.batches()); diff != "" {
			t.Errorf("what is left at the end is sent (-want +got):\n%s", diff)
		}
		if got, want := u.Stats(), (Stats{Made: 38, Sent: 38}); got != want || u.held.Load() != 0 {
			t.Errorf("%+v, want %+v; %d bytes are held", got, want, u.held.Load())
		}
	})
}

// In a bubble time passes only when everybody waits: had a request waited for the
// collector, the clock would show it.
func TestCollectorThatNeverAnswersSlowsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := start(t, &box{hang: true}, func(s *settings) { s.queue, s.batch = 100, 10 })
		u.request(5)
		synctest.Wait() // the first batch is under way, and stays so
		began := time.Now()
		u.request(1000)
		if took := time.Since(began); took != 0 {
			t.Errorf("requests waited %v for the collector", took)
		}
		if got, want := u.Stats(), (Stats{Made: 2010, Dropped: 1800}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		if took := u.end(t); took != lastWords {
			t.Errorf("the end took %v, want %v", took, lastWords)
		}
		if got, want := u.Stats(), (Stats{Made: 2010, Dropped: 1800, Failed: 210}); got != want || u.held.Load() != 0 {
			t.Errorf("%+v, want %+v; %d bytes are held", got, want, u.held.Load())
		}
	})
}

func TestBatchIsSentAgainAsLongAsThatHelps(t *testing.T) {
	busy := &later{cause: errors.New("busy")}
	for name, tc := range map[string]struct {
		fail        func(n int) error
		calls       int
		want        Stats
		least, most time.Duration
	}{
		"it goes away":       {func(n int) error { return map[int]error{1: busy, 2: busy}[n] }, 3, Stats{Made: 2, Sent: 2}, 1500 * time.Millisecond, 3 * time.Second},
		"it stays":           {func(int) error { return busy }, maxTries, Stats{Made: 2, Failed: 2}, 3500 * time.Millisecond, 7 * time.Second},
		"it cannot go away":  {func(int) error { return errors.New("refused") }, 1, Stats{Made: 2, Failed: 2}, 0, 0},
		"it is told to wait": {func(n int) error { return map[int]error{1: &later{cause: busy, after: 20 * time.Second}}[n] }, 2, Stats{Made: 2, Sent: 2}, 20 * time.Second, 20 * time.Second},
		"it asks too much":   {func(n int) error { return map[int]error{1: &later{cause: busy, after: time.Hour}}[n] }, 2, Stats{Made: 2, Sent: 2}, longestPause, longestPause},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := start(t, &box{fail: tc.fail}, nil)
				u.request(1)
				began := time.Now()
				for u.Stats().Sent+u.Stats().Failed == 0 {
					time.Sleep(10 * time.Millisecond)
				}
				took := time.Since(began) - defaultDelay
				_, calls := u.box.seen()
				if took < tc.least || took > tc.most+10*time.Millisecond || calls != tc.calls || u.Stats() != tc.want {
					t.Errorf("%d calls in %v, %+v", calls, took, u.Stats())
				}
				u.end(t)
			})
		})
	}
}

func TestFailuresAreLoggedOnceAndThenNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := start(t, &box{fail: func(n int) error {
			if n < 25 {
				return errors.New("connection refused")
			}
			return nil
		}}, nil)
		for range 25 {
			u.request(1)
			time.Sleep(defaultDelay)
		}
		synctest.Wait()
		u.end(t)
		log := u.log.String()
		if failed, well := strings.Count(log, "traces cannot be sent"), strings.Count(log, "traces are sent again"); failed != 3 || well != 1 {
			t.Errorf("%d lines of failure, %d of recovery:\n%s", failed, well, log)
		}
		if !strings.Contains(log, `error="connection refused" failures=20`) {
			t.Errorf("log:\n%s", log)
		}
	})
}

func TestDropsAreLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := start(t, &box{}, func(s *settings) { s.queue, s.batch = 1, 1 })
		for range 100 {
			u.request(3)
			time.Sleep(time.Second)
		}
		u.end(t)
		if n := strings.Count(u.log.String(), "spans are dropped"); n != 2 {
			t.Errorf("%d lines in 100 s:\n%s", n, u.log.String())
		}
		if got := u.Stats(); got.Dropped == 0 || got.Sent+got.Dropped != got.Made {
			t.Errorf("%+v", got)
		}
	})
}

func TestSpansThatTheCollectorRefusesAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := start(t, &box{refuse: 1}, nil)
		u.request(1)
		u.end(t)
		if got, want := u.Stats(), (Stats{Made: 2, Sent: 1, Failed: 1}); got != want || !strings.Contains(u.log.String(), "the collector has refused spans") {
			t.Errorf("%+v, want %+v:\n%s", got, want, u.log.String())
		}
	})
}

func TestOnlyOneRunsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := start(t, &box{}, nil)
		if err := u.Run(t.Context()); !errors.Is(err, errRunning) {
			t.Errorf("a second run: %v", err)
		}
		u.end(t)
	})
}
