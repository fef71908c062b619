// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"testing"
	"time"
)

// pace is how long [Until] waits between two questions.
const pace = 20 * time.Millisecond

// Until asks until there is no error, which says what is still wrong, and ends the
// test with it when the limit is over. The limit ends failing tests only, so it is
// for the slowest of machines.
func Until(t testing.TB, limit time.Duration, what string, ask func() error) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("not within %v: %s: %v", limit, what, err)
		case <-tick.C:
		}
	}
}
