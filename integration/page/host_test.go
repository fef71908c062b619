// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package page

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/agent/ledger"
	"github.com/outrider-mesh/outrider/agent/page"
	"github.com/outrider-mesh/outrider/agent/recorder"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/explain"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
	"github.com/outrider-mesh/outrider/connect/proxy"
)

// A host answers as the admin API of an agent does, with what the test says.
type host struct {
	URL string

	failures *recorder.Recorder
	counts   *measure.Set
	callers  map[string]*measure.Peer
	upstream *measure.Upstream
	rules    *measure.Rules

	mu     sync.Mutex
	gone   bool
	status agent.Status
	asked  []string // queries of explain
	looked int      // questions for edges
}

const trustDomain = "5c1a9b2e-7f0d-4c6e-9b58-0e3f6a2d4c11.consul"

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{
		failures: recorder.New(), counts: measure.NewSet("web", "web-1-sidecar-proxy"), callers: map[string]*measure.Peer{}, status: healthy(),
	}
	h.upstream = h.counts.Upstream("api")
	h.rules = h.counts.Rules(intentions())
	p, err := page.New()
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", p)
	mux.Handle("/v1/series", page.Counts(func() []page.Gatherer { return []page.Gatherer{h.counts} }))
	mux.Handle("/v1/failures", h.failures)
	mux.HandleFunc("/v1/edges", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.looked++
		_ = json.NewEncoder(w).Encode(edges())
	})
	mux.HandleFunc("/v1/status", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		_ = json.NewEncoder(w).Encode(h.status)
	})
	mux.HandleFunc("/v1/explain", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.asked = append(h.asked, r.URL.Query().Encode())
		_ = json.NewEncoder(w).Encode(explanation())
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		gone := h.gone
		h.mu.Unlock()
		if gone {
			panic(http.ErrAbortHandler)
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	h.URL = server.URL
	return h
}

// set changes what the host says.
func (h *host) set(change func(*host)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h)
}

func identity(service string) connect.Identity {
	return connect.Identity{TrustDomain: trustDomain, Partition: "default", Namespace: "default", Datacenter: "dc1", Service: service}
}

func intentions() []connect.Intention {
	return []connect.Intention{
		{Source: connect.Source{Name: "batch"}, Destination: "web", Action: connect.Deny, Precedence: 9},
		{Source: connect.Source{Name: "shop"}, Destination: "web", Action: connect.Allow, Precedence: 9},
	}
}

// called counts n requests of a source, each of which took its time.
func (h *host) called(source string, n int, took time.Duration) {
	p := h.counts.Peer(identity(source))
	p.Opened()
	for range n {
		p.Done(&flow.Record{Kind: flow.Request, Direction: flow.Inbound, Source: identity(source), Status: 200, Duration: took})
	}
}

// calls counts n requests to the upstream api.
func (h *host) calls(n int, took time.Duration, reason connect.Reason) {
	h.upstream.Opened()
	for range n {
		h.upstream.Done(&flow.Record{
			Kind: flow.Request, Direction: flow.Outbound, Upstream: "api", Target: "api.default.default.dc1", Status: 200, Reason: reason, Duration: took,
		})
	}
}

// denied is a request of batch that an intention denied.
func (h *host) denied(path string) {
	h.rules.Decided(0, false)
	h.failures.Done(&flow.Record{
		Kind: flow.Request, Direction: flow.Inbound, Service: "web", ProxyID: "web-1-sidecar-proxy", Source: identity("batch"),
		Downstream: netip.MustParseAddrPort("10.0.3.17:51544"), Method: "GET", Path: path, Authority: "web", Protocol: "HTTP/1.1", Status: 403,
		Judged: true, Intention: "batch → web", Precedence: 9, Reason: connect.IntentionDenied, Why: "source batch, intention batch → web denies it",
		Start: time.Now().Add(-90 * time.Second), Duration: 180 * time.Microsecond, Snapshot: 12,
	})
}

// broken is a call of the upstream api whose tries all failed.
func (h *host) broken() {
	try := func(address string, start time.Duration) flow.Try {
		return flow.Try{
			Target: "api.default.default.dc1", Endpoint: address, Start: start, Took: 3 * time.Millisecond, Reason: connect.ConnectFailed,
			Error: fmt.Sprintf("dial %s: connection refused", address),
		}
	}
	h.failures.Done(&flow.Record{
		Kind: flow.Request, Direction: flow.Outbound, Service: "web", ProxyID: "web-1-sidecar-proxy", Source: identity("web"), Upstream: "api",
		Target: "api.default.default.dc1", Node: "resolver:api.default.default", Endpoint: "10.0.1.11:21001", Method: "POST", Path: "/orders",
		Authority: "api", Protocol: "HTTP/2", Status: 503, Reason: connect.ConnectFailed, Why: "no try reached an endpoint of target api.default.default.dc1",
		Start: time.Now().Add(-15 * time.Second), Duration: 9 * time.Millisecond, Retries: 1,
		Tries: []flow.Try{try("10.0.1.10:21001", 0), try("10.0.1.11:21001", 4*time.Millisecond)}, Snapshot: 12,
	})
}

// healthy is a host with two services in good order.
func healthy() agent.Status {
	now := time.Now().Round(time.Second)
	return agent.Status{
		Version: "0.6.0", Started: now.Add(-75 * time.Hour), Consul: "127.0.0.1:8500", Vault: "https://vault.service.consul:8200",
		Sidecars: []agent.SidecarStatus{webStatus(now), cacheStatus(now)},
		Watches: []agent.WatchStatus{
			{Key: "health/service/api", LastSuccess: now.Add(-4 * time.Second)},
			{Key: "config/service-intentions/web", LastSuccess: now.Add(-41 * time.Second)},
			{Key: "connect/ca/roots", LastSuccess: now.Add(-12 * time.Minute)},
		},
	}
}

func webStatus(now time.Time) agent.SidecarStatus {
	return agent.SidecarStatus{
		Service: "web", ProxyID: "web-1-sidecar-proxy", Ready: true, DefaultPolicy: "deny", DefaultFrom: "from Consul's ACL system",
		Leaf: &agent.LeafStatus{
			Identity: identity("web").String(), Issuer: "pri-vault.5c1a9b2e.consul", Serial: "5a0f33c1d7e2",
			NotBefore: now.Add(-30 * time.Hour), NotAfter: now.Add(42 * time.Hour), NextAttempt: now.Add(19 * time.Hour),
		},
		Roots: []agent.RootStatus{{ID: "aa:bb", Name: "Vault CA Primary", Active: true, NotAfter: now.Add(9000 * time.Hour)}},
		Intentions: []agent.IntentionStatus{
			{Source: "batch", Target: "web", Precedence: 9, Action: "deny"}, {Source: "shop", Target: "web", Precedence: 9, Action: "allow"},
		},
		Proxy: proxy.Status{
			Snapshot: 12,
			Inbound:  proxy.InboundStatus{Address: "10.0.3.5:21000", Limit: 4096, TrafficStatus: proxy.TrafficStatus{Active: 3, Connections: 812, Requests: 40219, Sent: 18 << 20, Received: 211 << 20}},
			Refused:  map[connect.Reason]int64{connect.IntentionDenied: 3, connect.ConnectFailed: 1},
			Attempts: map[connect.Reason]int64{connect.ConnectFailed: 7}, Ejections: 1, Retries: 6,
			Upstreams: []proxy.UpstreamStatus{{
				ID: "api", Address: "127.0.0.1:9191", Active: 2, Limit: 1024,
				Targets: []proxy.TargetStatus{{ID: "api.default.default.dc1", SNI: "api.default.dc1.internal." + trustDomain, Endpoints: []proxy.EndpointStatus{
					{ID: "lab/api-1", Node: "node-a", Address: "10.0.1.9:21001", Weight: 1, Active: 2},
					{ID: "lab/api-2", Node: "node-b", Address: "10.0.1.10:21001", Weight: 1, LastFailure: "dial 10.0.1.10:21001: connection refused",
						NotUsed: "ejected until " + now.Add(5*time.Minute).Format(time.RFC3339) + " after repeated failures"},
					{ID: "lab/api-3", Node: "node-c", Address: "10.0.1.11:21001", Weight: 1, NotUsed: "check service:api-3 is critical"},
				}}},
			}},
		},
	}
}

func cacheStatus(now time.Time) agent.SidecarStatus {
	return agent.SidecarStatus{
		Service: "cache", ProxyID: "cache-sidecar-proxy", Ready: true, DefaultPolicy: "deny", DefaultFrom: "from Consul's ACL system",
		Leaf:  &agent.LeafStatus{Identity: identity("cache").String(), Issuer: "pri-vault.5c1a9b2e.consul", Serial: "77", NotBefore: now.Add(-time.Hour), NotAfter: now.Add(71 * time.Hour)},
		Proxy: proxy.Status{Snapshot: 3, Inbound: proxy.InboundStatus{Address: "10.0.3.5:21002", Limit: 4096}},
	}
}

// edges are calls that a host has seen.
func edges() ledger.Edges {
	now := time.Now()
	return ledger.Edges{Version: 1, Forgotten: 2, Edges: []ledger.Edge{
		{Direction: "inbound", Source: "batch", Destination: "web", Method: "GET", Path: "/orders/{id}", Count: 3, First: now, Last: now},
		{Direction: "outbound", Source: "web", Peer: "east", Destination: "api", Allowed: true, Count: 412, First: now, Last: now.Add(-time.Hour)},
	}}
}

// explanation is that of a denied call, with a step of every kind.
func explanation() explain.Explanation {
	return explain.Explanation{
		Source: "web", Destination: "api", Method: "GET", Path: "/admin",
		Outbound: &explain.Outbound{
			Service: "web", ProxyID: "web-1-sidecar-proxy", Snapshot: 12, Identity: identity("web").String(), Upstream: "api", Listener: "127.0.0.1:9191", Protocol: "http",
			Rule: &explain.Rule{Number: 2, Of: 3, Match: "path begins with /admin"},
			Ways: []explain.Way{{
				Share: explain.Whole, Node: "resolver:api.default.default", Target: "api.default.default.dc1", Balance: explain.Setting{Name: "balance", Value: "least_request", Origin: "default"},
				Targets: []explain.Target{{
					ID: "api.default.default.dc1", Service: "api", Called: true, SNI: "api.default.dc1.internal." + trustDomain, Expects: []string{identity("api").String()},
					Endpoints: []explain.Endpoint{
						{ID: "lab/api-1", Node: "node-a", Address: "10.0.1.9:21001", Weight: 1, Chosen: true},
						{ID: "lab/api-2", Node: "node-b", Address: "10.0.1.10:21001", Weight: 1, NotUsed: "ejected after repeated failures"},
					},
				}},
			}},
			Settings: []explain.Setting{{Name: "request timeout", Value: "15s", Origin: "router rule 2"}},
		},
		Inbound: []explain.Inbound{{
			Service: "api", From: "the intentions in Consul", Reason: connect.IntentionDenied, Why: "permission 1 denies it", Intention: "web → api", Precedence: 9, Permission: 1,
			Permissions: []explain.Permission{{Number: 1, Match: "path begins with /admin", Action: "deny", Decides: true}, {Number: 2, Match: "any", Action: "allow"}},
			Written:     &explain.Written{Entry: "service-intentions api", Meta: map[string]string{"owner": "team-pay"}, Modified: 231},
		}},
		Verdict: explain.Verdict{
			Reason: connect.IntentionDenied, Why: "permission 1 of intention web → api denies it",
			Outcomes: []explain.Outcome{{Share: explain.Whole, Target: "api.default.default.dc1", Service: "api", Reason: connect.IntentionDenied}},
		},
	}
}
