// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrider-mesh/outrider/agent/telemetry"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run keeps r running until the test ends, and waits for its end.
func run(t *testing.T, r *telemetry.Registry) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

// scrape asks the handler.
func scrape(t testing.TB, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// get asks over the network, until somebody listens.
func get(t *testing.T, method, url, host string) (status int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	for {
		q, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Host = host
		resp, err := client.Do(q)
		if err != nil {
			select {
			case <-t.Context().Done():
				t.Fatal(err)
			case <-time.After(10 * time.Millisecond):
				continue
			}
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
}

func lines(text, prefix string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

func peer(name string) connect.Identity {
	return connect.Identity{TrustDomain: "t.consul", Partition: "default", Namespace: "default", Datacenter: "dc1", Service: name}
}

// served counts n requests of web.
func served(s *measure.Set, n int) {
	for range n {
		s.Peer(peer("web")).Done(&flow.Record{Kind: flow.Request, Status: 200, Duration: 30 * time.Millisecond, Sent: 1, Received: 2})
	}
}

func at(now time.Time) telemetry.State {
	return telemetry.State{
		Now: now,
		Sources: []telemetry.Source{
			{Kind: "endpoints", LastSuccess: now.Add(-time.Minute)},
			{Kind: "endpoints", LastSuccess: now.Add(-time.Second), Failures: 3},
			{Kind: "token", LastSuccess: now.Add(-time.Second), Expires: now.Add(time.Hour)},
			{Kind: "token", Expires: now.Add(time.Minute)},
		},
		Sidecars: []telemetry.Sidecar{{
			Service: "api", ProxyID: "api-proxy", Ready: true, Problems: 2, Snapshot: 7, SnapshotAt: now.Add(-10 * time.Second),
			LeafNotBefore: now.Add(-time.Hour), LeafNotAfter: now.Add(-time.Second),
			Roots:       []telemetry.Root{{ID: "ab:cd", NotAfter: now.Add(time.Hour)}, {ID: "ab:cd", NotAfter: now}, {ID: "empty"}},
			Listeners:   []telemetry.Listener{{Direction: "inbound", Held: 3, Limit: 10}, {Direction: "outbound", Upstream: "db", Held: 1}},
			Targets:     []telemetry.Target{{Upstream: "db", Target: "db.default.default.dc1", Usable: 2, Ejected: 1}},
			MemoryHeld:  5,
			MemoryLimit: 50, Probes: 4, Panics: 1,
		}},
	}
}
