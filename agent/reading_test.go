// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestAProgramThatIsReadAgainAndAgainIsSaidOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root, memory := cgroupOf(t, "33554432")
		read := func(pages int) {
			root.set("proc/self/stat", fmt.Sprintf("7 (out) rider)) S 1 7 7 0 -1 4194560 5000 0 %d 0 12 3 0 0 20 0 8\n", pages))
		}
		read(100)
		a, log := limited(t, Room{root: root, memory: memory}, oneService)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _ = a.watchReading(ctx) })
		synctest.Wait()
		pages := 100
		for _, step := range []struct {
			more, said, over int
		}{
			{5000, 0, 0},    // a start, or a peak
			{1999, 0, 0},    // not in a row
			{2000, 0, 0},    //
			{2000, 1, 0},    // again
			{9000, 1, 0},    // and on
			{10, 1, 1},      // over
			{0, 1, 1},       //
			{3000, 1, 1},    //
			{3000, 2, 1},    // anew
			{0, 2, 2},       //
			{-5000, 2, 2},   // what cannot be
			{100000, 2, 2},  //
			{-100000, 2, 2}, //
		} {
			pages += step.more
			read(pages)
			time.Sleep(readingEvery)
			synctest.Wait()
			said, over := strings.Count(log.String(), "read from disk again and again"), strings.Count(log.String(), "stays in memory again")
			if said != step.said || over != step.over {
				t.Errorf("after %d more: said %d times, over %d times; want %d and %d", step.more, said, over, step.said, step.over)
			}
		}
		root.set("proc/self/stat", "7 (outrider) S 1\n")
		time.Sleep(readingEvery)
		cancel()
		all.Wait()
		if text := log.String(); !strings.Contains(text, "limit=32MB") || !strings.Contains(text, "memory.max") {
			t.Errorf("it does not say which limit:\n%s", text)
		}
	})
}
