// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/explain"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// whyOf is what explain says of GET / from web to api.
func whyOf(t *testing.T, p *Proxy) explain.Outbound {
	t.Helper()
	q, err := explain.New("web", "api", http.MethodGet, "/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return p.ExplainOutbound(t.Context(), q)
}

func reasonOf(o explain.Outbound) connect.Reason {
	if o.Reason == "" && len(o.Ways) > 0 {
		return o.Ways[0].Reason
	}
	return o.Reason
}

// Each of these happens: what explain says before is what the caller then gets.
func TestExplainNamesTheReasonThatTheCallerThenGets(t *testing.T) {
	change := func(f func(*connect.Snapshot)) func(*testing.T, *httpPair) {
		return func(t *testing.T, r *httpPair) { apply(t, r.web, next(r.webSnap, f)) }
	}
	upstream := func(s *connect.Snapshot, f func(*connect.Upstream)) {
		s.Upstreams = slices.Clone(s.Upstreams)
		f(&s.Upstreams[0])
	}
	for name, tc := range map[string]struct {
		make func(*testing.T, *httpPair)
		want connect.Reason
		why  string
	}{
		"nothing": {func(*testing.T, *httpPair) {}, "", ""},
		"a problem": {change(func(s *connect.Snapshot) {
			upstream(s, func(u *connect.Upstream) { u.Problem = "it is not for us" })
		}), connect.NoRoute, "it is not for us"},
		"no chain yet": {change(func(s *connect.Snapshot) { s.Chains = nil }), connect.NotReady, "has not been heard of"},
		"an empty subset": {change(func(s *connect.Snapshot) {
			s.Endpoints = map[connect.TargetID][]connect.Endpoint{}
		}), connect.NoHealthyEndpoint, "0 usable in Consul"},
		"a leaf that has ended": {func(t *testing.T, r *httpPair) {
			apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Leaf = r.ca.Leaf("web", nil, meshca.Expired) }))
		}, connect.TLSFailed, "our own leaf expired at "},
		"a limit of nothing": {change(func(s *connect.Snapshot) {
			upstream(s, func(u *connect.Upstream) { u.MaxRequests = 0 })
		}), connect.LimitExceeded, "0 requests to the target are under way, of 0"},
		"a router without an end": {change(func(s *connect.Snapshot) {
			c := *s.Chains["api"]
			c.Nodes = map[string]connect.Node{
				"r":      c.Nodes["r"],
				"router": {Kind: connect.RouterNode, Routes: []connect.ChainRoute{{Match: connect.RequestMatch{Methods: []string{"PUT"}}, Next: "r"}}},
			}
			c.Start = "router"
			s.Chains = map[connect.UpstreamID]*connect.Chain{"api": &c}
		}), connect.NoRoute, "no route of the service-router matches"},
		"a peer without roots": {change(func(s *connect.Snapshot) {
			c := *s.Chains["api"]
			target := c.Targets["api0"]
			target.Peer = "east"
			c.Targets = map[connect.TargetID]connect.Target{"api0": target}
			s.Chains = map[connect.UpstreamID]*connect.Chain{"api": &c}
		}), connect.NoHealthyEndpoint, `trust bundle of peer "east"`},
		"nobody that it may be": {change(func(s *connect.Snapshot) {
			c := *s.Chains["api"]
			target := c.Targets["api0"]
			target.Query = true
			c.Targets = map[connect.TargetID]connect.Target{"api0": target}
			s.Chains = map[connect.UpstreamID]*connect.Chain{"api": &c}
		}), connect.IdentityMismatch, "nothing is known"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(mirror))
			tc.make(t, r)
			said := whyOf(t, r.web)
			words := said.Why
			if said.Reason == "" && len(said.Ways) > 0 {
				words = said.Ways[0].Why
			}
			if reasonOf(said) != tc.want || !strings.Contains(words, tc.why) {
				t.Errorf("explained as %q, %q; want %q, %q", reasonOf(said), words, tc.want, tc.why)
			}
			if said.Reason != "" && said.Protocol == "" || tc.why == "it is not for us" {
				// Nothing says that it speaks HTTP: the connection is closed.
				r.callInVain(t)
				until(t, "it is refused for that", func() bool { return refused(t, r.web, tc.want) == 1 })
				return
			}
			got := r.get(t, "/")
			if happened := connect.Reason(got.header.Get("X-Outrider-Reason")); happened != tc.want {
				t.Errorf("what happened is %q (%d), and explained was %q", happened, got.status, tc.want)
			}
		})
	}
}

func TestExplainOfAProxyThatServesNobodySaysWhy(t *testing.T) {
	ca := meshca.New("root")
	p := start(t, DefaultLimits())
	if o := whyOf(t, p); o.Reason != connect.NotReady {
		t.Errorf("before the first snapshot: %+v", o)
	}
	if in := p.ExplainInbound(t.Context(), explain.Arrival{}); in.Reason != connect.NotReady || in.Allowed {
		t.Errorf("before the first snapshot: %+v", in)
	}
	taken := application(t, "tcp", "127.0.0.1:0", echo).(*net.TCPAddr)
	s := calling(service(ca, "web", nil), "api", endpointAddrs(taken))
	s.Upstreams[0].BindPort = taken.Port
	if err := p.Apply(t.Context(), s); err == nil {
		t.Fatal("the port was not taken")
	}
	if o := whyOf(t, p); o.Reason != connect.NotReady || !strings.Contains(o.Why, "address already in use") {
		t.Errorf("without a listener: %q %q", o.Reason, o.Why)
	}
	apply(t, p, calling(service(ca, "web", nil), "api", endpointAddrs(taken)))
	if o := whyOf(t, p); reasonOf(o) != "" || o.Listener != p.Outbound(t.Context(), "api").String() {
		t.Errorf("served: %+v", o)
	}
	if o := p.ExplainOutbound(t.Context(), explain.Question{Source: "web", Destination: "db"}); o.Reason != connect.NoRoute || o.Upstream != "" {
		t.Errorf("no upstream: %+v", o)
	}
	p.Drain(t.Context())
	if o := whyOf(t, p); o.Reason != connect.Draining {
		t.Errorf("drained: %q %q", o.Reason, o.Why)
	}
	if in := p.ExplainInbound(t.Context(), explain.Arrival{Question: explain.Question{Source: "shop"}}); in.Reason != connect.Draining || in.Allowed || in.Intention == "" {
		t.Errorf("drained: %+v", in)
	}
}

func endpointAddrs(addrs ...net.Addr) []net.Addr { return addrs }

func TestReachedLimitOfConnectionsIsExplained(t *testing.T) {
	r := newPair(t, DefaultLimits())
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
		s.Upstreams = slices.Clone(s.Upstreams)
		s.Upstreams[0].MaxConnections = 1
	}))
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.MaxInboundConnections = 1 }))
	if o := whyOf(t, r.web); reasonOf(o) != "" {
		t.Fatalf("%+v", o)
	}
	if err := roundTrip(r.call(t), "hello"); err != nil {
		t.Fatal(err)
	}
	if o := whyOf(t, r.web); o.Reason != connect.LimitExceeded || o.Why != "1 connections are open, of 1" {
		t.Errorf("%q %q", o.Reason, o.Why)
	}
	if in := r.api.ExplainInbound(t.Context(), explain.Arrival{Question: explain.Question{Source: "web"}}); in.Reason != connect.LimitExceeded {
		t.Errorf("inbound: %+v", in)
	}
	r.callInVain(t)
	until(t, "it is refused for that", func() bool { return refused(t, r.web, connect.LimitExceeded) == 1 })
}

// Of a connection, the first target that has an endpoint which is not ejected is
// used, and any of its endpoints.
func TestExplainOfAConnectionIsWhereItGoes(t *testing.T) {
	ca := meshca.New("root")
	web := start(t, DefaultLimits())
	var servers []net.Addr
	for _, name := range []string{"a", "b", "c"} {
		p := start(t, DefaultLimits())
		apply(t, p, service(ca, "api", application(t, "tcp", "127.0.0.1:0", greeter(name))))
		servers = append(servers, p.Inbound(t.Context()))
	}
	s := calling(service(ca, "web", nil), "api", nil, servers[:1], servers[1:])
	apply(t, web, s)
	called := func() (connect.TargetID, []string) {
		o := whyOf(t, web)
		var addresses []string
		for _, target := range o.Ways[0].Targets {
			for _, e := range target.Endpoints {
				if e.Chosen {
					addresses = append(addresses, e.Address)
				}
			}
		}
		return o.Ways[0].Target, addresses
	}
	hears := func() string {
		c := dial(t, web.Outbound(t.Context(), "api"))
		buf := make([]byte, 1)
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
		return string(buf)
	}
	if target, at := called(); target != "api1" || !slices.Equal(at, []string{servers[0].String()}) || hears() != "a" {
		t.Errorf("explained as %s at %v", target, at)
	}
	group := web.runtime.Load().upstreams["api"].legs[1].group
	for range defaultFailures {
		group.Failed(&group.Entries()[0], time.Now(), "made to fail")
	}
	target, at := called()
	if want := []string{servers[1].String(), servers[2].String()}; target != "api2" || !slices.Equal(at, want) {
		t.Errorf("explained as %s at %v, want %v", target, at, want)
	}
	heard := map[string]bool{}
	for range 8 {
		heard[hears()] = true
	}
	if diff := cmp.Diff(map[string]bool{"b": true, "c": true}, heard); diff != "" {
		t.Errorf("answered (-want +got):\n%s", diff)
	}
	if e := whyOf(t, web).Ways[0].Targets[1].Endpoints[0]; !strings.HasPrefix(e.NotUsed, "ejected until ") || e.LastFailure != "made to fail" || e.Chosen {
		t.Errorf("%+v", e)
	}
}

// A leaf that has ended is refused by every peer, whatever else is said.
func TestExpiredLeafIsTheReasonOnBothSides(t *testing.T) {
	ca := meshca.New("root")
	s := calling(service(ca, "web", nil), "api", []net.Addr{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}})
	s.Leaf = ca.Leaf("web", nil, meshca.Expired)
	e, err := Explain(s)
	if err != nil {
		t.Fatal(err)
	}
	q := explain.Question{Source: "web", Destination: "api"}
	if o := e.Outbound(q, time.Now()); reasonOf(o) != connect.TLSFailed || !strings.Contains(o.Ways[0].Why, "our own leaf expired at ") {
		t.Errorf("outbound: %+v", o.Ways)
	}
	if in := e.Inbound(explain.Arrival{Question: q}, time.Now()); in.Reason != connect.TLSFailed || in.Allowed {
		t.Errorf("inbound: %+v", in)
	}
	if o := e.Outbound(q, s.Leaf.NotAfter().Add(-time.Second)); reasonOf(o) != "" {
		t.Errorf("a second before: %+v", o)
	}
}

// Values in force are those of the runtime; their origins say what to change.
func TestSettingsSayWhereTheyComeFrom(t *testing.T) {
	ca := meshca.New("root")
	s := calling(service(ca, "web", nil), "api", []net.Addr{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}})
	s.Service.Protocol, s.Service.LocalRequestTimeout, s.Service.RateLimits = connect.HTTP, -1, connect.RateLimits{Rate: 7, MaxBody: 99}
	s.Chains["api"].Protocol = connect.HTTP
	node := s.Chains["api"].Nodes["r"]
	node.Resolver.LoadBalancer.Policy, node.Resolver.ConnectTimeout = "least_request", 2*time.Second
	s.Chains["api"].Nodes["s"] = connect.Node{Kind: connect.RouterNode, Routes: []connect.ChainRoute{{
		Next: "r", RequestTimeout: 3 * time.Second, Retry: connect.Retry{Attempts: 4, On: []string{"5xx"}},
	}}}
	s.Chains["api"].Start = "s"
	s.Upstreams[0].MaxPending = 5
	e, err := Explain(s)
	if err != nil {
		t.Fatal(err)
	}
	q := explain.Question{Source: "web", Destination: "api", Method: "GET", Path: "/"}
	o := e.Outbound(q, time.Now())
	got := append(o.Settings, o.Ways[0].Balance, o.Ways[0].Targets[0].Connect)
	want := []explain.Setting{
		{Name: "request timeout", Value: "3s", Origin: "route 1 of the service-router"},
		{Name: "idle timeout", Value: "5m0s", Origin: "default"},
		{Name: "retries", Value: "4, within a share of the requests under way", Origin: "route 1 of the service-router"},
		{Name: "connections to a target", Value: "1024", Origin: "default"},
		{Name: "waiting requests", Value: "5", Origin: "limits of the upstream's configuration"},
		{Name: "requests under way", Value: "1024", Origin: "default"},
		{Name: "balancing", Value: "least_request", Origin: "service-resolver: load_balancer"},
		{Name: "connect timeout", Value: "2s", Origin: "service-resolver: connect_timeout"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outbound (-want +got):\n%s", diff)
	}
	in := e.Inbound(explain.Arrival{Question: q}, time.Now())
	want = []explain.Setting{
		{Name: "connect timeout of the application", Value: "1s", Origin: "the sidecar's configuration: local_connect_timeout_ms"},
		{Name: "connections", Value: "20000", Origin: "default"},
		{Name: "response timeout", Value: "none", Origin: "the sidecar's configuration: local_request_timeout_ms"},
		{Name: "idle timeout", Value: "5m0s", Origin: "default"},
		{Name: "header bytes", Value: "61440", Origin: "default"},
		{Name: "requests per second", Value: "7, and 0 limits by path; more are answered limit_exceeded", Origin: "service-defaults: rate_limits"},
		{Name: "body bytes", Value: "99", Origin: "service-defaults: Meta"},
	}
	if diff := cmp.Diff(want, in.Settings); diff != "" {
		t.Errorf("inbound (-want +got):\n%s", diff)
	}
}
