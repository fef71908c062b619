// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	// decay is the time after which an old latency counts 1/e.
	decay = 10 * time.Second

	// noticeable is how much cheaper the second choice must be to be taken.
	// What differs less is noise, and following noise would undo the weights.
	noticeable = 0.8

	// A failure may be fast, and its endpoint must not look fast for it: it
	// counts as twice what the endpoint took so far, within these bounds.
	minPenalty = 0.1 // s
	maxPenalty = 5.0 // s

	// Estimates keep within these bounds, in seconds.
	minLatency = 1e-6
	maxLatency = 60.0
)

// cheaper takes the better of two different endpoints, drawn by weight: the one
// whose latency, times what it has in use, is lower. A slow endpoint is not
// forgotten: its estimate decays until it is tried again.
//
// An endpoint that has not been heard from is believed to be as fast as the one
// it is compared with. So it gets its share at once, and no more than its share:
// what it has in use counts against it until the first answer, whatever the
// latencies of the group are. An estimate of zero would draw all traffic to a
// new endpoint, and any fixed one is zero to a slow group.
func (g *Group) cheaper(now, ejected time.Time, tried []*Entry) *Entry {
	first, second := g.two()
	if second == nil || !free(second, ejected, tried) {
		if free(first, ejected, tried) {
			return first
		}
		return nil
	}
	if !free(first, ejected, tried) {
		return second
	}
	a, b := first.State.latency.estimate(now), second.State.latency.estimate(now)
	if a == 0 || b == 0 {
		a, b = 1, 1
	}
	if b*second.load() < noticeable*a*first.load() {
		return second
	}
	return first
}

// two draws two different endpoints by weight; the second is nil when there is
// only one.
func (g *Group) two() (first, second *Entry) {
	i := g.owner(rand.Uint64N(g.total))
	first = &g.entries[i]
	rest := g.total - first.weight
	if rest == 0 {
		return first, nil
	}
	// The number line without the part that the first one owns.
	point := rand.Uint64N(rest)
	if point >= g.ends[i]-first.weight {
		point += first.weight
	}
	return first, &g.entries[g.owner(point)]
}

// A latency is a peak-sensitive moving average of latencies: it rises at once
// and falls over [decay]. It is one word, so that it is read and written
// without a lock: the estimate in seconds as a float32 above, the time of the
// last observation in ticks below. Zero means that nothing was observed.
type latency struct{ word atomic.Uint64 }

// A tick is 2^20 ns, about a millisecond; 32 bits of them are 52 days.
const tickShift = 20

func ticks(now time.Time) uint32 { return uint32(now.UnixNano() >> tickShift) } //nolint:gosec // wraps on purpose

// age is the time from the observation in word to now. Observations may come in
// out of order and clocks are set back: a little before now is now. Anything
// else that looks like the future is a wrapped counter, thus long ago.
func age(word uint64, now uint32) time.Duration {
	const aMinute = int32(time.Minute >> tickShift)
	d := int32(now - uint32(word)) //nolint:gosec // the difference of wrapping counters
	switch {
	case d >= 0:
		return time.Duration(d) << tickShift
	case d > -aMinute:
		return 0
	}
	return math.MaxInt64
}

func seconds(word uint64) float64 { return float64(math.Float32frombits(uint32(word >> 32))) }

// estimate is the average in seconds, faded by the time since the last
// observation; 0 when nothing is known.
func (l *latency) estimate(now time.Time) float64 {
	word := l.word.Load()
	if word == 0 {
		return 0
	}
	return seconds(word) * fade(age(word, ticks(now)))
}

func fade(age time.Duration) float64 { return math.Exp(-float64(age) / float64(decay)) }

// observe takes in one latency, of a failed attempt or not.
func (l *latency) observe(now time.Time, took time.Duration, failed bool) {
	at := ticks(now)
	for {
		old := l.word.Load()
		since := age(old, at)
		sample := took.Seconds()
		if failed {
			sample = max(sample, minPenalty, min(2*seconds(old)*fade(since), maxPenalty))
		}
		sample = min(max(sample, minLatency), maxLatency)
		if old != 0 {
			w := fade(since)
			sample = max(sample, w*seconds(old)+(1-w)*sample)
		}
		stamp := at
		if old != 0 && since == 0 {
			stamp = uint32(old) //nolint:gosec // lower half
		}
		word := uint64(math.Float32bits(float32(sample)))<<32 | uint64(stamp)
		if word == old || l.word.CompareAndSwap(old, word) {
			return
		}
	}
}
