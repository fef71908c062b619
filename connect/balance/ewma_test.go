// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

func ewma(weights ...int) *Group {
	return group(Options{LoadBalancer: connect.LoadBalancer{Policy: "peak_ewma"}}, weights...)
}

// near reports whether an estimate is what it should be, within what a tick and
// a float32 lose.
func near(got, want time.Duration) bool {
	return math.Abs(float64(got-want)) <= 0.001*float64(want)+1000
}

func TestLatencyRisesAtOnceAndFallsSlowly(t *testing.T) {
	g := ewma(1, 1)
	e := &g.Entries()[0]
	if got := e.State.Latency(epoch); got != 0 {
		t.Errorf("an estimate of %v before anything was observed", got)
	}
	now := epoch
	for _, step := range []struct {
		after, took, want time.Duration
	}{
		{0, 10 * time.Millisecond, 10 * time.Millisecond},
		{time.Second, 80 * time.Millisecond, 80 * time.Millisecond},         // a peak counts whole
		{0, 10 * time.Millisecond, 80 * time.Millisecond},                   // no time has passed
		{10 * time.Second, 10 * time.Millisecond, 35752 * time.Microsecond}, // 80/e + 10·(1-1/e)
		{100 * time.Second, 10 * time.Millisecond, 10001 * time.Microsecond},
		{time.Second, 0, 9049 * time.Microsecond},
		{time.Second, time.Hour, 60 * time.Second}, // bounded
	} {
		now = now.Add(step.after)
		g.Observe(e, now, step.took, Success)
		if got := e.State.Latency(now); !near(got, step.want) {
			t.Errorf("after %v with %v: the estimate is %v, want %v", step.after, step.took, got, step.want)
		}
	}
	if got := e.State.Latency(now.Add(10 * time.Second)); !near(got, 22073*time.Millisecond) {
		t.Errorf("the estimate does not fade without requests: %v", got)
	}
}

func TestClockGoingBackDoesNotSpoilTheEstimate(t *testing.T) {
	g := ewma(1)
	e := &g.Entries()[0]
	g.Observe(e, epoch, 100*time.Millisecond, Success)
	if got := e.State.Latency(epoch.Add(-time.Second)); !near(got, 100*time.Millisecond) {
		t.Errorf("a second before: %v", got)
	}
	g.Observe(e, epoch.Add(-time.Second), 10*time.Millisecond, Success)
	if got := e.State.Latency(epoch); !near(got, 100*time.Millisecond) {
		t.Errorf("an answer out of order changed the estimate to %v", got)
	}
	g.Observe(e, epoch.Add(-time.Hour), 10*time.Millisecond, Success)
	if got := e.State.Latency(epoch.Add(-time.Hour)); !near(got, 10*time.Millisecond) {
		t.Errorf("after the clock went back for an hour the old estimate stays: %v", got)
	}
	if got := e.State.Latency(epoch.Add(40 * 24 * time.Hour)); got != 0 {
		t.Errorf("the estimate is %v after 40 days", got)
	}
}

func TestFastEndpointGetsTheTraffic(t *testing.T) {
	g := ewma(1, 1, 1)
	for i, took := range []time.Duration{5, 50, 50} {
		g.Observe(&g.Entries()[i], epoch, took*time.Millisecond, Success)
	}
	const n = 6000
	// It is drawn in two thirds of all pairs, and wins each.
	if share := float64(picks(g, n)["e0"]) / n; math.Abs(share-2.0/3) > 0.04 {
		t.Errorf("the fast one of three got a share of %.3f, want about 0.667", share)
	}
	// In use, ten times as fast is worth ten requests.
	for range 30 {
		g.Entries()[0].State.Begin()
	}
	if got := picks(g, n)["e0"]; got != 0 {
		t.Errorf("the fast one was picked %d times with 30 requests in use", got)
	}
}

func TestSlowEndpointIsTriedAgainAndForgiven(t *testing.T) {
	g := ewma(1, 1)
	now, slow := epoch, &g.Entries()[1]
	g.Observe(&g.Entries()[0], now, 10*time.Millisecond, Success)
	g.Observe(slow, now, 2*time.Second, Success)
	first, after := time.Duration(0), 0
	for range 1200 { // two minutes, ten requests a second
		now = now.Add(100 * time.Millisecond)
		e := g.Pick(now, nil)
		if e == slow {
			if first == 0 {
				first = now.Sub(epoch)
			}
			after++
		}
		g.Observe(e, now, 10*time.Millisecond, Success)
	}
	// ln(2 s / 8 ms) × 10 s.
	if first < 45*time.Second || first > 65*time.Second {
		t.Errorf("the slow endpoint was tried again after %v, want about 55 s", first)
	}
	if after < 100 {
		t.Errorf("it got %d requests after it had recovered", after)
	}
}

func TestNewEndpointIsTriedButNotStampeded(t *testing.T) {
	for _, took := range []time.Duration{100 * time.Microsecond, time.Second} {
		g := ewma(1, 1, 1, 1)
		for i := range 3 {
			g.Observe(&g.Entries()[i], epoch, took, Success)
		}
		// Sixty requests begin before the first one is answered.
		for range 60 {
			g.Pick(epoch, nil).State.Begin()
		}
		if n := g.Entries()[3].State.Active(); n < 10 || n > 20 {
			t.Errorf("in a group of %v the new endpoint was given %d of 60 requests, want about its share of 15", took, n)
		}
	}
}

func TestFailingFastIsNotFast(t *testing.T) {
	for _, outcome := range []Outcome{ServerError, LocalFailure} {
		g := ewma(1, 1)
		g.outlier.maxFailures = math.MaxInt32
		bad := &g.Entries()[0]
		g.Observe(&g.Entries()[1], epoch, 20*time.Millisecond, Success)
		g.Observe(bad, epoch, time.Microsecond, outcome)
		if got := picks(g, 100)["e0"]; got != 0 {
			t.Errorf("outcome %d: the failing endpoint was picked %d of 100 times", outcome, got)
		}
		for range 20 {
			g.Observe(bad, epoch, time.Microsecond, outcome)
		}
		if got := bad.State.Latency(epoch); !near(got, 5*time.Second) {
			t.Errorf("outcome %d: many failures make an estimate of %v, want the bound of 5 s", outcome, got)
		}
	}
}

// One that never answers has no latency, but what it holds counts against it.
func TestSilentEndpointLosesTraffic(t *testing.T) {
	g := ewma(1, 1)
	silent := &g.Entries()[0]
	for range 5 {
		silent.State.Begin()
	}
	g.Observe(&g.Entries()[1], epoch, time.Second, Success)
	if got := picks(g, 100)["e0"]; got != 0 {
		t.Errorf("the silent endpoint was picked %d of 100 times", got)
	}
}

func TestOtherPoliciesKeepNoLatency(t *testing.T) {
	g := group(Options{}, 1, 1)
	g.Observe(&g.Entries()[0], epoch, time.Second, Success)
	if got := g.Entries()[0].State.Latency(epoch); got != 0 {
		t.Errorf("round robin keeps a latency of %v", got)
	}
}

// Without a lock, no peak may get lost between others.
func TestConcurrentObservationsKeepThePeak(t *testing.T) {
	for range 50 {
		g := ewma(1)
		e := &g.Entries()[0]
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				<-start
				for n := range 50 {
					g.Observe(e, epoch, time.Duration(1+i*50+n)*time.Millisecond, Success)
				}
			})
		}
		close(start)
		wg.Wait()
		if got := e.State.Latency(epoch); !near(got, 400*time.Millisecond) {
			t.Fatalf("the estimate is %v, want the peak of 400ms", got)
		}
	}
}

func TestTwoAreDifferentAndDrawnByWeight(t *testing.T) {
	g := ewma(5, 1, 3)
	first, second := map[string]float64{}, map[string]float64{}
	const n = 40000
	for range n {
		a, b := g.two()
		if a == b {
			t.Fatal("the two are one")
		}
		first[a.Endpoint.ID]++
		second[a.Endpoint.ID+b.Endpoint.ID]++
	}
	for id, want := range map[string]float64{"e0": 5.0 / 9, "e1": 1.0 / 9, "e2": 3.0 / 9} {
		if got := first[id] / n; math.Abs(got-want) > 0.015 {
			t.Errorf("%s is first in %.3f, want %.3f", id, got, want)
		}
	}
	for pair, want := range map[string]float64{"e0e1": 1.0 / 4, "e0e2": 3.0 / 4, "e1e0": 5.0 / 8, "e2e0": 5.0 / 6} {
		if got := second[pair] / first[pair[:2]]; math.Abs(got-want) > 0.035 {
			t.Errorf("after %s comes %s in %.3f, want %.3f", pair[:2], pair[2:], got, want)
		}
	}
}

// Everything at once, for the race detector: picks, observations and snapshots
// whose groups share states, history and table.
func TestGroupsAreSafeForConcurrentUse(t *testing.T) {
	for _, policy := range policies() {
		r := NewRegistry()
		build := func(n int) *Group {
			return NewGroup(r, Key{"api", "api"}, ones(n), Options{LoadBalancer: connect.LoadBalancer{Policy: policy}, Health: connect.PassiveHealth{MaxFailures: 2, MaxEjectionPercent: 50}})
		}
		g := build(6)
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				source := rand.New(rand.NewPCG(uint64(i), 0))
				mine := g
				for n := range 400 {
					if n%100 == 99 {
						mine = build(5 + n%2)
					}
					now := epoch.Add(time.Duration(n) * 100 * time.Millisecond)
					e := mine.PickHashed(now, source.Uint64(), nil)
					if e == nil {
						continue
					}
					e.State.Begin()
					mine.Observe(e, now, time.Duration(source.IntN(1e7)), Outcome(source.IntN(3)))
					e.State.End()
				}
			})
		}
		wg.Wait()
		last := build(6)
		for i := range last.Entries() {
			if n := last.Entries()[i].State.Active(); n != 0 {
				t.Errorf("%s: endpoint %d has %d in use", policy, i, n)
			}
		}
	}
}
