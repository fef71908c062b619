// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

// deadEnd is an address that refuses connections.
func deadEnd(t testing.TB) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return l.Addr()
}

// elsewhere makes the target of upstream id one of another datacenter, called in
// a mode, whose own address nobody answers at.
func elsewhere(t testing.TB, s *connect.Snapshot, id connect.UpstreamID, mode string) {
	t.Helper()
	chain := *s.Chains[id]
	target := chain.Targets[connect.TargetID(id)+"0"]
	target.MeshGateway, target.Datacenter = mode, "dc1"
	chain.Targets = map[connect.TargetID]connect.Target{target.ID: target}
	s.Chains = map[connect.UpstreamID]*connect.Chain{id: &chain}
	s.Service.Datacenter = "dc9" // ours, so that dc1 is elsewhere
	s.Endpoints = map[connect.TargetID][]connect.Endpoint{target.ID: endpointsAt(deadEnd(t))}
}

// A gateway passes TLS on, so that here the callee itself stands for one.
func TestCallsGoThroughGatewaysAndPassOverOneThatRefuses(t *testing.T) {
	r := newPair(t, DefaultLimits())
	through := next(r.webSnap, func(s *connect.Snapshot) {
		elsewhere(t, s, "api", "remote")
		s.Gateways = map[string][]connect.Endpoint{"dc1": endpointsAt(deadEnd(t), r.api.Inbound(t.Context()))}
	})
	apply(t, r.web, through)
	for range 20 {
		if err := roundTrip(r.call(t), "hello"); err != nil {
			t.Fatal(err)
		}
	}
	target := r.web.Status(t.Context()).Upstreams[0].Targets[0]
	if target.Through != `mesh gateways of datacenter "dc1"` || len(target.Endpoints) != 2 || !strings.Contains(target.Endpoints[0].NotUsed, "ejected") {
		t.Errorf("target %+v", target)
	}
	// Without an instance that is well there is nothing behind the gateways.
	apply(t, r.web, next(through, func(s *connect.Snapshot) {
		s.Endpoints = map[connect.TargetID][]connect.Endpoint{"api0": {{ID: "a", Unusable: "its node is on fire"}}}
	}))
	r.callInVain(t)
	recent := r.web.Status(t.Context()).Recent
	if last := recent[len(recent)-1]; last.Reason != connect.NoHealthyEndpoint || !strings.Contains(last.Text, "its node is on fire") || !strings.Contains(last.Text, "mesh gateways") {
		t.Errorf("refusals %+v", recent)
	}
}

func TestRequestsGoThroughGateways(t *testing.T) {
	for _, protocol := range protocols() {
		r := newHTTPPair(t, protocol, http.HandlerFunc(mirror))
		through := next(r.webSnap, func(s *connect.Snapshot) {
			elsewhere(t, s, "api", "local")
			s.Gateways = map[string][]connect.Endpoint{"dc9": endpointsAt(r.api.Inbound(t.Context()))}
		})
		apply(t, r.web, through)
		if got := r.get(t, "/"); got.status != 200 {
			t.Errorf("%s: status %d, %v", protocol, got.status, got.header)
		}
		apply(t, r.web, next(through, func(s *connect.Snapshot) { s.Gateways = nil }))
		if got := r.get(t, "/"); got.status != 503 || got.header.Get("X-Outrider-Reason") != string(connect.NoHealthyEndpoint) {
			t.Errorf("%s without gateways: status %d, %v", protocol, got.status, got.header)
		}
	}
}
