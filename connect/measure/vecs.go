// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package measure

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// A family is one metric with its series, sorted by the values of their labels:
// reading them needs no sorting, and none is looked up where traffic passes. All
// of it is guarded by the lock of the Set.
type family struct {
	row    Metric
	series []series
	of     int // which label names the upstream; -1 for none

	counters   *prometheus.CounterVec // one of the three
	gauges     *prometheus.GaugeVec
	histograms *prometheus.HistogramVec
}

type series struct {
	labels []string
	metric prometheus.Metric
}

// vecs are the metrics of a Set.
type vecs struct {
	all []*family // sorted by name

	requests, grpc, connections, sent, received *family
	failures, edgeFailures, abandoned           *family
	tries, tryFailures, ejections, budgets      *family
	handshakes, decisions, open                 *family
	duration, connection, try, handshaking      *family
}

func newVecs(constant prometheus.Labels) vecs {
	b := &builder{constant: constant, rows: Metrics()}
	v := vecs{
		requests:     b.counter("outrider_requests_total"),
		grpc:         b.counter("outrider_grpc_responses_total"),
		connections:  b.counter("outrider_connections_total"),
		sent:         b.counter("outrider_sent_bytes_total"),
		received:     b.counter("outrider_received_bytes_total"),
		failures:     b.counter("outrider_failures_total"),
		edgeFailures: b.counter("outrider_edge_failures_total"),
		abandoned:    b.counter("outrider_abandoned_total"),
		tries:        b.counter("outrider_tries_total"),
		tryFailures:  b.counter("outrider_try_failures_total"),
		ejections:    b.counter("outrider_ejections_total"),
		budgets:      b.counter("outrider_retry_budget_exhausted_total"),
		handshakes:   b.counter("outrider_tls_handshakes_total"),
		decisions:    b.counter("outrider_decisions_total"),
		open:         b.gauge("outrider_connections_open"),
		duration:     b.histogram("outrider_request_duration_seconds", requestBuckets(), true),
		connection:   b.histogram("outrider_connection_duration_seconds", connectionBuckets(), false),
		try:          b.histogram("outrider_try_duration_seconds", tryBuckets(), false),
		handshaking:  b.histogram("outrider_tls_handshake_duration_seconds", handshakeBuckets(), true),
	}
	v.all = b.made
	slices.SortFunc(v.all, func(a, b *family) int { return cmp.Compare(a.row.Name, b.row.Name) })
	return v
}

// builder makes metrics from the table.
type builder struct {
	constant prometheus.Labels
	rows     []Metric
	made     []*family
}

// family finds a metric in the table, where it must be: its absence is an error
// of whoever wrote this package.
func (b *builder) family(name string, kind Kind) (f *family, labels []string) {
	for _, m := range b.rows {
		if m.Name == name && m.Kind == kind {
			labels = m.Labels[len(always()):]
			f = &family{row: m, of: slices.Index(labels, "upstream")}
			b.made = append(b.made, f)
			return f, labels
		}
	}
	panic("measure: no " + string(kind) + " " + name + " in the table")
}

func (b *builder) counter(name string) *family {
	f, labels := b.family(name, Counter)
	f.counters = prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: f.row.Help, ConstLabels: b.constant}, labels)
	return f
}

func (b *builder) gauge(name string) *family {
	f, labels := b.family(name, Gauge)
	f.gauges = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: f.row.Help, ConstLabels: b.constant}, labels)
	return f
}

func (b *builder) histogram(name string, buckets []float64, native bool) *family {
	f, labels := b.family(name, Histogram)
	opts := prometheus.HistogramOpts{Name: name, Help: f.row.Help, ConstLabels: b.constant, Buckets: buckets}
	if native {
		opts.NativeHistogramBucketFactor = 1.1
		// Values that are spread wider make buckets coarser, not more.
		opts.NativeHistogramMaxBucketNumber = 100
		opts.NativeHistogramMinResetDuration = time.Hour
	}
	f.histograms = prometheus.NewHistogramVec(opts, labels)
	return f
}

// counter, gauge and observer return one series, made when it is not there.
func (f *family) counter(labels ...string) prometheus.Counter {
	c := f.counters.WithLabelValues(labels...)
	f.keep(labels, c)
	return c
}

func (f *family) gauge(labels ...string) prometheus.Gauge {
	g := f.gauges.WithLabelValues(labels...)
	f.keep(labels, g)
	return g
}

func (f *family) observer(labels ...string) prometheus.Observer {
	o := f.histograms.WithLabelValues(labels...)
	if h, ok := o.(prometheus.Histogram); ok {
		f.keep(labels, h)
	}
	return o
}

func (f *family) keep(labels []string, m prometheus.Metric) {
	at, there := slices.BinarySearchFunc(f.series, labels, func(s series, l []string) int { return slices.Compare(s.labels, l) })
	if !there {
		f.series = slices.Insert(f.series, at, series{slices.Clone(labels), m})
	}
}

// forget removes the series whose label at the position has a value.
func (f *family) forget(at int, value string) {
	if at < 0 {
		return
	}
	f.series = slices.DeleteFunc(f.series, func(s series) bool {
		if s.labels[at] != value {
			return false
		}
		switch {
		case f.counters != nil:
			f.counters.DeleteLabelValues(s.labels...)
		case f.gauges != nil:
			f.gauges.DeleteLabelValues(s.labels...)
		default:
			f.histograms.DeleteLabelValues(s.labels...)
		}
		return true
	})
}

// forget removes every series of an upstream.
func (v *vecs) forget(upstream string) {
	for _, f := range v.all {
		f.forget(f.of, clean(upstream))
	}
}

// Gather reads everything that is measured, sorted by name: a
// [prometheus.Gatherer]. Counting goes on meanwhile: counters are read one by
// one, and a histogram keeps two sets of buckets, of which traffic counts into
// the one that is not read. The lock, which traffic takes for a series that is
// new only, is held while a list is copied. The result is the caller's.
func (s *Set) Gather() ([]*dto.MetricFamily, error) {
	if s == nil {
		return nil, nil
	}
	var out []*dto.MetricFamily
	var problem error
	for _, f := range s.vecs.all {
		s.mu.Lock()
		list := slices.Clone(f.series)
		s.mu.Unlock()
		if len(list) == 0 {
			continue
		}
		kind := map[Kind]dto.MetricType{Counter: dto.MetricType_COUNTER, Gauge: dto.MetricType_GAUGE, Histogram: dto.MetricType_HISTOGRAM}[f.row.Kind]
		family := &dto.MetricFamily{Name: &f.row.Name, Help: &f.row.Help, Type: &kind, Metric: make([]*dto.Metric, len(list))}
		values := make([]dto.Metric, len(list))
		for i := range list {
			family.Metric[i] = &values[i]
			if err := list[i].metric.Write(&values[i]); err != nil {
				problem = errors.Join(problem, fmt.Errorf("read the metric %s of sidecar %q: %w", f.row.Name, s.proxyID, err))
			}
		}
		out = append(out, family)
	}
	return out, problem
}

// clean makes a label value of a name that somebody else chose: valid UTF-8, of a
// length that does not matter.
func clean(name string) string {
	const most = 256
	if len(name) > most {
		name = name[:most]
	}
	return strings.ToValidUTF8(name, "�")
}

// cleaned is clean of each.
func cleaned(names ...string) []string {
	out := slices.Clone(names)
	for i, n := range out {
		out[i] = clean(n)
	}
	return out
}
