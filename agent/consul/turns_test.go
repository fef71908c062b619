// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever registers services decides how many upstreams a default of allow gives
// to everybody.
func TestReadsOfTheUnusedAreBoundedHoweverManyThereAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, began := newTurns(), time.Now()
		read := func(times int) {
			for range times {
				if err := turns.take(t.Context()); err != nil {
					t.Fatal(err)
				}
				turns.giveBack()
			}
		}
		read(readsAhead)
		if took := time.Since(began); took != 0 {
			t.Errorf("the first reads waited for %s", took)
		}
		read(1200)
		if took := time.Since(began); took != time.Minute {
			t.Errorf("1200 more took %s, want a minute", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), readEvery/2)
		defer cancel()
		if err := turns.take(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a read that is not due: %v", err)
		}
	})
}
