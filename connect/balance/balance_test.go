// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func endpoints(weights ...int) []connect.Endpoint {
	var out []connect.Endpoint
	for i, w := range weights {
		e := connect.Endpoint{ID: fmt.Sprintf("e%d", i), Address: fmt.Sprintf("10.0.0.%d", i+1), Port: 1000, Weight: w}
		if w == 0 {
			e.Unusable = "check is critical"
		}
		out = append(out, e)
	}
	return out
}

func group(opts Options, weights ...int) *Group {
	return NewGroup(NewRegistry(), Key{"api", "api"}, endpoints(weights...), opts)
}

func picks(g *Group, n int) map[string]int {
	counts := map[string]int{}
	for range n {
		counts[g.Pick(epoch, nil).Endpoint.ID]++
	}
	return counts
}

func TestRoundRobinGivesEachEndpointExactlyItsWeightPerRound(t *testing.T) {
	for _, weights := range [][]int{{1}, {1, 1}, {1, 1, 1}, {5, 1, 3}, {128, 1}, {7, 0, 7}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10}} {
		total := 0
		for _, w := range weights {
			total += w
		}
		got := picks(group(Options{}, weights...), 3*total)
		for i, w := range weights {
			if got[fmt.Sprintf("e%d", i)] != 3*w {
				t.Errorf("weights %v: got %v over three rounds", weights, got)
			}
		}
	}
}

func TestRoundRobinSpreadsWithinARound(t *testing.T) {
	g := group(Options{}, 50, 50)
	longest, run, last := 0, 0, ""
	for range 100 {
		id := g.Pick(epoch, nil).Endpoint.ID
		if id != last {
			run, last = 0, id
		}
		run++
		longest = max(longest, run)
	}
	if longest > 3 {
		t.Errorf("one endpoint was picked %d times in a row out of two equal ones", longest)
	}
}

func TestEveryPolicyFollowsWeightsWhenIdle(t *testing.T) {
	const n = 20000
	for _, policy := range []string{"", "round_robin", "random", "least_request", "ring_hash", "maglev", "peak_ewma"} {
		for _, weights := range [][]int{{3, 1}, {1, 2, 5}, {1, 1, 1, 1}} {
			g := group(Options{LoadBalancer: connect.LoadBalancer{Policy: policy}}, weights...)
			for i := range g.Entries() {
				// Equal up to noise, which must not decide.
				g.Observe(&g.Entries()[i], epoch, time.Duration(100+i)*time.Millisecond, Success)
			}
			got := picks(g, n)
			for i, w := range weights {
				share, want := float64(got[fmt.Sprintf("e%d", i)])/n, float64(w)/float64(g.total)
				// Five standard deviations of a binomial: fails by chance once in a million runs.
				if math.Abs(share-want) > 5*math.Sqrt(want*(1-want)/n) {
					t.Errorf("%q: weight %d of %v got a share of %.3f", policy, w, weights, share)
				}
			}
		}
	}
}

func TestBusyEndpointsAreLoadedByWeight(t *testing.T) {
	for _, policy := range []string{"least_request", "peak_ewma"} {
		g := group(Options{LoadBalancer: connect.LoadBalancer{Policy: policy}}, 3, 1)
		for range 4000 {
			g.Pick(epoch, nil).State.Begin()
		}
		if n := g.Entries()[0].State.Active(); n < 2900 || n > 3100 {
			t.Errorf("%s: weight 3 of 4 has %d of 4000 requests", policy, n)
		}
	}
}

func TestDefaultIsForTargetsWithoutAPolicy(t *testing.T) {
	for _, tc := range []struct{ policy, byDefault, want string }{
		{"", "peak_ewma", "peak_ewma"},
		{"", "", ""},
		{"random", "peak_ewma", "random"},
		{"round_robin", "peak_ewma", "round_robin"},
	} {
		g := group(Options{LoadBalancer: connect.LoadBalancer{Policy: tc.policy}, Default: tc.byDefault}, 1, 1)
		if g.policy != tc.want {
			t.Errorf("%q with default %q: the policy is %q, want %q", tc.policy, tc.byDefault, g.policy, tc.want)
		}
	}
}

func TestLeastRequestPrefersTheLessLoaded(t *testing.T) {
	g := group(Options{LoadBalancer: connect.LoadBalancer{Policy: "least_request"}}, 1, 1)
	for range 10 {
		g.Entries()[0].State.Begin()
	}
	got := picks(g, 4000)
	// Both draws hit the loaded one in a quarter of the picks.
	if share := float64(got["e0"]) / 4000; share < 0.20 || share > 0.30 {
		t.Errorf("the loaded endpoint got a share of %.3f, want about 0.25", share)
	}
	for range 10 {
		g.Entries()[0].State.End()
	}
	if n := g.Entries()[0].State.Active(); n != 0 {
		t.Errorf("%d connections are still counted", n)
	}
}

func TestTriedEndpointsAreNotPickedAgain(t *testing.T) {
	for _, policy := range []string{"", "random", "least_request", "peak_ewma", "ring_hash", "maglev"} {
		g := group(Options{LoadBalancer: connect.LoadBalancer{Policy: policy}}, 100, 1, 1)
		var tried []*Entry
		seen := map[string]bool{}
		pick := func() *Entry {
			if g.Hashes() {
				return g.PickHashed(epoch, 7, tried)
			}
			return g.Pick(epoch, tried)
		}
		for e := pick(); e != nil; e = pick() {
			tried = append(tried, e)
			seen[e.Endpoint.ID] = true
		}
		if len(tried) != 3 || len(seen) != 3 {
			t.Errorf("%q: tried %d endpoints, %d different", policy, len(tried), len(seen))
		}
	}
}

func TestSingleEndpointIsPickedUnlessTried(t *testing.T) {
	for _, policy := range []string{"", "random", "least_request", "peak_ewma", "ring_hash", "maglev"} {
		g := group(Options{LoadBalancer: connect.LoadBalancer{Policy: policy}}, 7)
		only := &g.Entries()[0]
		if a, b := g.Pick(epoch, nil), g.PickHashed(epoch, 9, nil); a != only || b != only {
			t.Errorf("%q: picked %v and %v", policy, a, b)
		}
		if a, b := g.Pick(epoch, []*Entry{only}), g.PickHashed(epoch, 9, []*Entry{only}); a != nil || b != nil {
			t.Errorf("%q: picked %v and %v, which were tried", policy, a, b)
		}
	}
}

func TestEmptyGroupPicksNothing(t *testing.T) {
	for _, policy := range []string{"", "random", "least_request", "peak_ewma", "ring_hash", "maglev"} {
		g := group(Options{LoadBalancer: connect.LoadBalancer{Policy: policy}}, 0, 0)
		if a, b := g.Pick(epoch, nil), g.PickHashed(epoch, 7, nil); a != nil || b != nil {
			t.Errorf("%q: picked %v and %v of unusable endpoints", policy, a, b)
		}
	}
}

func TestEjectionAfterConsecutiveFailures(t *testing.T) {
	g := group(Options{Health: connect.PassiveHealth{MaxFailures: 3}}, 1, 1)
	bad := &g.Entries()[0]
	fail := func() bool { return g.Failed(bad, epoch, "connection refused") }
	if fail() || fail() {
		t.Fatal("ejected too early")
	}
	g.Succeeded(bad)
	if fail() || fail() {
		t.Fatal("a success does not end the row of failures")
	}
	if !fail() {
		t.Fatal("not ejected after three failures in a row")
	}
	if got := picks(g, 50); got["e0"] != 0 {
		t.Errorf("the ejected endpoint was picked %d times", got["e0"])
	}
	if !bad.State.Ejected(epoch.Add(30*time.Second-1)) || bad.State.Ejected(epoch.Add(30*time.Second)) {
		t.Error("the first ejection does not last 30 s")
	}
	if bad.State.LastFailure() != "connection refused" {
		t.Errorf("last failure is %q", bad.State.LastFailure())
	}
}

func TestEjectionGrowsToItsCapAndIsForgiven(t *testing.T) {
	g := group(Options{Health: connect.PassiveHealth{MaxFailures: 1}}, 1, 1)
	bad, now := &g.Entries()[0], epoch
	for i := 1; i <= 12; i++ {
		if !g.Failed(bad, now, "x") {
			t.Fatalf("ejection %d did not happen", i)
		}
		want := min(300*time.Second, time.Duration(i)*30*time.Second)
		if got := bad.State.EjectedUntil().Sub(now); got != want {
			t.Fatalf("ejection %d lasts %v, want %v", i, got, want)
		}
		now = bad.State.EjectedUntil()
	}
	now = now.Add(301 * time.Second)
	g.Failed(bad, now, "x")
	if got := bad.State.EjectedUntil().Sub(now); got != 30*time.Second {
		t.Errorf("after a quiet time the ejection lasts %v, want 30s", got)
	}
}

func TestEjectionLimits(t *testing.T) {
	for _, tc := range []struct {
		name      string
		endpoints int
		health    connect.PassiveHealth
		fallback  bool
		want      int // endpoints out when all fail
	}{
		{"ten percent, at least one", 5, connect.PassiveHealth{MaxFailures: 1}, true, 1},
		{"ten percent of thirty", 30, connect.PassiveHealth{MaxFailures: 1}, true, 3},
		{"all when allowed and another target takes over", 4, connect.PassiveHealth{MaxFailures: 1, MaxEjectionPercent: 100}, true, 4},
		{"never the last one without another target", 4, connect.PassiveHealth{MaxFailures: 1, MaxEjectionPercent: 100}, false, 3},
		{"the only one stays without another target", 1, connect.PassiveHealth{MaxFailures: 1}, false, 0},
		{"the only one goes when another target takes over", 1, connect.PassiveHealth{MaxFailures: 1}, true, 1},
		{"enforcing 0 ejects nobody", 4, connect.PassiveHealth{MaxFailures: 1, Enforcing: -1}, true, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			weights := make([]int, tc.endpoints)
			for i := range weights {
				weights[i] = 1
			}
			g := group(Options{Health: tc.health, Fallback: tc.fallback}, weights...)
			out := 0
			for i := range g.Entries() {
				if g.Failed(&g.Entries()[i], epoch, "x") {
					out++
				}
			}
			if out != tc.want {
				t.Errorf("%d of %d ejected, want %d", out, tc.endpoints, tc.want)
			}
		})
	}
}

func TestStateOutlivesSnapshotsButIsNotSharedBetweenUpstreams(t *testing.T) {
	r := NewRegistry()
	health := Options{Health: connect.PassiveHealth{MaxFailures: 1}}
	first := NewGroup(r, Key{"api", "api"}, endpoints(1, 1), health)
	first.Failed(&first.Entries()[0], epoch, "x")
	next := NewGroup(r, Key{"api", "api"}, endpoints(1, 1, 1), health)
	if !next.Entries()[0].State.Ejected(epoch) || next.Entries()[2].State.Ejected(epoch) {
		t.Error("the ejection did not carry over to the next snapshot, or to a new endpoint")
	}
	other := NewGroup(r, Key{"api?dc=dc2", "api"}, endpoints(1, 1), health)
	if other.Entries()[0].State.Ejected(epoch) {
		t.Error("another upstream shares the ejection")
	}
	NewGroup(r, Key{"api", "api"}, endpoints(0, 1), health)
	if back := NewGroup(r, Key{"api", "api"}, endpoints(1, 1), health); back.Entries()[0].State.Ejected(epoch) {
		t.Error("an endpoint that left and came back is still ejected")
	}
	r.Retain(map[Key]bool{{"api", "api"}: true})
	if len(r.groups) != 1 {
		t.Errorf("%d keys after Retain, want 1", len(r.groups))
	}
}
