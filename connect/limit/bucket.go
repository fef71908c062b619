// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package limit bounds how often something may happen and how much may be held.
// It does not know what is limited, starts no goroutines and reads no clock:
// time is an argument.
package limit

import (
	"sync/atomic"
	"time"
)

// A Bucket is a token bucket. It is full at first. A nil Bucket is no limit.
// Safe for concurrent use, without a lock.
//
// It keeps one instant instead of tokens and the time they were counted (the
// generic cell rate algorithm, ITU-T I.371): the one at which the bucket will
// be full again. Each token taken moves it by the time that makes a token.
type Bucket struct {
	each   int64 // ns in which a token comes
	room   int64 // ns in which an empty bucket fills
	fullAt atomic.Int64
}

// maxTokens keeps a bucket's times far from overflow: even at one token a
// second it fills in less than 40 years.
const maxTokens = 1 << 30

// NewBucket returns a bucket that perSecond tokens flow into, at most 10^9, and
// that holds burst of them; 0 means perSecond (Consul, service-defaults:
// rate_limits). Without a rate above 0 there is no limit, and it returns nil.
// The time between tokens is rounded up to whole nanoseconds: never more than
// the rate is let through.
func NewBucket(perSecond, burst int) *Bucket {
	if perSecond <= 0 {
		return nil
	}
	if burst <= 0 {
		burst = perSecond
	}
	rate := min(int64(perSecond), int64(time.Second))
	each := (int64(time.Second) + rate - 1) / rate
	return &Bucket{each: each, room: each * int64(min(burst, maxTokens))}
}

// Take takes a token at now, and reports whether there was one.
func (b *Bucket) Take(now time.Time) bool {
	if b == nil {
		return true
	}
	at := now.UnixNano()
	for {
		fullAt := b.fullAt.Load()
		next := max(fullAt, at) + b.each
		if next-at <= b.room {
			if b.fullAt.CompareAndSwap(fullAt, next) {
				return true
			}
			continue
		}
		// Later than an empty bucket's only when the clock was set back, or by
		// little when callers overtake each other. Emptied at the new time, it
		// does not stay shut until the old one comes again.
		if fullAt-at <= b.room+int64(time.Second) || b.fullAt.CompareAndSwap(fullAt, at+b.room) {
			return false
		}
	}
}

// Wait is the time from now until there is a token, 0 when there is one; for
// telling a caller when to come again. The token may be gone by then.
func (b *Bucket) Wait(now time.Time) time.Duration {
	if b == nil {
		return 0
	}
	at := now.UnixNano()
	return time.Duration(min(max(0, max(b.fullAt.Load(), at)+b.each-at-b.room), b.each))
}
