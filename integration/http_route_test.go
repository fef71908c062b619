// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// versions makes subsets v1, which is the default, and v2 of a service.
func versions(t *testing.T, consul *realserver.Consul, name string) {
	t.Helper()
	entry(t, consul, `{"Kind":"service-resolver","Name":%q,"DefaultSubset":"v1","Subsets":{
		"v1":{"Filter":"Service.Meta.version == v1"},"v2":{"Filter":"Service.Meta.version == v2"}}}`, name)
}

// bothVersions are an instance of each subset.
func bothVersions(t *testing.T) (v1, v2 service) {
	t.Helper()
	return service{app: httpApp(t, "v1"), block: version("v1")}, service{app: httpApp(t, "v2"), block: version("v2")}
}

func aTenthGoesToTheCanary(t *testing.T, consul *realserver.Consul) {
	versions(t, consul, "canary")
	entry(t, consul, `{"Kind":"service-splitter","Name":"canary","Splits":[
		{"Weight":90,"ServiceSubset":"v1"},{"Weight":10,"ServiceSubset":"v2","ResponseHeaders":{"Set":{"x-leg":"canary"}}}]}`)
	v1, v2 := bothVersions(t)
	_, c := pair(t, consul, "canary", service{}, v1, v2)
	const requests, workers = 2000, 8
	var canary, marked atomic.Int64
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for range requests / workers {
				got, err := c.get(t.Context(), "/")
				if err != nil || got.status != http.StatusOK {
					t.Errorf("status %d: %v", got.status, err)
					return
				}
				if got.Server == "v2" {
					canary.Add(1)
				}
				if got.header.Get("X-Leg") == "canary" {
					marked.Add(1)
				}
			}
		})
	}
	all.Wait()
	// Five standard deviations of a binomial distribution: once in a million.
	bound := 5 * math.Sqrt(requests*0.1*0.9)
	if got := float64(canary.Load()); math.Abs(got-requests*0.1) > bound {
		t.Errorf("%v of %d requests went to the canary, want %v give or take %v", got, requests, requests*0.1, bound)
	}
	if canary.Load() != marked.Load() {
		t.Errorf("%d requests went to the canary, %d answers bear its header", canary.Load(), marked.Load())
	}
}

func theHeaderPicksTheSubset(t *testing.T, consul *realserver.Consul) {
	versions(t, consul, "beta")
	entry(t, consul, `{"Kind":"service-router","Name":"beta","Routes":[
		{"Match":{"HTTP":{"Header":[{"Name":"x-tester","Exact":"yes"}]}},"Destination":{"ServiceSubset":"v2","RequestHeaders":{"Add":{"x-routed":"tester"}}}}]}`)
	v1, v2 := bothVersions(t)
	_, c := pair(t, consul, "beta", service{}, v1, v2)
	for range 10 {
		if got := c.want(t, http.StatusOK, "/", "X-Tester", "yes"); got.Server != "v2" || got.Header.Get("X-Routed") != "tester" {
			t.Errorf("the tester is served by %q, which saw %v", got.Server, got.Header)
		}
		for _, fields := range [][]string{nil, {"X-Tester", "no"}, {"X-Tester", "yes", "X-Tester", "no"}} {
			if got := c.want(t, http.StatusOK, "/", fields...); got.Server != "v1" || got.Header.Get("X-Routed") != "" {
				t.Errorf("with %v served by %q, which saw %v", fields, got.Server, got.Header)
			}
		}
	}
}

func aRedirectIsFollowed(t *testing.T, consul *realserver.Consul) {
	entry(t, consul, `{"Kind":"service-resolver","Name":"old-name","Redirect":{"Service":"new-name"}}`)
	port := freePort(t)
	o := start(t, consul, service{name: "new-name", app: httpApp(t, "new")}.stanza(t)+
		service{name: "web-old-name", upstream: "old-name", port: port}.stanza(t))
	o.endpoints(t, "web-old-name", 1)
	c := newCaller(t, port, false)
	if got := c.want(t, http.StatusOK, "/x?y=z"); got.Server != "new" || got.Target != "/x?y=z" {
		t.Errorf("%s was served by %q", got.Target, got.Server)
	}
}

// maintain puts a sidecar in maintenance, which is a failing check, or takes it
// out again.
func maintain(t *testing.T, consul *realserver.Consul, id string, on bool) {
	t.Helper()
	put(t, consul, fmt.Sprintf("/v1/agent/service/maintenance/%s-sidecar-proxy?enable=%t", id, on), "")
}

func failoverFollowsHealth(t *testing.T, consul *realserver.Consul) {
	entry(t, consul, `{"Kind":"service-resolver","Name":"primary","Failover":{"*":{"Service":"backup"}}}`)
	port := freePort(t)
	o := start(t, consul, service{name: "primary", app: httpApp(t, "primary")}.stanza(t)+
		service{name: "backup", app: httpApp(t, "backup")}.stanza(t)+
		service{name: "web-primary", upstream: "primary", port: port}.stanza(t))
	o.endpoints(t, "web-primary", 2)
	c := newCaller(t, port, false)
	servedBy := func(name string) {
		t.Helper()
		until(t, name+" serves", func() error {
			got, err := c.get(t.Context(), "/")
			if err == nil && (got.status != http.StatusOK || got.Server != name) {
				err = fmt.Errorf("status %d of %q", got.status, got.Server)
			}
			return err
		})
	}
	if got := c.want(t, http.StatusOK, "/"); got.Server != "primary" {
		t.Errorf("%q serves while the primary is there", got.Server)
	}
	l := startRequests(t, 4, func(ctx context.Context) error { return ok(c.get(ctx, "/")) })
	for range 2 {
		maintain(t, consul, "primary", true)
		servedBy("backup")
		l.more(t, 50)
		maintain(t, consul, "primary", false)
		servedBy("primary")
		l.more(t, 50)
	}
	l.end(t)
}

// ok is an error for any answer but 200.
func ok(got reply, err error) error {
	if err == nil && got.status != http.StatusOK {
		err = fmt.Errorf("status %d, %s: %.200q", got.status, got.refused(), got.text)
	}
	return err
}
