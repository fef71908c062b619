// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
)

// compare holds our text against the library's.
func compare(t *testing.T, families []*dto.MetricFamily) {
	t.Helper()
	var want, got bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&want, f); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeText(&got, families); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), got.String()); diff != "" {
		t.Errorf("(-library +ours):\n%s", diff)
	}
}

func TestTextIsThatOfTheLibrary(t *testing.T) {
	t.Parallel()
	odd := "a\\b\n\"c\"\t→"
	registry := prometheus.NewRegistry()
	for name, values := range map[string][]float64{"whole": {0, 1, -1, 2, 1e21}, "odd": {0.1, 1e-9, math.Inf(1), math.Inf(-1), math.NaN(), -0.5}} {
		gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: odd}, []string{"n", "of"})
		for i, v := range values {
			gauge.WithLabelValues(string(rune('a'+i)), odd).Set(v)
		}
		registry.MustRegister(gauge)
	}
	histogram := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "bare", Help: "No labels.", Buckets: []float64{0.1, 1, 1e6, math.Inf(1)}})
	histogram.Observe(math.Inf(1))
	native := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "native", NativeHistogramBucketFactor: 1.1})
	native.Observe(3)
	summary := prometheus.NewSummary(prometheus.SummaryOpts{Name: "summary", Objectives: map[float64]float64{0.5: 0.1}})
	summary.Observe(2)
	registry.MustRegister(histogram, native, summary, prometheus.NewUntypedFunc(prometheus.UntypedOpts{Name: "untyped"}, func() float64 { return 2 }))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	at := int64(5)
	families[0].Metric[0].TimestampMs = &at
	compare(t, families)
}

func TestTextOfOurOwnMetricsIsThatOfTheLibrary(t *testing.T) {
	t.Parallel()
	set := measure.NewSet("api", "api-proxy")
	for _, name := range []string{"web", "we\"b\n"} {
		p := set.Peer(connect.Identity{Service: name})
		p.Opened()
		p.Done(&flow.Record{Kind: flow.Request, Status: 200, Duration: 12345678, Sent: 1 << 60})
		p.Done(&flow.Record{Kind: flow.Connection, Reason: connect.TLSFailed})
	}
	r := New(Options{})
	r.Add(set)
	families, err := r.gather(t.Context(), r.everything())
	if err != nil {
		t.Fatal(err)
	}
	compare(t, families)
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, bytes.ErrTooLarge }

func TestTextThatCannotBeWrittenIsAnError(t *testing.T) {
	t.Parallel()
	families, err := measure.NewSet("api", "api-proxy").Gather()
	if err != nil {
		t.Fatal(err)
	}
	if err := writeText(failing{}, families); err == nil {
		t.Error("no error")
	}
}
