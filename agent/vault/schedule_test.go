// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestScheduleLiesInWhatIsLeftOfTheRange(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	end := start.Add(100 * time.Hour)
	at := func(hours float64) time.Time { return start.Add(part(time.Hour, hours)) }
	for name, c := range map[string]struct {
		now    time.Time
		random float64
		want   time.Time
	}{
		"first instant":            {start, 0, at(60)},
		"middle":                   {start, 0.5, at(75)},
		"nearly the last instant":  {start, 0.999, at(89.97)},
		"before it is valid":       {start.Add(-time.Hour), 0, at(60)},
		"inside of the range":      {at(80), 0.5, at(85)},
		"at 90 percent":            {at(90), 0.5, at(90)},
		"between 90 and 100":       {at(95), 0.5, at(95)},
		"after the end":            {at(200), 0.5, at(200)},
		"just before the range":    {at(59.9), 0, at(60)},
		"at the start of the rest": {at(80), 0, at(80)},
	} {
		if got := schedule(start, end, c.now, c.random); got.Sub(c.want).Abs() > time.Second {
			t.Errorf("%s: %s, want %s", name, got.Sub(start), c.want.Sub(start))
		}
	}
	if got := schedule(end, start, start, 0.5); !got.Equal(start) {
		t.Errorf("a leaf that ends before it begins is renewed at %s, want now", got)
	}
}

func TestScheduleSpreadsAHundredSidecars(t *testing.T) {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	seen := map[time.Time]bool{}
	for range 100 {
		seen[schedule(start, start.Add(time.Hour), start, rand.Float64())] = true
	}
	if len(seen) != 100 {
		t.Errorf("100 draws give %d times", len(seen))
	}
}

func TestTokenRenewalLeavesAThirdOfTheTTL(t *testing.T) {
	for _, random := range []float64{0, 0.5, 0.999} {
		if d := renewToken(time.Hour, random); d < 36*time.Minute || d > 40*time.Minute {
			t.Errorf("random %v: renewal after %s, want 36 to 40 minutes", random, d)
		}
	}
	if d := renewToken(0, 0); d != time.Second {
		t.Errorf("a token that has ended is renewed after %s, want one second", d)
	}
}

func TestAStreakIsLoudAtTheFirstAndEachTenthFailure(t *testing.T) {
	var s streak
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := 1; i <= 30; i++ {
		want := i == 1 || i%10 == 0
		if loud := s.fail(now.Add(time.Duration(i) * time.Second)); loud != want {
			t.Errorf("failure %d is loud: %t, want %t", i, loud, want)
		}
	}
	if n, lasted := s.end(now.Add(time.Minute)); n != 30 || lasted != 59*time.Second || s.failures != 0 {
		t.Errorf("the streak ended with %d failures in %s, want 30 in 59s", n, lasted)
	}
}
