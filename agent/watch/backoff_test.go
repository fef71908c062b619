// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package watch

import (
	"math"
	"testing"
	"time"
)

func TestDelayGrowsToTheLimitAndScalesWithTheRandomNumber(t *testing.T) {
	const base, limit = 500 * time.Millisecond, 30 * time.Second
	for _, tt := range []struct {
		attempt int
		random  float64
		want    time.Duration
	}{
		{attempt: 1, random: 0, want: 0},
		{attempt: 1, random: 0.5, want: 250 * time.Millisecond},
		{attempt: 2, random: 0.5, want: 500 * time.Millisecond},
		{attempt: 3, random: 0.5, want: time.Second},
		{attempt: 6, random: 0.5, want: 8 * time.Second},
		{attempt: 7, random: 0.5, want: 15 * time.Second},
		{attempt: 8, random: 0.5, want: 15 * time.Second},
		{attempt: math.MaxInt, random: 0.5, want: 15 * time.Second},
		{attempt: 0, random: 0.5, want: 250 * time.Millisecond},
		{attempt: -7, random: 0.5, want: 250 * time.Millisecond},
	} {
		if got := Delay(tt.attempt, tt.random, base, limit); got != tt.want {
			t.Errorf("Delay(%d, %v) = %v, want %v", tt.attempt, tt.random, got, tt.want)
		}
	}
}

func TestDelayNeverOverflows(t *testing.T) {
	const limit = time.Duration(math.MaxInt64)
	for attempt := range 200 {
		if got := Delay(attempt, 0.9, time.Second, limit); got < 0 {
			t.Fatalf("Delay(%d) = %v", attempt, got)
		}
	}
	if got := Delay(3, 0.5, time.Minute, time.Second); got != 500*time.Millisecond {
		t.Errorf("base above limit: got %v, want half the limit", got)
	}
}
