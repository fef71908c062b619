// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package retry

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func admitted(b *Budget) int {
	n := 0
	for b.TryRetry() {
		n++
	}
	return n
}

func TestAdmitsAShareOfRequestsAndALeastNumber(t *testing.T) {
	for _, tc := range []struct {
		name           string
		least, percent int
		requests       int
		want           int
	}{
		{"no request", DefaultLeast, DefaultPercent, 0, 3},
		{"few requests", DefaultLeast, DefaultPercent, 15, 3},
		{"where the share begins", DefaultLeast, DefaultPercent, 20, 4},
		{"rounded down", DefaultLeast, DefaultPercent, 24, 4},
		{"many requests", DefaultLeast, DefaultPercent, 1000, 200},
		{"no least number", 0, 20, 4, 0},
		{"only a least number", 5, 0, 1000, 5},
		{"nothing", 0, 0, 1000, 0},
		{"negative is nothing", -1, -20, 1000, 0},
		{"no more than requests", 0, 5000, 10, 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := New(tc.least, tc.percent)
			for range tc.requests {
				b.Begin()
			}
			if got := admitted(b); got != tc.want {
				t.Errorf("%d retries admitted, want %d", got, tc.want)
			}
			if b.Requests() != tc.requests || b.Retries() != tc.want {
				t.Errorf("it counts %d requests and %d retries, want %d and %d", b.Requests(), b.Retries(), tc.requests, tc.want)
			}
		})
	}
}

func TestHugeSettingsDoNotTurnIntoSmallOnes(t *testing.T) {
	b := New(math.MaxInt, math.MaxInt)
	for range 1000 {
		if !b.TryRetry() {
			t.Fatalf("refused after %d retries", b.Retries())
		}
	}
}

func TestEndingMakesRoom(t *testing.T) {
	b := New(1, 50)
	for range 10 {
		b.Begin()
	}
	if got := admitted(b); got != 5 {
		t.Fatalf("%d retries admitted, want 5", got)
	}
	b.EndRetry()
	if got := admitted(b); got != 1 {
		t.Errorf("%d retries admitted after one has ended, want 1", got)
	}
	for range 10 {
		b.End()
	}
	if b.TryRetry() {
		t.Error("a retry was admitted although the requests that paid for those under way have ended")
	}
	for range 5 {
		b.EndRetry()
	}
	if b.Requests() != 0 || b.Retries() != 0 {
		t.Errorf("it counts %d requests and %d retries in the end", b.Requests(), b.Retries())
	}
}

// A naive budget beside ours, through random histories.
func TestBudgetIsItsModel(t *testing.T) {
	for seed := range uint64(200) {
		source := rand.New(rand.NewPCG(seed, 0))
		least, percent := source.IntN(5), source.IntN(101)
		b, requests, retries := New(least, percent), 0, 0
		for range 500 {
			switch source.IntN(5) {
			case 0, 1:
				b.Begin()
				requests++
			case 2:
				if requests > 0 {
					b.End()
					requests--
				}
			case 3:
				want := retries < least || (retries+1)*100 <= requests*percent
				if got := b.TryRetry(); got != want {
					t.Fatalf("least %d, %d%%: with %d requests and %d retries the next is %t, want %t", least, percent, requests, retries, got, want)
				}
				if want {
					retries++
				}
			case 4:
				if retries > 0 {
					b.EndRetry()
					retries--
				}
			}
		}
	}
}

// The requests stand still, so the bound does: however many try at once, those
// under way never exceed it, and all of it is used.
func TestConcurrentRetriesNeverExceedTheBound(t *testing.T) {
	b := New(DefaultLeast, DefaultPercent)
	for range 50 {
		b.Begin()
	}
	const bound = 10
	var now, most atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 5000 {
				if !b.TryRetry() {
					continue
				}
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				now.Add(-1)
				b.EndRetry()
			}
		})
	}
	wg.Wait()
	if most.Load() > bound {
		t.Errorf("%d retries were under way at once, at most %d may", most.Load(), bound)
	}
	if got := admitted(b); got != bound {
		t.Errorf("%d retries admitted in the end, want %d", got, bound)
	}
}

// All try at one instant and none ends: exactly the bound gets in.
func TestABurstOfRetriesIsCutAtTheBound(t *testing.T) {
	for range 200 {
		b := New(0, 10)
		for range 50 {
			b.Begin()
		}
		start := make(chan struct{})
		var in atomic.Int64
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				<-start
				if b.TryRetry() {
					in.Add(1)
				}
			})
		}
		close(start)
		wg.Wait()
		if in.Load() != 5 {
			t.Fatalf("%d retries got in, want 5", in.Load())
		}
	}
}

func TestNoneIsLostWhenRequestsComeAndGo(t *testing.T) {
	b := New(DefaultLeast, DefaultPercent)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5000 {
				b.Begin()
				if b.TryRetry() {
					b.EndRetry()
				}
				b.End()
			}
		})
	}
	wg.Wait()
	if b.Requests() != 0 || b.Retries() != 0 {
		t.Errorf("it counts %d requests and %d retries in the end", b.Requests(), b.Retries())
	}
}

func TestCountingCostsNoAllocation(t *testing.T) {
	b := New(DefaultLeast, DefaultPercent)
	if n := testing.AllocsPerRun(100, func() {
		b.Begin()
		if b.TryRetry() {
			b.EndRetry()
		}
		b.End()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBudget(b *testing.B) {
	budget := New(DefaultLeast, DefaultPercent)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			budget.Begin()
			if budget.TryRetry() {
				budget.EndRetry()
			}
			budget.End()
		}
	})
}
