// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package watch

import "time"

// Delay is the pause before the next try after attempt consecutive failures:
// exponential backoff with full jitter. It is random × min(limit, base × 2^(attempt-1)),
// with random in [0, 1), so that many watches that fail together do not come
// back together. An attempt below 1 counts as 1.
func Delay(attempt int, random float64, base, limit time.Duration) time.Duration {
	ceiling := base
	for i := 1; i < attempt && ceiling < limit; i++ {
		// Doubling stops before it can overflow: limit/2 is the last value
		// that may be doubled.
		if ceiling > limit/2 {
			ceiling = limit
			break
		}
		ceiling *= 2
	}
	return time.Duration(random * float64(min(ceiling, limit)))
}
