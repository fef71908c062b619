// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limit

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// taken is how many of n attempts at one instant get a token.
func taken(b *Bucket, now time.Time, n int) int {
	got := 0
	for range n {
		if b.Take(now) {
			got++
		}
	}
	return got
}

func TestBucketHoldsItsBurstAndFillsAtItsRate(t *testing.T) {
	for _, tc := range []struct {
		name        string
		rate, burst int
		steps       []time.Duration // since the first
		want        []int           // tokens at each step
	}{
		{"burst of the rate by default", 5, 0, []time.Duration{0, 0}, []int{5, 0}},
		{"a larger burst", 5, 20, []time.Duration{0, time.Second, 2 * time.Second}, []int{20, 5, 5}},
		{"a smaller burst", 10, 1, []time.Duration{0, 99 * time.Millisecond, 100 * time.Millisecond, time.Second}, []int{1, 0, 1, 1}},
		{"never above the burst", 10, 3, []time.Duration{0, time.Hour}, []int{3, 3}},
		{"a part of a token stays", 2, 1, []time.Duration{0, 400 * time.Millisecond, 500 * time.Millisecond}, []int{1, 0, 1}},
		{"thirds are rounded up", 3, 3, []time.Duration{0, time.Second, time.Second + 2}, []int{3, 2, 1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := NewBucket(tc.rate, tc.burst)
			for i, at := range tc.steps {
				if got := taken(b, epoch.Add(at), 100); got != tc.want[i] {
					t.Errorf("after %v: %d tokens, want %d", at, got, tc.want[i])
				}
			}
		})
	}
}

func TestNoRateIsNoLimit(t *testing.T) {
	for _, rate := range []int{0, -1} {
		b := NewBucket(rate, 5)
		if got := taken(b, epoch, 1000); got != 1000 || b.Wait(epoch) != 0 {
			t.Errorf("rate %d: %d of 1000 tokens, wait %v", rate, got, b.Wait(epoch))
		}
	}
}

func TestHugeSettingsDoNotOverflow(t *testing.T) {
	for _, tc := range []struct{ rate, burst int }{{1, math.MaxInt}, {math.MaxInt, 0}, {math.MaxInt, 1}, {math.MaxInt32, math.MaxInt32}} {
		b := NewBucket(tc.rate, tc.burst)
		want := min(1000, tc.burst)
		if tc.burst == 0 {
			want = 1000
		}
		if got := taken(b, epoch, 1000); got != want {
			t.Errorf("rate %d, burst %d: %d of 1000 tokens, want %d", tc.rate, tc.burst, got, want)
		}
	}
}

func TestWaitIsTheTimeToTheNextToken(t *testing.T) {
	b := NewBucket(10, 2)
	if got := b.Wait(epoch); got != 0 {
		t.Errorf("a full bucket says to wait %v", got)
	}
	taken(b, epoch, 2)
	for after, want := range map[time.Duration]time.Duration{
		0: 100 * time.Millisecond, 30 * time.Millisecond: 70 * time.Millisecond, 100 * time.Millisecond: 0, time.Hour: 0,
		-time.Hour: 100 * time.Millisecond,
	} {
		if got := b.Wait(epoch.Add(after)); got != want {
			t.Errorf("after %v: wait %v, want %v", after, got, want)
		}
	}
	if b.Take(epoch.Add(100*time.Millisecond - 1)) {
		t.Error("there is a token before the time to wait has passed")
	}
	if !b.Take(epoch.Add(100 * time.Millisecond)) {
		t.Error("there is no token when the time to wait has passed")
	}
}

func TestClockGoingBackDoesNotShutTheBucket(t *testing.T) {
	b := NewBucket(10, 10)
	taken(b, epoch, 10)
	back := epoch.Add(-24 * time.Hour)
	if b.Take(back) {
		t.Error("the clock going back made a token")
	}
	if got := taken(b, back.Add(time.Second), 100); got != 10 {
		t.Errorf("a second later there are %d tokens, want 10", got)
	}
	// Callers that overtake each other are no such case.
	b = NewBucket(10, 10)
	taken(b, epoch, 10)
	if b.Take(epoch.Add(-time.Millisecond)) {
		t.Error("a late caller got a token that there is not")
	}
	if b.Take(epoch.Add(99 * time.Millisecond)) {
		t.Error("the late caller moved the bucket's time")
	}
}

// model counts tokens as people would, in parts that make the sums exact.
type model struct {
	each, room, level int64 // ns worth of tokens
	last              int64
}

func (m *model) take(at int64) bool {
	m.level = min(m.room, m.level+at-m.last)
	m.last = at
	if m.level < m.each {
		return false
	}
	m.level -= m.each
	return true
}

// Each byte is a step of time; the bucket and the model must agree on every one.
func FuzzBucketIsItsModel(f *testing.F) {
	f.Add(uint32(10), uint32(3), []byte{0, 0, 0, 0, 1, 20, 200, 0, 0})
	f.Add(uint32(1), uint32(1), []byte{255, 255, 255, 0, 255})
	f.Add(uint32(1e9), uint32(5), []byte{0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add(uint32(3), uint32(0), []byte{7, 7, 7, 7, 99, 99})
	f.Fuzz(func(t *testing.T, rate, burst uint32, steps []byte) {
		b := NewBucket(int(rate), int(burst))
		if b == nil {
			return
		}
		m := &model{each: b.each, room: b.room, level: b.room, last: epoch.UnixNano()}
		now := epoch
		for i, step := range steps {
			// From nothing to some tokens, at any rate.
			now = now.Add(time.Duration(step) * time.Duration(b.each) / 32)
			want := m.take(now.UnixNano())
			if got := b.Take(now); got != want {
				t.Fatalf("step %d, after %v: got %t, want %t (rate %d, burst %d)", i, now.Sub(epoch), got, want, rate, burst)
			}
		}
	})
}

func TestConcurrentTakersShareTheTokens(t *testing.T) {
	b := NewBucket(1000, 500)
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 1000 {
				if b.Take(epoch.Add(time.Duration(n) * time.Millisecond)) {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	// The burst, and one for each of 999 ms; late callers find none of the past.
	if n := got.Load(); n > 1499 || n < 1499-100 {
		t.Errorf("%d tokens were taken, want 1499 or a little less", n)
	}
	if n := taken(b, epoch.Add(time.Hour), 1000); n != 500 {
		t.Errorf("afterwards the full bucket holds %d, want 500", n)
	}
}

func TestLimitingCostsNoAllocation(t *testing.T) {
	b, now := NewBucket(10, 5), epoch
	if n := testing.AllocsPerRun(100, func() {
		now = now.Add(50 * time.Millisecond)
		b.Take(now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBucket(b *testing.B) {
	bucket := NewBucket(1_000_000, 1000)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		now := epoch
		for pb.Next() {
			now = now.Add(time.Microsecond)
			bucket.Take(now)
		}
	})
}
