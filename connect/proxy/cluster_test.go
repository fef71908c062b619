// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"net"
	"net/http"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
)

// A snapshot is in force a moment before its limits are: requests of that moment
// must not meet limits of nothing.
func TestNewClusterHasLimitsFromItsBeginning(t *testing.T) {
	var cs clusters
	cs.init(nil)
	c := cs.of(balance.Key{Upstream: "api", Target: "new"})
	for range 3 {
		if !c.enter() {
			t.Fatal("a new target takes no request")
		}
	}
	if c.requests.Load() != 3 {
		t.Errorf("%d requests are counted", c.requests.Load())
	}
}

// Requests go on while their upstream gets a target that was not there before.
func TestTargetsThatChangeUnderLoadFailNoRequest(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP2, http.HandlerFunc(mirror))
	stop := load(t, r.client(t), r.url(t, "/"), 8)
	inbound := r.api.Inbound(t.Context())
	for i := range 40 {
		target := connect.TargetID(rune('a' + i))
		r.webSnap = next(r.webSnap, func(s *connect.Snapshot) {
			chain := *s.Chains["api"]
			chain.Nodes = map[string]connect.Node{"r": {Kind: connect.ResolverNode, Resolver: &connect.Resolver{Target: target}}}
			chain.Targets = map[connect.TargetID]connect.Target{target: {
				ID: target, Service: "api", Namespace: "default", Partition: "default", Datacenter: "dc1", SNI: "api.sni",
			}}
			s.Chains = map[connect.UpstreamID]*connect.Chain{"api": &chain}
			s.Endpoints = map[connect.TargetID][]connect.Endpoint{target: endpointsAt([]net.Addr{inbound}...)}
		})
		apply(t, r.web, r.webSnap)
	}
	if n, failures := stop(); len(failures) > 0 || n == 0 {
		t.Errorf("%d of %d requests failed: %v", len(failures), n, failures[:min(3, len(failures))])
	}
}
