// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package retry bounds how many requests are tried again at once, so that
// retries cannot multiply an outage. It does not know what a request is, nor
// whether one deserves another try.
package retry

import "sync/atomic"

// The defaults of a budget: Envoy's retry budget has the same share and the
// same least number.
const (
	DefaultLeast   = 3
	DefaultPercent = 20
)

// A Budget admits a retry while the retries under way are fewer than a percentage
// of the requests under way, or fewer than a least number, which lets a quiet
// upstream retry at all. Safe for concurrent use, without a lock.
type Budget struct {
	least   uint64
	percent uint64
	// Requests above, retries below, 32 bits each: in one word, a retry is
	// admitted against the requests of the very same instant. One half cannot
	// reach the other: each of billions would be a request under way.
	word atomic.Uint64
}

const (
	oneRetry    = uint64(1)
	oneRequest  = uint64(1) << 32
	lessRetry   = ^uint64(0)        // added, takes one away
	lessRequest = ^(oneRequest - 1) // added, takes one away
)

// New returns a budget of percent of the requests under way, rounded down and at
// most 100, and at least least. Below 0 is 0; both 0 admit no retry.
func New(least, percent int) *Budget {
	return &Budget{least: uint64(min(max(0, least), 1<<31)), percent: uint64(min(max(0, percent), 100))}
}

// Begin counts a request, once whatever the number of its tries; End must follow.
func (b *Budget) Begin() { b.word.Add(oneRequest) }

// End is the end of a request that Begin counted.
func (b *Budget) End() { b.word.Add(lessRequest) }

// TryRetry reports whether one more retry may begin now. If so it is counted,
// and EndRetry must follow when that try is over. A false answer is final for
// the request: the budget does not queue.
func (b *Budget) TryRetry() bool {
	for {
		word := b.word.Load()
		requests, retries := word>>32, word&(oneRequest-1)
		if retries >= max(b.least, requests*b.percent/100) {
			return false
		}
		if b.word.CompareAndSwap(word, word+oneRetry) {
			return true
		}
	}
}

// EndRetry is the end of a retry that TryRetry admitted.
func (b *Budget) EndRetry() { b.word.Add(lessRetry) }

// Requests is the number of requests under way.
func (b *Budget) Requests() int { return int(b.word.Load() >> 32) }

// Retries is the number of retries under way. It may be above what would be
// admitted now, when requests have ended meanwhile.
func (b *Budget) Retries() int { return int(b.word.Load() & (oneRequest - 1)) }
