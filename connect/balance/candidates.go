// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import "time"

// Candidates returns the endpoints that [Group.Pick] may return at now when none
// was tried yet, for explanations; nil when there is none. It changes nothing.
func (g *Group) Candidates(now time.Time) []*Entry {
	at := now
	if g.desperate(now) {
		at = endOfTime
	}
	var out []*Entry
	for i := range g.entries {
		if e := &g.entries[i]; free(e, at, nil) {
			out = append(out, e)
		}
	}
	return out
}

// Policy names the policy in force, in Consul's words where it has one.
func (g *Group) Policy() string {
	switch g.policy {
	case random, leastRequest, ringHash, maglev, peakEWMA:
		return g.policy
	}
	return roundRobin
}

const roundRobin = "round_robin"
