// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package balance

import (
	"slices"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

func TestCandidatesAreThoseThatPickReturns(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var endpoints []connect.Endpoint
	for i := range 4 {
		endpoints = append(endpoints, connect.Endpoint{Address: "10.0.0.1", Port: uint16(1 + i), Weight: 1})
	}
	endpoints[3].Weight, endpoints[3].Unusable = 0, "critical"
	for _, policy := range []string{"", "random", "least_request", "peak_ewma", "ring_hash", "maglev", "unheard of"} {
		for _, fallback := range []bool{false, true} {
			for out := range 4 { // that are ejected
				g := NewGroup(NewRegistry(), Key{}, endpoints, Options{LoadBalancer: connect.LoadBalancer{Policy: policy}, Fallback: fallback})
				for i := range out {
					g.entries[i].State.ejectedUntil.Store(now.Add(time.Minute).UnixNano())
				}
				picked := map[*Entry]bool{}
				for range 300 {
					if e := g.Pick(now, nil); e != nil {
						picked[e] = true
					}
				}
				said := g.Candidates(now)
				if len(said) != len(picked) || slices.ContainsFunc(said, func(e *Entry) bool { return !picked[e] }) {
					t.Errorf("%q, fallback %t, %d ejected: %d are candidates, %d are picked", policy, fallback, out, len(said), len(picked))
				}
			}
		}
	}
}

func TestPolicyIsTheOneInForce(t *testing.T) {
	for policy, want := range map[string]string{"": "round_robin", "unheard of": "round_robin", "maglev": "maglev", "peak_ewma": "peak_ewma"} {
		if got := NewGroup(NewRegistry(), Key{}, nil, Options{LoadBalancer: connect.LoadBalancer{Policy: policy}}).Policy(); got != want {
			t.Errorf("%q is %q, want %q", policy, got, want)
		}
	}
	if got := NewGroup(NewRegistry(), Key{}, nil, Options{Default: "peak_ewma"}).Policy(); got != "peak_ewma" {
		t.Errorf("the default is %q", got)
	}
}
