// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package page

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	dto "github.com/prometheus/client_model/go"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
)

// answered is what the handler says of metrics.
func answered(t *testing.T, from ...Gatherer) Series {
	t.Helper()
	res := get(t, Counts(func() []Gatherer { return from }), http.MethodGet, "/v1/series")
	text := body(t, res)
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/json" || res.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %v: %s", res.Status, res.Header, text)
	}
	var s Series
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return s
}

func caller(name string) connect.Identity {
	return connect.Identity{TrustDomain: "x.consul", Partition: "default", Namespace: "default", Datacenter: "dc1", Service: name}
}

func TestCountsOfASidecarBecomeLinesBySourceUpstreamAndIntention(t *testing.T) {
	t.Parallel()
	set := measure.NewSet("web", "web-sidecar-proxy")
	shop := set.Peer(caller("shop"))
	shop.Opened()
	for _, reason := range []connect.Reason{"", "", "", connect.IntentionDenied} {
		shop.Done(&flow.Record{Kind: flow.Request, Direction: flow.Inbound, Status: 200, Reason: reason, Duration: 30 * time.Millisecond})
	}
	raw := set.Peer(caller("raw"))
	raw.Opened()
	raw.Done(&flow.Record{Kind: flow.Connection, Direction: flow.Inbound, Reason: connect.AppUnreachable, Duration: time.Second})
	api := set.Upstream("api")
	target := api.Target("api.default.default.dc1")
	api.Opened()
	target.Tried(&flow.Try{Target: "api.default.default.dc1", Took: 3 * time.Millisecond}, false)
	api.Done(&flow.Record{Kind: flow.Connection, Direction: flow.Outbound, Upstream: "api", Target: "api.default.default.dc1", Sent: 5})
	rules := set.Rules([]connect.Intention{{Source: connect.Source{Name: "shop"}, Destination: "web", Action: connect.Allow}})
	rules.Decided(0, true)
	rules.Decided(0, true)
	rules.Decided(-1, false)

	got := answered(t, set)
	want := Series{Services: []ServiceSeries{{
		Service: "web", ProxyID: "web-sidecar-proxy",
		Sources: []Line{
			{Name: "raw", Calls: 1, Failed: map[string]int64{"app_unreachable": 1}},
			{Name: "shop", HTTP: true, Calls: 4, Failed: map[string]int64{"intention_denied": 1}, Latency: &Quantiles{P50: 37.5, P90: 47.5, P99: 49.75}},
		},
		Upstreams:  []Line{{Name: "api", Calls: 1, Latency: &Quantiles{P50: 3, P90: 4.6, P99: 4.96}}},
		Intentions: []Hit{{Name: "default policy", Denied: 1}, {Name: "shop → web", Allowed: 2}},
	}}}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Line{}, "Buckets"), cmpopts.EquateApprox(0, 1e-9)); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
	for _, l := range got.Services[0].Sources {
		if l.Name == "shop" && (l.Buckets[len(l.Buckets)-1].Le != nil || l.Buckets[len(l.Buckets)-1].Count != 4) {
			t.Errorf("the last bucket is not that of all: %+v", l.Buckets)
		}
	}
}

func TestSidecarsAreSortedByServiceAndKeptApart(t *testing.T) {
	t.Parallel()
	one, two, other := measure.NewSet("web", "web-1"), measure.NewSet("web", "web-2"), measure.NewSet("api", "z")
	for _, s := range []*measure.Set{one, two, other} {
		s.Peer(caller("shop")).Done(&flow.Record{Kind: flow.Request, Direction: flow.Inbound, Status: 200})
	}
	var ids []string
	for _, s := range answered(t, two, other, one).Services {
		ids = append(ids, s.ProxyID)
		if len(s.Sources) != 1 || s.Sources[0].Calls != 1 {
			t.Errorf("%s: sources %+v", s.ProxyID, s.Sources)
		}
	}
	if diff := cmp.Diff([]string{"z", "web-1", "web-2"}, ids); diff != "" {
		t.Errorf("sidecars (-want +got):\n%s", diff)
	}
}

func TestTwoTargetsOfAnUpstreamAreOneLine(t *testing.T) {
	t.Parallel()
	set := measure.NewSet("web", "web-sidecar-proxy")
	api := set.Upstream("api")
	for _, target := range []connect.TargetID{"v1.api.default.default.dc1", "v2.api.default.default.dc1"} {
		api.Done(&flow.Record{Kind: flow.Request, Direction: flow.Outbound, Upstream: "api", Target: target, Status: 200, Duration: 2 * time.Millisecond})
	}
	lines := answered(t, set).Services[0].Upstreams
	if len(lines) != 1 || lines[0].Calls != 2 || lines[0].Buckets[len(lines[0].Buckets)-1].Count != 2 {
		t.Errorf("lines %+v", lines)
	}
}

func TestARequestThatFailedBeforeItWasOneIsACall(t *testing.T) {
	t.Parallel()
	set := measure.NewSet("web", "web-sidecar-proxy")
	shop := set.Peer(caller("shop"))
	shop.Done(&flow.Record{Kind: flow.Request, Direction: flow.Inbound, Status: 200})
	shop.Done(&flow.Record{Kind: flow.Connection, Direction: flow.Inbound, Reason: connect.IntentionDenied})
	line := answered(t, set).Services[0].Sources[0]
	if line.Calls != 2 || line.Failed["intention_denied"] != 1 {
		t.Errorf("line %+v", line)
	}
}

func TestNothingCountedIsNoError(t *testing.T) {
	t.Parallel()
	got := answered(t)
	if diff := cmp.Diff(Series{Services: []ServiceSeries{}}, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

type broken struct{ families []*dto.MetricFamily }

func (b broken) Gather() ([]*dto.MetricFamily, error) {
	return b.families, errors.New("collected twice")
}

func TestAPartThatCannotBeGatheredDoesNotHideTheRest(t *testing.T) {
	t.Parallel()
	set := measure.NewSet("web", "web-sidecar-proxy")
	set.Peer(caller("shop")).Done(&flow.Record{Kind: flow.Request, Direction: flow.Inbound, Status: 200})
	families, err := set.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := answered(t, broken{families})
	if got.Problem != "collected twice" || len(got.Services) != 1 {
		t.Errorf("series %+v", got)
	}
	res := get(t, Counts(func() []Gatherer { return []Gatherer{broken{}} }), http.MethodGet, "/v1/series")
	if text := body(t, res); res.StatusCode != http.StatusInternalServerError || !strings.Contains(text, "gather the counts: collected twice") {
		t.Errorf("nothing at all: %s %s", res.Status, text)
	}
}

func TestQuantilesAreInterpolatedAndNeverBeyondTheLastBound(t *testing.T) {
	t.Parallel()
	histogram := map[float64]uint64{0.01: 50, 0.1: 90, 1: 98, math.Inf(1): 100}
	for q, want := range map[float64]float64{0.25: 5, 0.5: 10, 0.9: 100, 0.94: 550, 0.99: 1000, 1: 1000} {
		if got := quantile(q, buckets(histogram)); math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %v is %v ms, want %v", q, got, want)
		}
	}
	if got := buckets(map[float64]uint64{0.01: 0, math.Inf(1): 0}); got != nil {
		t.Errorf("buckets of nothing: %v", got)
	}
}
