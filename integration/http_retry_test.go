// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// retrying is the route of a service whose 503 is tried again, times times. It
// has no timeout that a slow machine could reach.
func retrying(t *testing.T, consul *realserver.Consul, name string, times int) {
	t.Helper()
	entry(t, consul, `{"Kind":"service-router","Name":%q,"Routes":[
		{"Match":{"HTTP":{"PathPrefix":"/"}},"Destination":{"RequestTimeout":"10m","NumRetries":%d,"RetryOnStatusCodes":[503]}}]}`, name, times)
}

func a503IsRetried(t *testing.T, consul *realserver.Consul) {
	retrying(t, consul, "flaky", 2)
	var mu sync.Mutex
	tries := map[string]int{}
	// It answers with as many 503 as a request asks for, then with its body.
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		id := r.Header.Get("X-Id")
		if tries[id]++; tries[id] <= len(r.Header.Get("X-Failures")) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(body)
	})
	o, c := pair(t, consul, "flaky", service{}, service{app: serve(t, app)})
	for _, test := range []struct {
		id, failures, body string
		status, tries      int
	}{
		{"none", "", "", 200, 1},
		{"once", "x", "", 200, 2},
		{"once, with a body", "x", "body", 200, 2},
		{"twice", "xx", "body", 200, 3},
		{"more often than is tried again", "xxx", "body", 503, 3},
	} {
		got, err := c.send(t.Context(), http.MethodPost, "/", test.body, "X-Id", test.id, "X-Failures", test.failures)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		times := tries[test.id]
		mu.Unlock()
		if got.status != test.status || times != test.tries || got.text != test.body {
			t.Errorf("503 %s: status %d after %d tries and body %q, want status %d after %d and %q", test.id, got.status, times, got.text, test.status, test.tries, test.body)
		}
	}
	if n := o.sidecar(t, "web-flaky").Proxy.Retries; n != 6 {
		t.Errorf("status counts %d retries", n)
	}
}

// untimed is the proxy block of a service whose application may take its time.
const untimed = "config { local_request_timeout_ms = 0 }"

// retriesKeepToTheirBudget has forty requests fail at the same moment. A fifth
// of forty is eight, and three may always be tried again.
func retriesKeepToTheirBudget(t *testing.T, consul *realserver.Consul) {
	const requests, least, most = 40, 3, 8
	retrying(t, consul, "down", 1)
	var first, again, answered atomic.Int64
	all, release := make(chan struct{}), make(chan struct{})
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-all:
			again.Add(1)
			<-release
		default:
			if first.Add(1) == requests {
				close(all)
			}
			<-all
		}
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	_, c := pair(t, consul, "down", service{}, service{app: serve(t, app), proxy: untimed})
	var calls sync.WaitGroup
	t.Cleanup(calls.Wait)
	for range requests {
		calls.Go(func() {
			if got, err := c.get(t.Context(), "/"); err != nil || got.status != http.StatusServiceUnavailable {
				t.Errorf("status %d: %v", got.status, err)
			}
			answered.Add(1)
		})
	}
	until(t, "every request is answered or tried again", func() error { return equal(answered.Load()+again.Load(), requests) })
	if n := again.Load(); n < least || n > most {
		t.Errorf("%d of %d requests were tried again at once, want %d to %d", n, requests, least, most)
	}
	close(release)
	calls.Wait()
	if n := again.Load(); n > most {
		t.Errorf("%d requests were tried again", n)
	}
}

// stuck is an application that answers / and holds any other request until its
// caller gives up, which ended tells.
func stuck(t *testing.T) (app http.Handler, ended <-chan struct{}) {
	t.Helper()
	gone := make(chan struct{}, 16)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			<-r.Context().Done()
			gone <- struct{}{}
		}
	}), gone
}

// timesOut expects 504 for a path that is stuck, and the application to learn
// that nobody waits any more.
func timesOut(t *testing.T, c *caller, ended <-chan struct{}, limit time.Duration) {
	t.Helper()
	c.want(t, http.StatusOK, "/")
	began := time.Now()
	got := c.want(t, http.StatusGatewayTimeout, "/stuck")
	if took := time.Since(began); took < limit {
		t.Errorf("it was answered after %v, before its time of %v", took, limit)
	}
	if got.text != "upstream request timeout" || got.refused() != "request_timeout" {
		t.Errorf("body %q, reason %q", got.text, got.refused())
	}
	receive(t, ended, "the application to be told")
	c.want(t, http.StatusOK, "/")
}

func aRouteTimeoutIs504(t *testing.T, consul *realserver.Consul) {
	entry(t, consul, `{"Kind":"service-router","Name":"slow","Routes":[
		{"Match":{"HTTP":{"PathPrefix":"/stuck"}},"Destination":{"RequestTimeout":"2s"}}]}`)
	app, ended := stuck(t)
	_, c := pair(t, consul, "slow", service{}, service{app: serve(t, app)})
	timesOut(t, c, ended, 2*time.Second)
}

func aLocalTimeoutIs504(t *testing.T, consul *realserver.Consul) {
	app, ended := stuck(t)
	_, c := pair(t, consul, "late", service{}, service{app: serve(t, app), proxy: "config { local_request_timeout_ms = 2000 }"})
	timesOut(t, c, ended, 2*time.Second)
}
