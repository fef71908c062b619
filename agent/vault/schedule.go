// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"time"

	"github.com/outrider-mesh/outrider/agent/watch"
)

// Renewal of leaves.
const (
	earliestRenewal = 0.60 // of the life of a leaf
	latestRenewal   = 0.90
	// rotationSpread is over how long the sidecars of a mesh renew their leaves
	// after a root has changed.
	rotationSpread = 30 * time.Second
	// leafGap is the least time between two CSRs of one service, so that a role
	// with a ttl of seconds does not become a load on Vault.
	leafGap = time.Second
)

// Delays after a failure.
const (
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// schedule returns when a leaf is to be renewed: random, which lies in [0, 1),
// picks an instant between 60 % and 90 % of its life, of the part of it that is
// still to come. When 90 % has passed, that is now.
func schedule(notBefore, notAfter, now time.Time, random float64) time.Time {
	life := notAfter.Sub(notBefore)
	from := notBefore.Add(part(life, earliestRenewal))
	if now.After(from) {
		from = now
	}
	to := notBefore.Add(part(life, latestRenewal))
	if !to.After(from) {
		return now
	}
	return from.Add(part(to.Sub(from), random))
}

// renewToken returns after how long a token that lives for ttl is renewed: at
// two thirds of it, up to a tenth of that earlier by random in [0, 1).
func renewToken(ttl time.Duration, random float64) time.Duration {
	return max(part(ttl, 2.0/3*(1-random/10)), time.Second)
}

// backoff returns the delay after the given number of failures in a row.
func backoff(failures int, random float64) time.Duration {
	return watch.Delay(failures, random, firstBackoff, maxBackoff)
}

func part(d time.Duration, fraction float64) time.Duration {
	return time.Duration(float64(d) * fraction)
}

// A streak counts failures in a row. The zero streak has none.
type streak struct {
	failures int
	since    time.Time
}

// fail counts one failure and reports whether it is to be logged as a warning:
// the first and each tenth.
func (s *streak) fail(now time.Time) bool {
	if s.failures == 0 {
		s.since = now
	}
	s.failures++
	return s.failures == 1 || s.failures%10 == 0
}

// end forgets the failures and reports how many there were and for how long.
func (s *streak) end(now time.Time) (int, time.Duration) {
	failures, lasted := s.failures, now.Sub(s.since)
	*s = streak{}
	return failures, lasted
}
