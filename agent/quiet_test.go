// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import "testing"

func TestMemoryIsGivenBackOncePerRest(t *testing.T) {
	t.Parallel()
	c := calm{busy: true}
	for i, look := range []struct {
		served int64
		falls  bool
	}{
		{0, true}, {0, false}, {0, false}, // after the start, once
		{2, false}, {few, false}, // checks
		{1000, false}, {2000, false}, {2001, true}, {2003, false},
		{3, false}, {3, true}, // a sidecar has ended, and its counters with it
	} {
		if got := c.falls(look.served); got != look.falls {
			t.Errorf("look %d at %d: %v", i, look.served, got)
		}
	}
}
