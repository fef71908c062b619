// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

// The largest number that Consul accepts is how people turn ejection off.
func TestHugeSettingsDoNotTurnIntoSmallOnes(t *testing.T) {
	g := group(Options{Health: connect.PassiveHealth{MaxFailures: math.MaxUint32}, Fallback: true}, 1, 1)
	if g.Failed(&g.Entries()[0], epoch, "x") {
		t.Error("ejected at the first failure of 4294967295")
	}
	g = group(Options{Health: connect.PassiveHealth{MaxFailures: 1, BaseEjectionTime: math.MaxInt64/2 + 1}, Fallback: true}, 1, 1)
	bad, now := &g.Entries()[0], epoch
	for range 3 {
		g.Failed(bad, now, "x")
		if got := bad.State.EjectedUntil().Sub(now); got != 300*time.Second {
			t.Errorf("ejected for %v, want the cap", got)
		}
		now = now.Add(300 * time.Second)
	}
	if g := group(Options{LoadBalancer: connect.LoadBalancer{Policy: "least_request", ChoiceCount: math.MaxInt32}}, 1, 1); g.choices != 2 {
		t.Errorf("%d choices among two endpoints", g.choices)
	}
}

// The healthy endpoints may leave while the last one is still ejected.
func TestOnlyEndpointLeftIsPickedAlthoughEjected(t *testing.T) {
	for _, fallback := range []bool{false, true} {
		r := NewRegistry()
		opts := Options{Health: connect.PassiveHealth{MaxFailures: 1}, Fallback: fallback}
		two := NewGroup(r, Key{"api", "api"}, endpoints(1, 1), opts)
		two.Failed(&two.Entries()[0], epoch, "x")
		one := NewGroup(r, Key{"api", "api"}, endpoints(1), opts)
		got := one.Pick(epoch, nil)
		if (got != nil) == fallback {
			t.Errorf("with another target %t: picked %v", fallback, got)
		}
		if got != nil && one.Pick(epoch, []*Entry{got}) != nil {
			t.Error("picked what was tried")
		}
	}
}

// Ejecting looks at all endpoints and then changes one: without a lock, those
// that fail at the same instant would all see room for one more.
func TestSimultaneousFailuresNeverEjectMoreThanTheLimit(t *testing.T) {
	const n, rounds = 64, 2000
	for _, old := range []bool{false, true} {
		for round := range rounds {
			r, opts := NewRegistry(), Options{Health: connect.PassiveHealth{MaxFailures: 1}, Fallback: true}
			g := NewGroup(r, Key{"api", "api"}, ones(n), opts)
			groups := []*Group{g, g}
			if old { // connections of the snapshot before still fail through its group
				groups[1] = NewGroup(r, Key{"api", "api"}, ones(n), opts)
			}
			start := make(chan struct{})
			var wg sync.WaitGroup
			var ejected atomic.Int32
			for w := range 4 {
				wg.Go(func() {
					<-start
					mine := groups[w%2]
					for i := w; i < n; i += 4 {
						if mine.Failed(&mine.Entries()[i], epoch, "x") {
							ejected.Add(1)
						}
					}
				})
			}
			close(start)
			wg.Wait()
			if out := g.out(epoch); out != g.outlier.limit || int(ejected.Load()) != out {
				t.Fatalf("round %d: %d of %d endpoints are out and %d were reported, want %d", round, out, n, ejected.Load(), g.outlier.limit)
			}
		}
	}
}

func TestServerErrorsAndLocalFailuresAreOneRow(t *testing.T) {
	for _, tc := range []struct {
		name   string
		health connect.PassiveHealth
		row    []Outcome
		want   bool
	}{
		{"five by default", connect.PassiveHealth{}, []Outcome{ServerError, LocalFailure, ServerError, LocalFailure, ServerError}, true},
		{"four are not enough", connect.PassiveHealth{}, []Outcome{ServerError, LocalFailure, ServerError, LocalFailure}, false},
		{"a success between", connect.PassiveHealth{}, []Outcome{ServerError, ServerError, ServerError, ServerError, Success, ServerError}, false},
		{"only server errors", connect.PassiveHealth{MaxFailures: 2}, []Outcome{ServerError, ServerError}, true},
		{"only local failures", connect.PassiveHealth{MaxFailures: 2}, []Outcome{LocalFailure, LocalFailure}, true},
		{"enforcing 0", connect.PassiveHealth{MaxFailures: 1, Enforcing: -1}, []Outcome{LocalFailure, ServerError, LocalFailure, ServerError, LocalFailure}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := group(Options{Health: tc.health}, 1, 1)
			e := &g.Entries()[0]
			var ejected []*Entry
			for _, outcome := range tc.row {
				ejected = append(ejected, g.Observe(e, epoch, time.Millisecond, outcome)...)
			}
			if got := e.State.Ejected(epoch); got != tc.want || len(ejected) > 0 != tc.want || tc.want && ejected[0] != e {
				t.Errorf("ejected is %t and %d were reported, want %t", got, len(ejected), tc.want)
			}
		})
	}
}

// A request that began before the ejection fails after it: the endpoint must
// not come back with a row already behind it.
func TestFailuresWhileEjectedDoNotCount(t *testing.T) {
	g := group(Options{Health: connect.PassiveHealth{MaxFailures: 3}}, 1, 1)
	bad := &g.Entries()[0]
	for range 20 {
		g.Observe(bad, epoch, time.Millisecond, LocalFailure)
	}
	back := bad.State.EjectedUntil()
	for i := 1; i <= 3; i++ {
		if got := g.Failed(bad, back, "x"); got != (i == 3) {
			t.Errorf("failure %d after the ejection: ejected is %t", i, got)
		}
	}
}

func TestEnforcingIsTheShareOfRowsThatEject(t *testing.T) {
	g := group(Options{Health: connect.PassiveHealth{MaxFailures: 5, Enforcing: 50}}, 1, 1)
	bad, now, ejections := &g.Entries()[0], epoch, 0
	const rows = 2000
	for range rows {
		for range 5 {
			if g.Failed(bad, now, "x") {
				ejections++
				now = bad.State.EjectedUntil()
			}
		}
	}
	if share := float64(ejections) / rows; math.Abs(share-0.5) > 5*math.Sqrt(0.25/rows) {
		t.Errorf("%.3f of the rows ejected, want about a half", share)
	}
}

// window answers as many requests for each endpoint in one window, some of them
// with failures, and returns what the first request after it ejects.
func window(g *Group, start time.Time, requests int, failures []int) []*Entry {
	g.Observe(&g.Entries()[0], start, 0, Success)
	g.Entries()[0].State.window.take()
	for i, failed := range failures {
		for n := range requests {
			outcome := Success
			if n < failed {
				outcome = ServerError
			}
			g.Observe(&g.Entries()[i], start, 0, outcome)
		}
	}
	return g.Observe(&g.Entries()[0], start.Add(g.outlier.interval), 0, Success)
}

func TestLowSuccessRateEjects(t *testing.T) {
	for _, tc := range []struct {
		name     string
		requests int
		failures []int // of each endpoint
		health   connect.PassiveHealth
		fallback bool
		want     []int
	}{
		{"one far below", 200, []int{0, 0, 100, 0, 0, 0}, connect.PassiveHealth{}, false, []int{2}},
		{"one far below, failures in a row not enforced", 200, []int{0, 0, 100, 0, 0, 0}, connect.PassiveHealth{Enforcing: -1}, false, []int{2}},
		{"all alike", 200, []int{50, 50, 50, 50, 50, 50}, connect.PassiveHealth{}, false, nil},
		{"spread", 200, []int{10, 20, 30, 40, 50, 60}, connect.PassiveHealth{}, false, nil},
		{"too few endpoints", 200, []int{0, 0, 0, 100}, connect.PassiveHealth{}, false, nil},
		{"too few requests", 99, []int{0, 0, 0, 0, 0, 90}, connect.PassiveHealth{}, false, nil},
		{"enough requests", 100, []int{0, 0, 0, 0, 0, 90}, connect.PassiveHealth{}, false, []int{5}},
		{"two, but only one may go", 200, []int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 100}, connect.PassiveHealth{}, false, []int{10}},
		{"two", 200, []int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 100}, connect.PassiveHealth{MaxEjectionPercent: 50}, false, []int{10, 11}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			weights := make([]int, len(tc.failures))
			for i := range weights {
				weights[i] = 1
			}
			tc.health.MaxFailures = math.MaxInt32
			g := group(Options{Health: tc.health, Fallback: tc.fallback}, weights...)
			var got []int
			for _, e := range window(g, epoch, tc.requests, tc.failures) {
				for i := range g.Entries() {
					if e == &g.Entries()[i] {
						got = append(got, i)
					}
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("ejected (-want +got):\n%s", diff)
			}
			for _, i := range tc.want {
				e := g.Entries()[i].State
				if until := e.EjectedUntil().Sub(epoch); until != 40*time.Second {
					t.Errorf("endpoint %d is out until %v after the window began, want 40s", i, until)
				}
				if cause := e.LastFailure(); !strings.HasPrefix(cause, "success rate of ") {
					t.Errorf("endpoint %d says %q", i, cause)
				}
			}
		})
	}
}

// 1.9 population standard deviations below the mean of 95.5 are 69.8 here.
func TestThresholdIsEnvoys(t *testing.T) {
	var rates []rate
	for _, r := range []float64{1, 1, 1, 1, 1, 1, 1, 1, 0.85, 0.70} {
		rates = append(rates, rate{nil, r})
	}
	mean, least := threshold(rates)
	if math.Abs(mean-0.955) > 1e-9 || math.Abs(least-(0.955-1.9*0.0960469)) > 1e-6 {
		t.Errorf("the mean is %v and the threshold %v", mean, least)
	}
}

func TestWindowFollowsTheInterval(t *testing.T) {
	failures := []int{0, 0, 100, 0, 0, 0}
	for _, tc := range []struct {
		name     string
		interval time.Duration
		at       time.Duration // when the next request comes
		want     int
	}{
		{"just before the end", 0, 10*time.Second - 1, 0},
		{"at the end", 0, 10 * time.Second, 1},
		{"within the next window", 0, 20 * time.Second, 1},
		{"long after", 0, 20*time.Second + 1, 0},
		{"a longer one", time.Minute, 59 * time.Second, 0},
		{"the end of a longer one", time.Minute, 60 * time.Second, 1},
		{"the clock went back a little", 0, -time.Second, 0},
		{"the clock went back for a day", 0, -24 * time.Hour, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := group(Options{Health: connect.PassiveHealth{MaxFailures: math.MaxInt32, Interval: tc.interval}}, 1, 1, 1, 1, 1, 1)
			g.Observe(&g.Entries()[0], epoch, 0, Success)
			for i, failed := range failures {
				for n := range 200 {
					outcome := Success
					if n < failed {
						outcome = LocalFailure
					}
					g.Observe(&g.Entries()[i], epoch, 0, outcome)
				}
			}
			at := epoch.Add(tc.at)
			if got := len(g.Observe(&g.Entries()[0], at, 0, Success)); got != tc.want {
				t.Errorf("%d ejected, want %d", got, tc.want)
			}
			if got := len(window(g, at.Add(2*time.Hour), 200, failures)); got != 1 {
				t.Errorf("later %d were ejected, want 1", got)
			}
		})
	}
}

// With as many endpoints as a judgement needs, two judges that share the counts
// between them would both find too few.
func TestOneCallerJudgesAWindow(t *testing.T) {
	const callers, rounds = 2, 20000
	var groups [rounds]*Group
	for i := range groups {
		g := NewGroup(NewRegistry(), Key{"api", "api"}, ones(5), Options{Health: connect.PassiveHealth{MaxFailures: math.MaxInt32}})
		g.Observe(&g.Entries()[0], epoch, 0, Success)
		for j := range g.Entries() {
			g.Entries()[j].State.window.word.Store(200<<32 | uint64(200-j/4*100))
		}
		groups[i] = g
	}
	var ejected [callers][rounds]int
	var arrived atomic.Int64
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i, g := range groups {
				arrived.Add(1)
				for arrived.Load() < int64(callers*(i+1)) {
					runtime.Gosched()
				}
				ejected[c][i] = len(g.Observe(&g.Entries()[0], epoch.Add(10*time.Second), 0, Success))
			}
		})
	}
	wg.Wait()
	for i, g := range groups {
		if n := ejected[0][i] + ejected[1][i]; n != 1 || !g.Entries()[4].State.Ejected(epoch.Add(10*time.Second)) {
			t.Fatalf("window %d: %d ejections were reported, want one, of the last endpoint", i, n)
		}
	}
}

func TestBlameIsRememberedAndDecidesNothing(t *testing.T) {
	g := group(Options{Health: connect.PassiveHealth{MaxFailures: 1}}, 1, 1)
	s := g.Entries()[0].State
	s.Blame("reset by peer")
	s.Blame("answered 503")
	if s.LastFailure() != "answered 503" || s.Ejected(epoch) {
		t.Errorf("last failure is %q, ejected is %t", s.LastFailure(), s.Ejected(epoch))
	}
}
