// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/expfmt"

	"github.com/outrider-mesh/outrider/agent/telemetry"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

func TestEverySidecarIsServedUntilItGoes(t *testing.T) {
	t.Parallel()
	r := telemetry.New(telemetry.Options{Version: "1.2.3"})
	one, two := measure.NewSet("api", "api-1"), measure.NewSet("api", "api-2")
	first := r.Add(one)
	r.Add(two)
	served(one, 1)
	served(two, 2)
	line := func(proxy string, n int) string {
		return fmt.Sprintf(`outrider_requests_total{code="2xx",destination="api",direction="inbound",proxy_id=%q,service="api",source="web",target="",upstream=""} %d`, proxy, n)
	}
	if diff := cmp.Diff([]string{line("api-1", 1), line("api-2", 2)}, lines(scrape(t, r.Handler()), "outrider_requests_total")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	first.Remove()
	text := scrape(t, r.Handler())
	if strings.Contains(text, "api-1") || !strings.Contains(text, line("api-2", 2)) {
		t.Errorf("after the end of the first: %s", lines(text, "outrider_requests"))
	}
	for _, prefix := range []string{`outrider_build_info{go_version="go1`, "go_goroutines ", "process_start_time_seconds "} {
		if len(lines(text, prefix)) != 1 {
			t.Errorf("no line that begins with %s", prefix)
		}
	}
}

func TestSeriesOfOneProxyAreNeverThereTwice(t *testing.T) {
	t.Parallel()
	r := telemetry.New(telemetry.Options{})
	old, next := measure.NewSet("api", "api-proxy"), measure.NewSet("api", "api-proxy")
	served(old, 1)
	served(next, 2)
	before := r.Add(old)
	r.Add(measure.NewSet("web", "api-proxies"))
	r.Add(next)
	for range 2 {
		if got := lines(scrape(t, r.Handler()), "outrider_requests_total"); len(got) != 1 || !strings.HasSuffix(got[0], " 2") {
			t.Errorf("lines %q", got)
		}
		before.Remove()
	}
}

func TestStateIsShownAsItIsAtTheScrape(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	r := telemetry.New(telemetry.Options{State: func(context.Context) telemetry.State { return at(now) }})
	r.Add(measure.NewSet("api", "api-proxy")).Configure(connect.Telemetry{Tags: []connect.Tag{{Name: "env", Value: "prod"}}})
	text := scrape(t, r.Handler())
	own := `{env="prod",proxy_id="api-proxy",service="api"}`
	for _, line := range []string{
		`outrider_draining 0`,
		`outrider_sources{kind="endpoints"} 2`, `outrider_sources{kind="token"} 2`,
		`outrider_sources_failing{kind="endpoints"} 1`, `outrider_source_age_seconds{kind="endpoints"} 60`,
		`outrider_token_seconds_to_expiry{kind="token"} 60`,
		"outrider_ready" + own + " 1", "outrider_problems" + own + " 2",
		"outrider_snapshot_version" + own + " 7", "outrider_snapshot_age_seconds" + own + " 10",
		"outrider_leaf_seconds_to_expiry" + own + " -1", "outrider_leaf_lifetime_seconds" + own + " 3599",
		`outrider_root_seconds_to_expiry{env="prod",proxy_id="api-proxy",root="ab:cd",service="api"} 3600`,
		`outrider_endpoints{env="prod",proxy_id="api-proxy",service="api",state="ejected",target="db.default.default.dc1",upstream="db"} 1`,
		`outrider_endpoints{env="prod",proxy_id="api-proxy",service="api",state="usable",target="db.default.default.dc1",upstream="db"} 2`,
		`outrider_held_connections{direction="inbound",env="prod",proxy_id="api-proxy",service="api",upstream=""} 3`,
		`outrider_connection_limit{direction="inbound",env="prod",proxy_id="api-proxy",service="api",upstream=""} 10`,
		"outrider_memory_held_bytes" + own + " 5", "outrider_memory_limit_bytes" + own + " 50",
		"outrider_probes_total" + own + " 4", "outrider_panics_total" + own + " 1",
	} {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("no line %s; there is %q", line, lines(text, line[:strings.IndexAny(line, "{ ")]))
		}
	}
	for _, metric := range telemetry.Metrics() {
		if len(lines(text, metric.Name+"{"))+len(lines(text, metric.Name+" ")) == 0 {
			t.Errorf("%s of the table is not shown", metric.Name)
		}
	}
}

func TestPromtoolFindsNoFaultWithAWholeScrape(t *testing.T) {
	t.Parallel()
	r := telemetry.New(telemetry.Options{State: func(context.Context) telemetry.State { return at(time.Now()) }})
	set := measure.NewSet("api", "api-proxy")
	r.Add(set).Configure(connect.Telemetry{Tags: []connect.Tag{{Name: "env", Value: "prod"}}})
	served(set, 3)
	set.Upstream("db").Target("db.default.default.dc1").Tried(&flow.Try{Reason: connect.TLSFailed}, true)
	set.Upstream("db").Done(&flow.Record{Kind: flow.Connection, Direction: flow.Outbound, Reason: connect.TLSFailed, Upstream: "db"})
	if out, err := realserver.Promtool(t, []byte(scrape(t, r.Handler())), "check", "metrics"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestTagsBecomeLabelsAndReplaceNone(t *testing.T) {
	t.Parallel()
	r := telemetry.New(telemetry.Options{})
	set := measure.NewSet("api", "api-proxy")
	served(set, 1)
	m := r.Add(set)
	var tags []connect.Tag
	for _, name := range []string{"env", "env", "service", "0day", "__name__", "le", "a.b", "é", ""} {
		tags = append(tags, connect.Tag{Name: name, Value: "v\n"})
	}
	m.Configure(connect.Telemetry{Tags: tags})
	if text := scrape(t, r.Handler()); !strings.Contains(text, `upstream=""} 1`) {
		t.Error("a scrape with tags counts anew")
	}
	served(set, 1)
	got := lines(scrape(t, r.Handler()), "outrider_requests_total")
	want := `outrider_requests_total{a_b="v\n",code="2xx",destination="api",direction="inbound",env="v\n",proxy_id="api-proxy",service="api",source="web",tag_="v\n",tag_0day="v\n",tag_le="v\n",tag_name__="v\n",target="",upstream=""} 2`
	if diff := cmp.Diff([]string{want}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	m.Configure(connect.Telemetry{})
	if text := scrape(t, r.Handler()); strings.Contains(text, "env=") || !strings.Contains(text, `upstream=""} 2`) {
		t.Error("tags that were taken back are still there")
	}
}

func TestScrapeSaysNativeHistogramsToWhoAsks(t *testing.T) {
	t.Parallel()
	r := telemetry.New(telemetry.Options{})
	set := measure.NewSet("api", "api-proxy")
	r.Add(set)
	served(set, 1)
	q := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	q.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, q)
	if format := expfmt.ResponseFormat(w.Header()); format.FormatType() != expfmt.TypeProtoDelim {
		t.Errorf("format %q", format)
	}
	if body := w.Body.String(); !strings.Contains(body, "outrider_request_duration_seconds") {
		t.Errorf("body of %d bytes without the histogram", len(body))
	}
}

func TestAnswerIsPackedForWhoCanUnpack(t *testing.T) {
	t.Parallel()
	h := telemetry.New(telemetry.Options{}).Handler()
	for accepted, packed := range map[string]bool{"gzip": true, "deflate, gzip;q=0.5": true, "": false, "identity": false, "gzip;q=0": false, "gzip; q=0.0": false, "xgzip": false} {
		q := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		q.Header.Set("Accept-Encoding", accepted)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, q)
		text := io.Reader(w.Body)
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != packed {
			t.Errorf("%q: packed is %v", accepted, got)
		}
		if packed {
			var err error
			if text, err = gzip.NewReader(text); err != nil {
				t.Fatal(err)
			}
		}
		if body, err := io.ReadAll(text); err != nil || !strings.Contains(string(body), "go_goroutines") {
			t.Errorf("%q: %v", accepted, err)
		}
	}
}

func TestMethodsThatReadAreServedOnly(t *testing.T) {
	t.Parallel()
	h := telemetry.New(telemetry.Options{}).Handler()
	for method, want := range map[string]int{http.MethodGet: 200, http.MethodHead: 200, http.MethodPost: 405, http.MethodDelete: 405, http.MethodOptions: 405} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/metrics", nil))
		if w.Code != want || w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d, %v", method, w.Code, w.Header())
		}
	}
}

func TestScrapesAtOnceAreBounded(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	r := telemetry.New(telemetry.Options{State: func(context.Context) telemetry.State {
		entered <- struct{}{}
		<-leave
		return telemetry.State{}
	}})
	codes := make(chan int)
	ask := func() {
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		codes <- w.Code
	}
	const most = 4
	for range most {
		go ask()
		<-entered
	}
	go ask()
	if code := <-codes; code != http.StatusServiceUnavailable {
		t.Errorf("one more: %d", code)
	}
	close(leave)
	for range most {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("within the bound: %d", code)
		}
	}
}

func TestStateThatHangsEndsTheWaitOfTheScrape(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := telemetry.New(telemetry.Options{State: func(ctx context.Context) telemetry.State {
			<-ctx.Done()
			return telemetry.State{}
		}})
		began := time.Now()
		if text := scrape(t, r.Handler()); !strings.Contains(text, "go_goroutines") {
			t.Error("the rest is missing")
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// listening is a Listen that hands out ports and says which.
func listening(t *testing.T, fail *atomic.Int32) (open func(context.Context, string) (net.Listener, error), where func(string) string) {
	bound := make(map[string]chan string)
	for _, address := range []string{"a:1", "b:2"} {
		bound[address] = make(chan string, 10)
	}
	open = func(ctx context.Context, address string) (net.Listener, error) {
		if fail.Add(-1) >= 0 {
			return nil, errors.New("the address is in use")
		}
		var listen net.ListenConfig
		l, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
		if err == nil {
			bound[address] <- "http://" + l.Addr().String()
		}
		return l, err
	}
	return open, func(address string) string {
		select {
		case url := <-bound[address]:
			return url
		case <-time.After(10 * time.Second):
			t.Fatalf("nobody listens on %s", address)
			return ""
		}
	}
}

func TestAddressServesMetricsAndNothingElse(t *testing.T) {
	t.Parallel()
	var fail atomic.Int32
	open, where := listening(t, &fail)
	r := telemetry.New(telemetry.Options{Listen: open})
	r.Serve("a:1")
	r.Add(measure.NewSet("api", "api-proxy"))
	run(t, r)
	url := where("a:1")
	for path, want := range map[string]int{"/metrics": 200, "/": 404, "/metrics/x": 404, "/debug/pprof/": 404, "/v1/status": 404, "/v1/snapshot": 404} {
		if status, body := get(t, http.MethodGet, url+path, ""); status != want {
			t.Errorf("%s: %d %.100s", path, status, body)
		}
	}
	for host, want := range map[string]int{
		"": 200, "localhost": 200, "localhost:9102": 200, "127.0.0.1:1": 200, "[::1]:9": 200, "10.1.2.3:9102": 200, "myhost:9102": 200,
		"attacker.example": 403, "attacker.example:9102": 403, "127.0.0.1.attacker.example": 403, "localhost.": 403,
	} {
		if status, _ := get(t, http.MethodGet, url+"/metrics", host); status != want {
			t.Errorf("host %q: %d, want %d", host, status, want)
		}
	}
}

func TestSidecarIsServedWhereItsRegistrationSays(t *testing.T) {
	t.Parallel()
	var fail atomic.Int32
	fail.Store(1) // Its first try finds the port taken.
	open, where := listening(t, &fail)
	r := telemetry.New(telemetry.Options{Listen: open, State: func(context.Context) telemetry.State {
		return telemetry.State{Sidecars: []telemetry.Sidecar{{Service: "api", ProxyID: "api-proxy"}, {Service: "web", ProxyID: "web-proxy"}, {Service: "db", ProxyID: "db-proxy"}}}
	}})
	for _, name := range []string{"api", "web"} {
		r.Add(measure.NewSet(name, name+"-proxy")).Configure(connect.Telemetry{PrometheusAddress: "a:1"})
	}
	db := r.Add(measure.NewSet("db", "db-proxy"))
	run(t, r)
	shown := func(url string) []string {
		_, text := get(t, http.MethodGet, url+"/metrics", "")
		var out []string
		for _, name := range []string{"api", "web", "db"} {
			if slices.Contains(lines(text, "outrider_ready"), fmt.Sprintf(`outrider_ready{proxy_id="%s-proxy",service="%s"} 0`, name, name)) && strings.Contains(text, fmt.Sprintf(`outrider_failures_total{direction="inbound",kind="request",proxy_id="%s-proxy",`, name)) {
				out = append(out, name)
			}
		}
		if !strings.Contains(text, "process_start_time_seconds") {
			t.Error("the process is missing")
		}
		return out
	}
	shared := where("a:1")
	if got := shown(shared); !slices.Equal(got, []string{"api", "web"}) {
		t.Errorf("served on the shared address: %v", got)
	}
	db.Configure(connect.Telemetry{PrometheusAddress: "b:2"})
	if got := shown(where("b:2")); !slices.Equal(got, []string{"db"}) {
		t.Errorf("served on its own address: %v", got)
	}
	r.Serve("a:1")
	if got := shown(shared); !slices.Equal(got, []string{"api", "web", "db"}) {
		t.Errorf("served on the address of the process: %v", got)
	}
}

func TestAddressThatIsNotWantedAnyMoreIsFree(t *testing.T) {
	t.Parallel()
	r := telemetry.New(telemetry.Options{})
	free := realserver.FreeAddr(t)
	r.Serve(free)
	run(t, r)
	if status, _ := get(t, http.MethodGet, "http://"+free+"/metrics", ""); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	r.Serve("")
	for {
		var listen net.ListenConfig
		l, err := listen.Listen(t.Context(), "tcp", free)
		if err == nil {
			_ = l.Close()
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("the address stays taken: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestNilRegistryDoesNothing(t *testing.T) {
	t.Parallel()
	var r *telemetry.Registry
	r.Serve("127.0.0.1:1")
	m := r.Add(measure.NewSet("a", "b"))
	m.Configure(connect.Telemetry{Statsd: "udp://127.0.0.1:1"})
	m.Remove()
	if err := r.Run(t.Context()); m != nil || err != nil {
		t.Errorf("%v, %v", m, err)
	}
}

// BenchmarkScrape200 is a scrape of one sidecar with 200 upstreams that are used,
// as Prometheus makes it, text and gzip included.
func BenchmarkScrape200(b *testing.B) {
	set := measure.NewSet("api", "api-proxy")
	var targets []telemetry.Target
	for i := range 200 {
		id := fmt.Sprintf("upstream-%d", i)
		target := connect.TargetID(id + ".default.default.dc1")
		u := set.Upstream(connect.UpstreamID(id))
		u.Opened()
		for n := range 40 {
			u.Target(target).Tried(&flow.Try{Took: time.Duration(n) * time.Millisecond}, false)
			u.Done(&flow.Record{Kind: flow.Request, Direction: flow.Outbound, Target: target, Status: 200 + 300*(n/38), Duration: time.Duration(n) * time.Millisecond, Sent: 1, Received: 1})
		}
		targets = append(targets, telemetry.Target{Upstream: id, Target: string(target), Usable: 3})
	}
	r := telemetry.New(telemetry.Options{State: func(context.Context) telemetry.State {
		return telemetry.State{Sidecars: []telemetry.Sidecar{{Service: "api", ProxyID: "api-proxy", Targets: targets}}}
	}})
	r.Add(set)
	h := r.Handler()
	for name, accept := range map[string]string{"text": "text/plain;version=0.0.4", "protobuf": "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"} {
		for _, encoding := range []string{"gzip", "identity"} {
			b.Run(name+"/"+encoding, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					w := httptest.NewRecorder()
					q := httptest.NewRequest(http.MethodGet, "/metrics", nil)
					q.Header.Set("Accept", accept)
					q.Header.Set("Accept-Encoding", encoding)
					h.ServeHTTP(w, q)
					b.ReportMetric(float64(w.Body.Len()), "B/scrape")
				}
			})
		}
	}
}
