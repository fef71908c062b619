// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package measure_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

var web = connect.Identity{TrustDomain: "t.consul", Partition: "default", Namespace: "default", Datacenter: "dc1", Service: "web"}

// scrape returns every line of the text form that is no comment and whose name
// has the prefix, without the labels of the sidecar.
func scrape(t testing.TB, s *measure.Set, prefix string) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(text(t, s)) {
		line = strings.NewReplacer(`,proxy_id="api-proxy"`, "", `,service="api"`, "", `proxy_id="api-proxy",`, "", `service="api",`, "").Replace(line)
		if strings.HasPrefix(line, prefix) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

func text(t testing.TB, s *measure.Set) string {
	t.Helper()
	families, err := s.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func want(t *testing.T, s *measure.Set, prefix string, lines ...string) {
	t.Helper()
	got := slices.DeleteFunc(scrape(t, s, prefix), func(l string) bool { return strings.HasSuffix(l, " 0") })
	slices.Sort(got)
	slices.Sort(lines)
	if diff := cmp.Diff(lines, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", prefix, diff)
	}
}

func request(d flow.Direction, status int, took time.Duration) *flow.Record {
	return &flow.Record{Kind: flow.Request, Direction: d, Status: status, Duration: took, Sent: 10, Received: 20}
}

func TestRequestsAreCountedByWhoCallsWhomAndClassOfStatus(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	p := s.Peer(web)
	p.Done(request(flow.Inbound, 200, 3*time.Millisecond))
	p.Done(request(flow.Inbound, 204, 3*time.Millisecond))
	p.Done(request(flow.Inbound, 503, time.Second))
	p.Done(request(flow.Inbound, 0, time.Second))
	p.Done(request(flow.Inbound, 999, time.Second))
	edge := `destination="api",direction="inbound",source="web",target="",upstream=""`
	want(t, s, "outrider_requests_total",
		`outrider_requests_total{code="2xx",`+edge+`} 2`, `outrider_requests_total{code="5xx",`+edge+`} 1`, `outrider_requests_total{code="none",`+edge+`} 2`)
	want(t, s, "outrider_sent", `outrider_sent_bytes_total{`+edge+`} 50`)
	want(t, s, "outrider_received", `outrider_received_bytes_total{`+edge+`} 100`)
	want(t, s, `outrider_request_duration_seconds_bucket{`+edge+`,le="0.005"`, `outrider_request_duration_seconds_bucket{`+edge+`,le="0.005"} 2`)
}

func TestBothSidesNameAnEdgeAlike(t *testing.T) {
	t.Parallel()
	for upstream, tc := range map[connect.UpstreamID]struct {
		target      connect.TargetID
		destination string
	}{
		"db":               {"db.default.default.dc1", "db"},
		"db?dc=dc2":        {"v2.db.default.default.dc2", "db"},
		"db?peer=east":     {"db.default.default.external.east", "east/db"},
		"query:geo":        {"", "query:geo"},
		"router":           {"admin.default.default.dc1", "admin"},
		"odd?peer=west":    {"", "west/odd"},
		"strange":          {"something", "something"},
		"db?ns=n&peer=far": {"", "far/db"},
	} {
		s := measure.NewSet("api", "api-proxy")
		r := request(flow.Outbound, 200, time.Second)
		r.Upstream, r.Target = upstream, tc.target
		s.Upstream(upstream).Done(r)
		want(t, s, "outrider_requests_total", fmt.Sprintf(`outrider_requests_total{code="2xx",destination=%q,direction="outbound",source="api",target=%q,upstream=%q} 1`, tc.destination, tc.target, upstream))
	}
}

func TestConnectionIsOpenFromOpenedToDone(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	u := s.Upstream("db")
	edge := `{destination="db",direction="outbound",source="api",target="",upstream="db"}`
	u.Opened()
	u.Opened()
	want(t, s, "outrider_connections", "outrider_connections_open"+edge+" 2", "outrider_connections_total"+edge+" 2")
	r := &flow.Record{Kind: flow.Connection, Direction: flow.Outbound, Upstream: "db", Target: "db.default.default.dc1", Duration: time.Minute, Sent: 5}
	u.Done(r)
	u.Done(r)
	want(t, s, "outrider_connections", "outrider_connections_total"+edge+" 2")
	want(t, s, "outrider_sent", `outrider_sent_bytes_total{destination="db",direction="outbound",source="api",target="db.default.default.dc1",upstream="db"} 10`)
}

func TestBytesOfHTTPAreCountedOnce(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	p := s.Peer(web)
	p.Done(request(flow.Inbound, 200, time.Second))
	p.Done(&flow.Record{Kind: flow.Connection, Requests: 1, Sent: 1000, Received: 1000})
	want(t, s, "outrider_sent", `outrider_sent_bytes_total{destination="api",direction="inbound",source="web",target="",upstream=""} 10`)
}

func TestFailuresOfASidecarAreThereBeforeTheFirst(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	for _, reason := range connect.Reasons() {
		line := fmt.Sprintf(`outrider_failures_total{direction="inbound",kind="request",reason=%q} 0`, reason)
		if !slices.Contains(scrape(t, s, "outrider_failures_total"), line) {
			t.Errorf("no series %s", line)
		}
	}
	for _, r := range []flow.Record{
		{Direction: flow.Inbound, Kind: flow.Request, Reason: connect.IntentionDenied},
		{Direction: flow.Outbound, Kind: flow.Connection, Reason: connect.TLSFailed},
		{Direction: flow.Exposed, Kind: flow.Request, Reason: "made up"},
		{Direction: flow.Inbound, Kind: flow.Request, Reason: connect.StreamReset, Gone: true},
		{Direction: flow.Inbound, Kind: flow.Request},
	} {
		s.Done(&r)
	}
	want(t, s, "outrider_failures_total",
		`outrider_failures_total{direction="inbound",kind="request",reason="intention_denied"} 1`,
		`outrider_failures_total{direction="outbound",kind="connection",reason="tls_failed"} 1`,
		`outrider_failures_total{direction="exposed",kind="request",reason="other"} 1`)
	want(t, s, "outrider_abandoned_total",
		`outrider_abandoned_total{destination="api",direction="inbound",kind="request",source="",target="",upstream=""} 1`)
}

func TestFailureOfAnEdgeSaysWhichSideGaveTheReason(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	r := request(flow.Outbound, 403, time.Second)
	r.Upstream, r.Reason = "db", connect.IntentionDenied
	s.Upstream("db").Done(r)
	r.Remote = true
	s.Upstream("db").Done(r)
	edge := `destination="db",direction="outbound",kind="request",reason="intention_denied",side="%s",source="api",target="",upstream="db"} 1`
	want(t, s, "outrider_edge_failures_total",
		"outrider_edge_failures_total{"+fmt.Sprintf(edge, "local"), "outrider_edge_failures_total{"+fmt.Sprintf(edge, "remote"))
}

func TestEveryReasonHasItsOwnPlace(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	for i, reason := range connect.Reasons() {
		for range i + 1 {
			s.Done(&flow.Record{Direction: flow.Inbound, Kind: flow.Connection, Reason: reason})
		}
	}
	var lines []string
	for i, reason := range connect.Reasons() {
		lines = append(lines, fmt.Sprintf(`outrider_failures_total{direction="inbound",kind="connection",reason=%q} %d`, reason, i+1))
	}
	want(t, s, "outrider_failures_total", lines...)
}

func TestCallsOfGRPCAreCountedByTheirStatus(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	for _, status := range []string{"0", "14", "17", "abc", "-1", ""} {
		r := request(flow.Inbound, 200, time.Second)
		r.GRPC, r.GRPCStatus = true, status
		s.Peer(web).Done(r)
	}
	line := `outrider_grpc_responses_total{destination="api",direction="inbound",grpc_status="%s",source="web",target="",upstream=""} %d`
	want(t, s, "outrider_grpc_responses_total", fmt.Sprintf(line, "0", 1), fmt.Sprintf(line, "14", 1), fmt.Sprintf(line, "other", 3))
}

func TestTriesHandshakesAndDecisions(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	u := s.Upstream("db")
	target := u.Target("v1.db.default.default.dc1")
	target.Tried(&flow.Try{Took: time.Second, Reason: connect.ConnectFailed}, false)
	target.Tried(&flow.Try{Took: time.Second}, true)
	target.Ejected()
	u.BudgetSpent()
	edge := `destination="db",%starget="v1.db.default.default.dc1",upstream="db"} 1`
	want(t, s, "outrider_tries_total",
		"outrider_tries_total{"+fmt.Sprintf(edge, `retry="false",`), "outrider_tries_total{"+fmt.Sprintf(edge, `retry="true",`))
	want(t, s, "outrider_try_failures", "outrider_try_failures_total{"+fmt.Sprintf(edge, `reason="connect_failed",`))
	want(t, s, "outrider_ejections", "outrider_ejections_total{"+fmt.Sprintf(edge, ""))
	want(t, s, "outrider_retry_budget", `outrider_retry_budget_exhausted_total{upstream="db"} 1`)

	s.Shook(true, &tls.ConnectionState{Version: tls.VersionTLS13}, "", time.Millisecond)
	s.Shook(false, &tls.ConnectionState{Version: tls.VersionTLS12, DidResume: true}, "", time.Millisecond)
	s.Shook(false, nil, connect.IdentityMismatch, time.Millisecond)
	s.Shook(true, nil, "", time.Millisecond)
	want(t, s, "outrider_tls_handshakes_total",
		`outrider_tls_handshakes_total{direction="inbound",reason="",result="full",version="1.3"} 1`,
		`outrider_tls_handshakes_total{direction="outbound",reason="",result="resumed",version="1.2"} 1`,
		`outrider_tls_handshakes_total{direction="outbound",reason="identity_mismatch",result="failed",version=""} 1`,
		`outrider_tls_handshakes_total{direction="inbound",reason="tls_failed",result="failed",version=""} 1`)

	rules := s.Rules([]connect.Intention{{Source: connect.Source{Name: "web"}, Destination: "api"}, {Source: connect.Source{Name: "*"}, Destination: "api"}})
	rules.Decided(0, true)
	rules.Decided(1, false)
	rules.Decided(-1, false)
	rules.Decided(7, false)
	want(t, s, "outrider_decisions_total",
		`outrider_decisions_total{action="allow",intention="web → api"} 1`,
		`outrider_decisions_total{action="deny",intention="* → api"} 1`,
		`outrider_decisions_total{action="deny",intention="default policy"} 2`)
	s.Rules([]connect.Intention{{Source: connect.Source{Name: "web"}, Destination: "api"}})
	rules.Decided(1, false) // What is in force still counts.
	want(t, s, "outrider_decisions_total{action=\"deny\",intention=\"* ", `outrider_decisions_total{action="deny",intention="* → api"} 2`)
	s.Retain(func(connect.UpstreamID) bool { return true })
	want(t, s, "outrider_decisions_total",
		`outrider_decisions_total{action="allow",intention="web → api"} 1`, `outrider_decisions_total{action="deny",intention="default policy"} 2`)
}

func TestRemovedUpstreamLeavesNoSeries(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	use := func(u *measure.Upstream) {
		u.Opened()
		u.BudgetSpent()
		target := u.Target("db.default.default.dc1")
		target.Tried(&flow.Try{Reason: connect.ConnectFailed}, true)
		target.Ejected()
		for _, id := range []connect.TargetID{"", "db.default.default.dc1"} {
			r := request(flow.Outbound, 503, time.Second)
			r.Target, r.Reason, r.GRPC, r.GRPCStatus = id, connect.NoRoute, true, "14"
			u.Done(r)
			r.Kind = flow.Connection
			u.Done(r)
			r.Kind, r.Gone = flow.Request, true
			u.Done(r)
		}
	}
	old, kept := s.Upstream("db"), s.Upstream("other-one")
	use(old)
	use(kept)
	s.Retain(func(id connect.UpstreamID) bool { return id == "other-one" })
	use(old)
	r := request(flow.Outbound, 404, time.Second)
	r.Target = "late.default.default.dc1"
	old.Done(r)
	for line := range strings.Lines(text(t, s)) {
		if strings.Contains(line, `upstream="db"`) {
			t.Errorf("after its end: %s", line)
		}
	}
	if s.Upstream("other-one") != kept {
		t.Error("what was retained has other measurements now")
	}
	s.Upstream("db").Opened()
	want(t, s, `outrider_connections_open{destination="db",`, `outrider_connections_open{destination="db",direction="outbound",source="api",target="",upstream="db"} 1`)
}

func TestWhatOthersNameIsBounded(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	for i := range 3 * measure.MaxSources {
		id := web
		id.Service = fmt.Sprintf("web-%d", i)
		s.Peer(id).Done(request(flow.Inbound, 200, time.Second))
		id.Datacenter = "dc2" // The same label.
		s.Peer(id).Done(request(flow.Inbound, 200, time.Second))
	}
	s.Peer(connect.Identity{}).Done(request(flow.Inbound, 200, time.Second))
	lines := scrape(t, s, "outrider_requests_total")
	if len(lines) != measure.MaxSources+1 {
		t.Errorf("%d sources, want %d", len(lines), measure.MaxSources+1)
	}
	other := fmt.Sprintf(`outrider_requests_total{code="2xx",destination="api",direction="inbound",source="other",target="",upstream=""} %d`, 4*measure.MaxSources+1)
	if !slices.Contains(lines, other) {
		t.Errorf("no line %s", other)
	}
	u := s.Upstream("db")
	for i := range 3 * measure.MaxTargets {
		id := connect.TargetID(fmt.Sprintf("v%d.db.default.default.dc1", i))
		u.Target(id).Ejected()
		r := request(flow.Outbound, 404, time.Second)
		r.Target = id
		u.Done(r)
	}
	for _, prefix := range []string{"outrider_ejections_total", `outrider_requests_total{code="4xx"`} {
		if n := len(scrape(t, s, prefix)); n != measure.MaxTargets+1 {
			t.Errorf("%d targets in %s, want %d", n, prefix, measure.MaxTargets+1)
		}
	}
	for i := range measure.MaxUpstreams + 100 {
		s.Upstream(connect.UpstreamID(fmt.Sprintf("up-%d", i))).BudgetSpent()
	}
	if n := len(scrape(t, s, "outrider_retry_budget_exhausted_total")); n != measure.MaxUpstreams+1 {
		t.Errorf("%d upstreams, want %d", n, measure.MaxUpstreams+1)
	}
	var many []connect.Intention
	for i := range 2 * measure.MaxIntentions {
		many = append(many, connect.Intention{Source: connect.Source{Name: fmt.Sprint(i)}, Destination: "api"})
	}
	s.Rules(many).Decided(2*measure.MaxIntentions-1, true)
	if n := len(scrape(t, s, "outrider_decisions_total")); n != 2*(measure.MaxIntentions+2) {
		t.Errorf("%d series of decisions, want %d", n, 2*(measure.MaxIntentions+2))
	}
	want(t, s, `outrider_decisions_total{action="allow",intention="other"`, `outrider_decisions_total{action="allow",intention="other"} 1`)
}

func TestNamesOfPeersCannotBreakTheText(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	id := web
	id.Service = "a\xff\"\n" + strings.Repeat("x", 10_000)
	s.Peer(id).Done(request(flow.Inbound, 200, time.Second))
	if lines := scrape(t, s, "outrider_requests_total"); len(lines) != 1 || len(lines[0]) > 1000 {
		t.Errorf("lines %.2000q", lines)
	}
}

func TestNilMeasuresNothing(t *testing.T) {
	t.Parallel()
	var s *measure.Set
	p, u, r := s.Peer(web), s.Upstream("db"), s.Rules(nil)
	target := u.Target("db")
	p.Opened()
	p.Done(&flow.Record{})
	u.Opened()
	u.Done(&flow.Record{})
	u.BudgetSpent()
	target.Tried(&flow.Try{}, false)
	target.Ejected()
	r.Decided(3, true)
	s.Shook(true, nil, "", 0)
	s.Done(&flow.Record{})
	s.Retain(func(connect.UpstreamID) bool { return false })
	if families, err := s.Gather(); families != nil || err != nil || s.Service() != "" || s.ProxyID() != "" {
		t.Errorf("%v, %v", families, err)
	}
}

func TestHistogramsAreNativeAndClassic(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	s.Peer(web).Done(request(flow.Inbound, 200, time.Second))
	families, err := s.Gather()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == "outrider_request_duration_seconds" })
	h := families[at].Metric[0].Histogram
	if len(h.Bucket) < 10 || len(h.PositiveSpan) != 1 || h.GetSchema() < 3 {
		t.Errorf("%d classic buckets, %d native spans, schema %d", len(h.Bucket), len(h.PositiveSpan), h.GetSchema())
	}
}

func TestEverySeriesIsOfTheTable(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	fill(s, 2)
	families, err := s.Gather()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[measure.Kind]dto.MetricType{measure.Counter: dto.MetricType_COUNTER, measure.Gauge: dto.MetricType_GAUGE, measure.Histogram: dto.MetricType_HISTOGRAM}
	table := measure.Metrics()
	if len(families) != len(table) {
		t.Errorf("%d metrics measured of %d in the table", len(families), len(table))
	}
	for _, m := range table {
		at := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == m.Name })
		if at < 0 {
			t.Errorf("nothing is measured as %s", m.Name)
			continue
		}
		if families[at].GetType() != kinds[m.Kind] || families[at].GetHelp() != m.Help {
			t.Errorf("%s is %v, %q", m.Name, families[at].GetType(), families[at].GetHelp())
		}
		var labels []string
		for _, l := range families[at].Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		if diff := cmp.Diff(slices.Sorted(slices.Values(m.Labels)), labels); diff != "" {
			t.Errorf("labels of %s (-want +got):\n%s", m.Name, diff)
		}
	}
}

func TestPromtoolFindsNoFaultWithTheMetrics(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	fill(s, 3)
	if out, err := realserver.Promtool(t, []byte(text(t, s)), "check", "metrics"); err != nil || strings.TrimSpace(out) != "" {
		t.Errorf("%v\n%s", err, out)
	}
}

// fill measures something of everything.
func fill(s *measure.Set, upstreams int) {
	s.Rules([]connect.Intention{{Source: connect.Source{Name: "web"}, Destination: "api"}}).Decided(0, true)
	s.Shook(true, &tls.ConnectionState{Version: tls.VersionTLS13}, "", time.Millisecond)
	p := s.Peer(web)
	p.Opened()
	p.Done(request(flow.Inbound, 200, time.Millisecond))
	for i := range upstreams {
		id := fmt.Sprintf("upstream-%d", i)
		u := s.Upstream(connect.UpstreamID(id))
		target := u.Target(connect.TargetID(id + ".default.default.dc1"))
		u.Opened()
		for n := range 40 {
			target.Tried(&flow.Try{Took: time.Duration(n) * time.Millisecond}, n > 0)
			r := request(flow.Outbound, 200, time.Duration(n)*time.Millisecond)
			r.Target = connect.TargetID(id + ".default.default.dc1")
			if n > 35 {
				r.Status, r.Reason = 503, connect.NoHealthyEndpoint
			}
			if n == 39 {
				r.GRPC, r.GRPCStatus, r.Gone = true, "14", true
			}
			u.Done(r)
		}
		target.Tried(&flow.Try{Reason: connect.ConnectFailed}, false)
		u.Done(&flow.Record{Kind: flow.Connection, Direction: flow.Outbound, Duration: time.Second, Sent: 3, Received: 4})
	}
}
