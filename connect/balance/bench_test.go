// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"fmt"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

func policies() []string {
	return []string{"round_robin", "random", "least_request", "peak_ewma", "ring_hash", "maglev"}
}

// measured is a group of n endpoints of mixed weights, with known latencies and
// with its table filled.
func measured(policy string, n int) *Group {
	weights := make([]int, n)
	for i := range weights {
		weights[i] = 1 + i%3
	}
	g := group(Options{LoadBalancer: connect.LoadBalancer{Policy: policy}}, weights...)
	for i := range g.Entries() {
		g.Observe(&g.Entries()[i], epoch, time.Duration(1+i)*time.Millisecond, Success)
	}
	g.PickHashed(epoch, 0, nil)
	return g
}

func TestRequestsCostNoAllocation(t *testing.T) {
	for _, policy := range policies() {
		g := measured(policy, 10)
		g.Failed(&g.Entries()[3], epoch, "x")
		tried := []*Entry{&g.Entries()[0], &g.Entries()[1]}
		hash := uint64(0)
		for name, do := range map[string]func(){
			"Pick":                   func() { g.Pick(epoch, nil) },
			"Pick with tried":        func() { g.Pick(epoch, tried) },
			"PickHashed":             func() { hash++; g.PickHashed(epoch, hash, nil) },
			"PickHashed with tried":  func() { hash++; g.PickHashed(epoch, hash, tried) },
			"Observe a success":      func() { g.Observe(&g.Entries()[2], epoch, time.Millisecond, Success) },
			"Observe a server error": func() { g.Observe(&g.Entries()[2], epoch, time.Millisecond, ServerError) },
			"Blame for the same":     func() { g.Entries()[2].State.Blame("x") },
			"Hash":                   func() { hash = Hash(hash, "session-4711") },
		} {
			if name == "Observe a server error" {
				g.outlier.maxFailures = 1 << 30 // An ejection may allocate.
			}
			if n := testing.AllocsPerRun(100, do); n != 0 {
				t.Errorf("%s: %s: %v allocations", policy, name, n)
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, policy := range policies() {
		for _, n := range []int{3, 100} {
			b.Run(fmt.Sprintf("%s/%d", policy, n), func(b *testing.B) {
				g := measured(policy, n)
				b.ReportAllocs()
				hash := uint64(0)
				for b.Loop() {
					if hash++; g.PickHashed(epoch, hash, nil) == nil {
						b.Fatal("nothing picked")
					}
				}
			})
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, policy := range []string{"round_robin", "peak_ewma"} {
		b.Run(policy, func(b *testing.B) {
			g := measured(policy, 3)
			b.ReportAllocs()
			now := epoch
			for b.Loop() {
				now = now.Add(50 * time.Microsecond)
				g.Observe(&g.Entries()[1], now, time.Millisecond, Success)
			}
		})
	}
}

// One snapshot of 100 upstreams with 100 endpoints each, nothing changed since
// the one before. Filling a table is apart: the first request pays for it.
func BenchmarkNewGroups(b *testing.B) {
	for _, policy := range []string{"peak_ewma", "ring_hash"} {
		b.Run(policy, func(b *testing.B) {
			r, weights := NewRegistry(), make([]int, 100)
			for i := range weights {
				weights[i] = 1
			}
			list := endpoints(weights...)
			b.ReportAllocs()
			for b.Loop() {
				for i := range 100 {
					NewGroup(r, Key{"api", connect.TargetID(rune('a' + i))}, list, Options{LoadBalancer: connect.LoadBalancer{Policy: policy}})
				}
			}
		})
	}
}

func BenchmarkFill(b *testing.B) {
	for _, policy := range []string{"ring_hash", "maglev"} {
		b.Run(policy, func(b *testing.B) {
			members := measured(policy, 100).table.members
			b.ReportAllocs()
			for b.Loop() {
				if t := (&table{policy: policy, size: defaultMinRing, most: maxRing, members: members}); t.slots() == nil {
					b.Fatal("no slots")
				}
			}
		})
	}
}
