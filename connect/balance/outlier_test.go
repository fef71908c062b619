// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"math"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// The largest number that Consul accepts is how people turn ejection off.
func TestHugeSettingsDoNotTurnIntoSmallOnes(t *testing.T) {
	g := group(Options{Health: connect.PassiveHealth{MaxFailures: math.MaxUint32}, Fallback: true}, 1, 1)
	if g.Failed(&g.Entries()[0], epoch, "x") {
		t.Error("ejected at the first failure of 4294967295")
	}
	g = group(Options{Health: connect.PassiveHealth{MaxFailures: 1, BaseEjectionTime: math.MaxInt64/2 + 1}, Fallback: true}, 1, 1)
	bad, now := &g.Entries()[0], epoch
	for range 3 {
		g.Failed(bad, now, "x")
		if got := bad.State.EjectedUntil().Sub(now); got != 300*time.Second {
			t.Errorf("ejected for %v, want the cap", got)
		}
		now = now.Add(300 * time.Second)
	}
	if g := group(Options{LoadBalancer: connect.LoadBalancer{Policy: "least_request", ChoiceCount: math.MaxInt32}}, 1, 1); g.choices != 2 {
		t.Errorf("%d choices among two endpoints", g.choices)
	}
}

// The healthy endpoints may leave while the last one is still ejected.
func TestOnlyEndpointLeftIsPickedAlthoughEjected(t *testing.T) {
	for _, fallback := range []bool{false, true} {
		r := NewRegistry()
		opts := Options{Health: connect.PassiveHealth{MaxFailures: 1}, Fallback: fallback}
		two := NewGroup(r, Key{"api", "api"}, endpoints(1, 1), opts)
		two.Failed(&two.Entries()[0], epoch, "x")
		one := NewGroup(r, Key{"api", "api"}, endpoints(1), opts)
		got := one.Pick(epoch, nil)
		if (got != nil) == fallback {
			t.Errorf("with another target %t: picked %v", fallback, got)
		}
		if got != nil && one.Pick(epoch, []*Entry{got}) != nil {
			t.Error("picked what was tried")
		}
	}
}
