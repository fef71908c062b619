// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func hashed(policy string, list []connect.Endpoint) *Group {
	return NewGroup(NewRegistry(), Key{"api", "api"}, list, Options{LoadBalancer: connect.LoadBalancer{Policy: policy}})
}

func keys(n int) []uint64 {
	source := rand.New(rand.NewPCG(1, 2))
	out := make([]uint64, n)
	for i := range out {
		out[i] = source.Uint64()
	}
	return out
}

// owners tells where each key goes, by the address of its endpoint.
func owners(g *Group, keys []uint64) []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = g.PickHashed(epoch, k, nil).Endpoint.Address
	}
	return out
}

func ones(n int) []connect.Endpoint {
	weights := make([]int, n)
	for i := range weights {
		weights[i] = 1
	}
	return endpoints(weights...)
}

func TestHashedSharesFollowWeights(t *testing.T) {
	for _, tc := range []struct {
		policy  string
		weights []int
		within  float64 // of the share by weight
	}{
		{"ring_hash", []int{1, 1, 1}, 0.20},
		{"ring_hash", []int{1, 2, 5}, 0.25},
		{"ring_hash", []int{100, 1}, 0.5},
		{"maglev", []int{1, 1, 1}, 0.02},
		{"maglev", []int{1, 2, 5}, 0.02},
		{"maglev", []int{100, 1}, 0.10},
		{"maglev", []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 0.05},
	} {
		g := hashed(tc.policy, endpoints(tc.weights...))
		const n = 200000
		counts := map[string]float64{}
		for _, owner := range owners(g, keys(n)) {
			counts[owner]++
		}
		for i, w := range tc.weights {
			share, want := counts[fmt.Sprintf("10.0.0.%d", i+1)]/n, float64(w)/float64(g.total)
			if math.Abs(share/want-1) > tc.within {
				t.Errorf("%s: weight %d of %v got a share of %.4f, want %.4f", tc.policy, w, tc.weights, share, want)
			}
		}
	}
}

// Sequential keys are the worst that a caller's hash can yield.
func TestPoorHashesAreSpreadToo(t *testing.T) {
	for _, policy := range []string{"ring_hash", "maglev"} {
		g, counts := hashed(policy, ones(4)), map[string]int{}
		for k := range uint64(4000) {
			counts[g.PickHashed(epoch, k, nil).Endpoint.ID]++
		}
		for id, n := range counts {
			if n < 700 || n > 1300 {
				t.Errorf("%s: %s got %d of 4000 keys in a row", policy, id, n)
			}
		}
	}
}

func TestRemovalMovesOnlyTheKeysOfTheRemoved(t *testing.T) {
	for _, tc := range []struct {
		policy    string
		endpoints int
		others    float64 // share of all keys that may move between those that stay
	}{
		{"ring_hash", 16, 0},
		{"ring_hash", 100, 0},
		{"ring_hash", 3, 0.34}, // the ring keeps its smallest size, so points are added for those that stay
		{"maglev", 16, 0.03},
		{"maglev", 100, 0.03},
	} {
		t.Run(fmt.Sprintf("%s of %d", tc.policy, tc.endpoints), func(t *testing.T) {
			all, keys := ones(tc.endpoints), keys(50000)
			gone := all[tc.endpoints/2].Address
			before := owners(hashed(tc.policy, all), keys)
			after := owners(hashed(tc.policy, slices.Delete(slices.Clone(all), tc.endpoints/2, tc.endpoints/2+1)), keys)
			removed, moved := 0, 0
			for i := range keys {
				switch {
				case before[i] == gone:
					removed++
				case before[i] != after[i]:
					moved++
				}
			}
			if share := float64(moved) / float64(len(keys)); share > tc.others {
				t.Errorf("%.4f of the keys moved between endpoints that stayed, at most %.4f may", share, tc.others)
			}
			if share := float64(removed) * float64(tc.endpoints) / float64(len(keys)); share < 0.6 || share > 1.4 {
				t.Errorf("the removed endpoint had %.2f times its share", share)
			}
		})
	}
}

func TestEjectionMovesOnlyTheKeysOfTheEjected(t *testing.T) {
	for _, policy := range []string{"ring_hash", "maglev"} {
		g, keys := hashed(policy, ones(20)), keys(20000)
		before := owners(g, keys)
		bad := &g.Entries()[7]
		bad.State.ejectedUntil.Store(epoch.Add(time.Minute).UnixNano())
		spread := map[string]bool{}
		for i, owner := range owners(g, keys) {
			switch before[i] {
			case bad.Endpoint.Address:
				spread[owner] = true
			case owner:
			default:
				t.Fatalf("%s: a key moved from %s to %s", policy, before[i], owner)
			}
		}
		if spread[bad.Endpoint.Address] {
			t.Errorf("%s: the ejected endpoint was picked", policy)
		}
		if len(spread) < 15 {
			t.Errorf("%s: its keys went to %d of 19 endpoints", policy, len(spread))
		}
		bad.State.ejectedUntil.Store(0)
		if diff := cmp.Diff(before, owners(g, keys)); diff != "" {
			t.Errorf("%s: keys did not come back with their endpoint:\n%s", policy, diff)
		}
	}
}

func TestPlacementDependsOnNothingButTheEndpoints(t *testing.T) {
	for _, policy := range []string{"ring_hash", "maglev"} {
		list, keys := endpoints(1, 2, 3, 1, 2, 3, 1), keys(5000)
		reversed := slices.Clone(list)
		slices.Reverse(reversed)
		if diff := cmp.Diff(owners(hashed(policy, list), keys), owners(hashed(policy, reversed), keys)); diff != "" {
			t.Errorf("%s: another order of endpoints places keys elsewhere:\n%s", policy, diff)
		}
	}
}

// Sidecars of different releases share a fleet: these numbers must not change.
func TestHashIsTheSameInEveryRelease(t *testing.T) {
	for _, tc := range []struct {
		before uint64
		part   string
		want   uint64
	}{
		{0, "", 0xf52a15e9a9b5e89b},
		{0, "session-4711", 0x1c48c0bc6b777ee6},
		{1, "session-4711", 0xd62efb5bbe8f964c},
	} {
		if got := Hash(tc.before, tc.part); got != tc.want {
			t.Errorf("Hash(%d, %q) = %#x, want %#x", tc.before, tc.part, got, tc.want)
		}
	}
	for policy, want := range map[string]string{"ring_hash": "737655447506550704820624", "maglev": "882588864343014012567766"} {
		var got string
		g := hashed(policy, ones(9))
		for _, k := range keys(24) {
			got += g.PickHashed(epoch, k, nil).Endpoint.ID[1:]
		}
		if got != want {
			t.Errorf("%s places the keys at %s, want %s", policy, got, want)
		}
	}
}

func TestOrderOfPartsCountsInAHash(t *testing.T) {
	if Hash(Hash(0, "a"), "b") == Hash(Hash(0, "b"), "a") || Hash(Hash(0, "a"), "b") == Hash(0, "ab") {
		t.Error("different parts have the same hash")
	}
}

func TestAllOutIsDecidedAsInPick(t *testing.T) {
	for _, policy := range []string{"ring_hash", "maglev"} {
		for _, fallback := range []bool{false, true} {
			g := NewGroup(NewRegistry(), Key{"api", "api"}, ones(3), Options{LoadBalancer: connect.LoadBalancer{Policy: policy}, Fallback: fallback})
			want := g.PickHashed(epoch, 42, nil)
			for i := range g.Entries() {
				g.Entries()[i].State.ejectedUntil.Store(epoch.Add(time.Minute).UnixNano())
			}
			if fallback {
				want = nil
			}
			if got := g.PickHashed(epoch, 42, nil); got != want {
				t.Errorf("%s with fallback %t: got %v, want %v", policy, fallback, got, want)
			}
		}
	}
}

// The last free one of many is found although hashing again misses it.
func TestLastFreeEndpointIsFound(t *testing.T) {
	for _, policy := range []string{"ring_hash", "maglev"} {
		g := hashed(policy, ones(500))
		for i := range g.Entries() {
			if i != 321 {
				g.Entries()[i].State.ejectedUntil.Store(epoch.Add(time.Minute).UnixNano())
			}
		}
		for _, k := range keys(50) {
			if e := g.PickHashed(epoch, k, nil); e != &g.Entries()[321] {
				t.Fatalf("%s: got %v", policy, e)
			}
		}
	}
}

func TestOtherPoliciesPickAsWithoutAHash(t *testing.T) {
	g := group(Options{}, 1, 1)
	if a, b := g.PickHashed(epoch, 1, nil), g.PickHashed(epoch, 1, nil); a == b || g.Hashes() {
		t.Errorf("round robin kept to one endpoint for one hash: %v", a)
	}
}

func TestRingSizesAreBounded(t *testing.T) {
	for _, tc := range []struct {
		name            string
		endpoints       []connect.Endpoint
		min, max        int
		atLeast, atMost int
	}{
		{"default, few", ones(2), 0, 0, 1024, 1024},
		{"default, many", ones(100), 0, 0, 12800, 12800},
		{"default, very many", ones(2000), 0, 0, 60000, maxGrown},
		{"heavy", endpoints(128, 128, 128, 128, 128, 128), 0, 0, 65000, maxGrown},
		{"asked for more", ones(3), 100000, 0, 99990, 100000},
		{"asked for too many", ones(3), 8 << 20, 8 << 20, maxRing - 3, maxRing},
		{"asked for less", ones(100), 0, 500, 500, 500},
		{"fewer than endpoints", ones(100), 0, 7, 100, 100},
		{"light beside heavy", endpoints(128, 1), 0, 100, 2, 101},
		{"nonsense", ones(3), -5, -5, 1020, 1024},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := NewGroup(NewRegistry(), Key{"api", "api"}, tc.endpoints, Options{
				LoadBalancer: connect.LoadBalancer{Policy: "ring_hash", MinRingSize: tc.min, MaxRingSize: tc.max},
			})
			g.PickHashed(epoch, 1, nil)
			ring := g.table.filled.Load().ring
			if len(ring) < tc.atLeast || len(ring) > tc.atMost {
				t.Errorf("%d points, want %d … %d", len(ring), tc.atLeast, tc.atMost)
			}
			has := map[uint32]bool{}
			for _, p := range ring {
				has[p.owner] = true
			}
			if len(has) != len(tc.endpoints) {
				t.Errorf("%d of %d endpoints have a point", len(has), len(tc.endpoints))
			}
		})
	}
}

func TestRingSearchFindsTheNextPoint(t *testing.T) {
	s := &slots{ring: fillRing([]member{{1, 1}, {2, 1}, {3, 5}}, 64, 64)}
	s.index()
	probes := append(keys(2000), 0, math.MaxUint64)
	for _, p := range s.ring {
		probes = append(probes, p.hash-1, p.hash, p.hash+1)
	}
	for _, h := range probes {
		want := slices.IndexFunc(s.ring, func(p point) bool { return p.hash >= h })
		if want < 0 {
			want = len(s.ring)
		}
		if got := s.search(h); got != want {
			t.Fatalf("%#x is at %d, want %d", h, got, want)
		}
	}
}

func TestTablesAreFilledOnceAndHandedOn(t *testing.T) {
	r := NewRegistry()
	lb := connect.LoadBalancer{Policy: "maglev"}
	build := func(list []connect.Endpoint, lb connect.LoadBalancer) *Group {
		return NewGroup(r, Key{"api", "api"}, list, Options{LoadBalancer: lb})
	}
	first := build(ones(3), lb)
	if first.table.filled.Load() != nil {
		t.Error("the table was filled before anybody asked")
	}
	first.PickHashed(epoch, 1, nil)
	if build(ones(3), lb).table != first.table {
		t.Error("an unchanged set of endpoints has a new table")
	}
	list := ones(4)
	list[3].Unusable = "check is critical"
	if build(list, lb).table != first.table {
		t.Error("an unusable endpoint changes the table")
	}
	if build(ones(3), connect.LoadBalancer{}).table != nil || build(ones(3), lb).table != first.table {
		t.Error("a group of the same target that hashes nothing costs the other its table")
	}
	for name, next := range map[string]*Group{
		"another endpoint": build(ones(4), lb),
		"another weight":   build(endpoints(1, 1, 2), lb),
		"another policy":   build(ones(3), connect.LoadBalancer{Policy: "ring_hash"}),
		"another size":     build(ones(3), connect.LoadBalancer{Policy: "ring_hash", MinRingSize: 5000}),
	} {
		if next.table.filled.Load() != nil {
			t.Errorf("%s: the table is still filled", name)
		}
	}
	port := ones(3)
	port[1].Port++
	if build(port, lb).table.same(first.table) {
		t.Error("another port is the same table")
	}
}
