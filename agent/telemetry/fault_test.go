// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/measure"
)

// counts is a family of counters, one for each source.
func counts(values map[string]float64) selected {
	name, kind, label := "outrider_requests_total", dto.MetricType_COUNTER, "source"
	f := &dto.MetricFamily{Name: &name, Type: &kind}
	for source, value := range values {
		f.Metric = append(f.Metric, &dto.Metric{Label: []*dto.LabelPair{{Name: &label, Value: &source}}, Counter: &dto.Counter{Value: &value}})
	}
	return selected{f}
}

func TestSeriesThatAreSentUnderOneNameAreCountedApart(t *testing.T) {
	t.Parallel()
	d := &deltas{}
	d.lines(counts(map[string]float64{"a.b": 100, "a_b": 5}))
	if got := d.lines(counts(map[string]float64{"a.b": 100, "a_b": 5})); len(got) > 0 {
		t.Errorf("nothing has happened, and %q is sent", got)
	}
	got := d.lines(counts(map[string]float64{"a.b": 101, "a_b": 7}))
	slices.Sort(got)
	if want := []string{"outrider.requests_total.a_b:1|c", "outrider.requests_total.a_b:2|c"}; !slices.Equal(got, want) {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestJobThatFaultsTakesNoOtherWithIt(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	r := New(Options{State: func(context.Context) State {
		close(asked)
		panic("a mistake")
	}})
	receiver, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = receiver.Close() })
	r.Add(measure.NewSet("api", "api-proxy")).Configure(connect.Telemetry{Statsd: "udp://" + receiver.LocalAddr().String(), Interval: time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	<-asked
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPagesOfOtherSitesTakeNoScrapeOnTheLoopback(t *testing.T) {
	t.Parallel()
	served := foreign(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for site, want := range map[string]int{"": 200, "none": 200, "same-origin": 200, "same-site": 403, "cross-site": 403} {
		for address, there := range map[string]int{"127.0.0.1": want, "10.0.0.1": 200} {
			r := httptest.NewRequest(http.MethodGet, "http://localhost:9102/metrics", http.NoBody)
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, &net.TCPAddr{IP: net.ParseIP(address)}))
			if site != "" {
				r.Header.Set("Sec-Fetch-Site", site)
			}
			w := httptest.NewRecorder()
			served.ServeHTTP(w, r)
			if w.Code != there {
				t.Errorf("%q at %s: %d, want %d", site, address, w.Code, there)
			}
		}
	}
}
