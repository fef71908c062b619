// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

func aRateLimitIs429(t *testing.T, consul *realserver.Consul) {
	var served atomic.Int64
	app := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) })
	_, c := pair(t, consul, "calm", service{}, service{app: serve(t, app)})
	limits := quoted(t, `{"instance_level":{"requests_per_second":1000000,
		"routes":[{"path_prefix":"/dear","requests_per_second":1,"requests_max_burst":5}]}}`)
	entry(t, consul, `{"Kind":"service-defaults","Name":"calm","Protocol":"http","Meta":{"outrider-rate-limits":%s}}`, limits)
	got := c.eventually(t, http.StatusTooManyRequests, "/dear")
	if got.text != "local_rate_limited" || got.refused() != "limit_exceeded" {
		t.Errorf("body %q, reason %q", got.text, got.refused())
	}
	began, before, passed := time.Now(), served.Load(), int64(0)
	for range 50 {
		if got, err := c.get(t.Context(), "/dear/thing?x=y"); err == nil && got.status == http.StatusOK {
			passed++
		}
	}
	// Its five are used up; one comes back each second.
	if most := int64(time.Since(began).Seconds()) + 1; passed > most || served.Load()-before != passed {
		t.Errorf("%d of 50 requests passed, want at most %d; the application saw %d", passed, most, served.Load()-before)
	}
	for range 20 {
		c.want(t, http.StatusOK, "/cheap")
	}
	c.eventually(t, http.StatusOK, "/dear")
}

func faultsAreAsConfigured(t *testing.T, consul *realserver.Consul) {
	const delay = 400 * time.Millisecond
	faults := quoted(t, `[{"path_prefix":"/broken","header":[{"name":"x-chaos","present":true}],"abort_status":418,"abort_percent":100},
		{"path_exact":"/slow","delay":"400ms","delay_percent":100}]`)
	entry(t, consul, `{"Kind":"service-defaults","Name":"prey","Protocol":"http","Meta":{"outrider-faults":%s}}`, faults)
	_, c := pair(t, consul, "prey", service{}, service{app: httpApp(t, "app")})
	if got := c.eventually(t, http.StatusTeapot, "/broken/x", "X-Chaos", "1"); got.header.Get("X-Outrider-Fault") != "abort" || got.Server != "" {
		t.Errorf("the answer %v is by %q", got.header, got.Server)
	}
	c.want(t, http.StatusOK, "/broken/x")
	c.want(t, http.StatusOK, "/", "X-Chaos", "1")
	began := time.Now()
	if got := c.want(t, http.StatusOK, "/slow"); got.Server != "app" || time.Since(began) < delay {
		t.Errorf("%q answered after %v, want the application after %v", got.Server, time.Since(began), delay)
	}
}

func aLargeHeaderIs431(t *testing.T, consul *realserver.Consul) {
	_, c := pair(t, consul, "narrow", service{}, service{app: httpApp(t, "app"), proxy: "config { max_request_headers_kb = 8 }"})
	c.want(t, http.StatusOK, "/", "X-Large", strings.Repeat("a", 6<<10))
	c.want(t, http.StatusRequestHeaderFieldsTooLarge, "/", "X-Large", strings.Repeat("a", 16<<10))
	c.want(t, http.StatusOK, "/")
}

func tooManyRequestsAre503(t *testing.T, consul *realserver.Consul) {
	const most = 2
	release, within := make(chan struct{}), make(chan struct{}, most)
	app := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			within <- struct{}{}
			<-release
		}
	})
	_, c := pair(t, consul, "busy", service{config: map[string]string{
		"busy": fmt.Sprintf("limits { max_concurrent_requests = %d }", most),
	}}, service{app: serve(t, app)})
	c.want(t, http.StatusOK, "/")
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	for range most {
		all.Go(func() {
			if err := ok(c.get(t.Context(), "/hold")); err != nil {
				t.Errorf("a request within the limit: %v", err)
			}
		})
	}
	for range most {
		receive(t, within, "a request to be held")
	}
	for range 5 {
		got := c.want(t, http.StatusServiceUnavailable, "/")
		if got.header.Get("X-Envoy-Overloaded") != "true" || got.refused() != "limit_exceeded" || !strings.Contains(got.text, "overflow") {
			t.Errorf("header %v, body %q", got.header, got.text)
		}
	}
	close(release)
	all.Wait()
	c.want(t, http.StatusOK, "/")
}

func anExposedPathNeedsNoTLS(t *testing.T, consul *realserver.Consul) {
	entry(t, consul, `{"Kind":"service-intentions","Name":"open","Sources":[{"Name":"*","Action":"deny"}]}`)
	port := freePort(t)
	app := httpApp(t, "app").(*net.TCPAddr)
	_, mesh := pair(t, consul, "open", service{}, service{app: app, proxy: fmt.Sprintf(`expose {
		paths {
			path            = "/metrics"
			listener_port   = %d
			local_path_port = %d
		}
	}`, port, app.Port)})
	direct := newCaller(t, port, false)
	if got := direct.eventually(t, http.StatusOK, "/metrics?all=1", "X-Forwarded-Client-Cert", "URI=spiffe://forged"); got.Server != "app" || got.Target != "/metrics?all=1" || got.Header.Get("X-Forwarded-Client-Cert") != "" {
		t.Errorf("%q saw %s with %v", got.Server, got.Target, got.Header)
	}
	for _, path := range []string{"/", "/metrics/", "/metrics/x", "/Metrics", "/x/../metrics", "//metrics", "/%6detrics"} {
		if got := direct.want(t, http.StatusNotFound, path); got.Server != "" {
			t.Errorf("%s reached the application", path)
		}
	}
	mesh.eventually(t, http.StatusForbidden, "/metrics")
}

// exposedChecksPass has Consul check an application that it can only reach
// through the sidecar's listener for checks: the check's own port is not the
// application's any more once Consul has moved it.
func exposedChecksPass(t *testing.T, consul *realserver.Consul) {
	var checked atomic.Int64
	app := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		checked.Add(1)
	})).(*net.TCPAddr)
	start(t, consul, service{name: "ill", app: app, proxy: "expose { checks = true }", block: fmt.Sprintf(`
  check {
    id       = "ill-health"
    name     = "health"
    http     = "http://127.0.0.1:%d/health"
    interval = "500ms"
  }`, app.Port)}.stanza(t))
	var port int
	until(t, "Consul has moved the check to the sidecar, and it passes", func() error {
		checks := map[string]struct {
			Status      string
			Output      string
			ExposedPort int
		}{}
		ask(t, consul, "/v1/agent/checks", &checks)
		check := checks["ill-health"]
		if port = check.ExposedPort; port == 0 || check.Status != "passing" {
			return fmt.Errorf("%+v", check)
		}
		return nil
	})
	before := checked.Load()
	until(t, "it is made again", func() error {
		if checked.Load() == before {
			return fmt.Errorf("the application saw %d checks", before)
		}
		return nil
	})
	c := newCaller(t, port, false)
	c.eventually(t, http.StatusOK, "/health")
	c.want(t, http.StatusNotFound, "/")
}

func aFailingEndpointIsEjected(t *testing.T, consul *realserver.Consul) {
	const failures = 3
	var failed atomic.Int64
	bad := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		failed.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
	})
	o, c := pair(t, consul, "sick", service{config: map[string]string{"sick": fmt.Sprintf(`
		outrider_lb = "round_robin"
		passive_health_check {
			max_failures              = %d
			enforcing_consecutive_5xx = 100
			max_ejection_percent      = 100
			base_ejection_time        = "5m"
		}`, failures)}}, service{app: serve(t, bad)}, service{app: httpApp(t, "good")})
	for n := 0; failed.Load() < failures; n++ {
		if got, err := c.get(t.Context(), "/"); err != nil || (got.status != 500 && got.status != 200) || n > 1000 {
			t.Fatalf("request %d: status %d: %v; the failing endpoint was asked %d times", n, got.status, err, failed.Load())
		}
	}
	for range 100 {
		if got := c.want(t, http.StatusOK, "/"); got.Server != "good" {
			t.Fatalf("%q serves", got.Server)
		}
	}
	if n := failed.Load(); n != failures {
		t.Errorf("the failing endpoint was asked %d times, want %d", n, failures)
	}
	s := o.sidecar(t, "web-sick")
	if s.Proxy.Ejections != 1 || !strings.Contains(fmt.Sprintf("%+v", s.Proxy.Upstreams), "ejected until") {
		t.Errorf("status: %+v", s.Proxy)
	}
}
