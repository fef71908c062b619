// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package page

import (
	"cmp"
	"maps"
	"math"
	"slices"

	dto "github.com/prometheus/client_model/go"
)

// A tally adds up metrics into lines.
type tally struct {
	services map[[2]string]*service
}

type service struct {
	sources, upstreams map[string]*sum
	hits               map[string]*Hit
}

// A sum is one line while it is added up.
type sum struct {
	requests, connections float64
	failed                map[string]float64
	requestTime, tryTime  map[float64]uint64 // cumulative counts by upper bound
}

// reduce makes the series of metrics as package measure names them. Others are
// left alone.
func reduce(families []*dto.MetricFamily) Series {
	t := tally{services: make(map[[2]string]*service)}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			t.add(f.GetName(), m)
		}
	}
	return t.series()
}

func (t *tally) add(family string, m *dto.Metric) {
	l := labels(m)
	switch family {
	case "outrider_requests_total":
		if s := t.line(l); s != nil {
			s.requests += m.GetCounter().GetValue()
		}
	case "outrider_connections_total":
		if s := t.line(l); s != nil {
			s.connections += m.GetCounter().GetValue()
		}
	case "outrider_edge_failures_total":
		if s := t.line(l); s != nil {
			s.failed[l["reason"]] += m.GetCounter().GetValue()
			// What failed before its first request was a call as well.
			if l["kind"] == "connection" {
				s.failed[""] += m.GetCounter().GetValue()
			}
		}
	case "outrider_request_duration_seconds":
		if s := t.line(l); s != nil {
			accumulate(s.requestTime, m.GetHistogram())
		}
	case "outrider_try_duration_seconds":
		if l["upstream"] != "" {
			accumulate(named(t.of(l).upstreams, l["upstream"]).tryTime, m.GetHistogram())
		}
	case "outrider_decisions_total":
		t.of(l).decided(l["intention"], l["action"], m.GetCounter().GetValue())
	}
}

func labels(m *dto.Metric) map[string]string {
	out := make(map[string]string, len(m.GetLabel()))
	for _, p := range m.GetLabel() {
		out[p.GetName()] = p.GetValue()
	}
	return out
}

func (t *tally) of(l map[string]string) *service {
	key := [2]string{l["service"], l["proxy_id"]}
	s := t.services[key]
	if s == nil {
		s = &service{sources: make(map[string]*sum), upstreams: make(map[string]*sum), hits: make(map[string]*Hit)}
		t.services[key] = s
	}
	return s
}

// line is nil for traffic that has neither source nor upstream to show it at.
func (t *tally) line(l map[string]string) *sum {
	switch {
	case l["direction"] == "inbound" && l["source"] != "":
		return named(t.of(l).sources, l["source"])
	case l["direction"] == "outbound" && l["upstream"] != "":
		return named(t.of(l).upstreams, l["upstream"])
	}
	return nil
}

func named(lines map[string]*sum, name string) *sum {
	s := lines[name]
	if s == nil {
		s = &sum{failed: make(map[string]float64), requestTime: make(map[float64]uint64), tryTime: make(map[float64]uint64)}
		lines[name] = s
	}
	return s
}

func (s *service) decided(intention, action string, n float64) {
	h := s.hits[intention]
	if h == nil {
		h = &Hit{Name: intention}
		s.hits[intention] = h
	}
	if action == "allow" {
		h.Allowed += int64(n)
		return
	}
	h.Denied += int64(n)
}

// accumulate adds a histogram to cumulative counts of the same bounds.
func accumulate(counts map[float64]uint64, h *dto.Histogram) {
	for _, b := range h.GetBucket() {
		if !math.IsInf(b.GetUpperBound(), 1) {
			counts[b.GetUpperBound()] += b.GetCumulativeCount()
		}
	}
	counts[math.Inf(1)] += h.GetSampleCount()
}

func (t *tally) series() Series {
	out := Series{Services: []ServiceSeries{}}
	for key, s := range t.services {
		out.Services = append(out.Services, ServiceSeries{
			Service: key[0], ProxyID: key[1], Sources: lines(s.sources), Upstreams: lines(s.upstreams), Intentions: s.decisions(),
		})
	}
	slices.SortFunc(out.Services, func(a, b ServiceSeries) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.ProxyID, b.ProxyID))
	})
	return out
}

func (s *service) decisions() []Hit {
	out := []Hit{}
	for _, name := range slices.Sorted(maps.Keys(s.hits)) {
		out = append(out, *s.hits[name])
	}
	return out
}

// lines leaves out those that nothing was counted of.
func lines(sums map[string]*sum) []Line {
	out := []Line{}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		if l := sums[name].line(name); l.Calls > 0 {
			out = append(out, l)
		}
	}
	return out
}

func (s *sum) line(name string) Line {
	l := Line{Name: name, HTTP: s.requests > 0}
	early := s.failed[""]
	for reason, n := range s.failed {
		if reason != "" && n > 0 {
			if l.Failed == nil {
				l.Failed = make(map[string]int64)
			}
			l.Failed[reason] = int64(n)
		}
	}
	times := s.tryTime
	if l.HTTP {
		l.Calls, times = int64(s.requests+early), s.requestTime
	} else {
		l.Calls = int64(max(s.connections, early))
	}
	l.Buckets = buckets(times)
	l.Latency = quantiles(l.Buckets)
	return l
}

func buckets(counts map[float64]uint64) []Bucket {
	if counts[math.Inf(1)] == 0 {
		return nil
	}
	var out []Bucket
	for _, le := range slices.Sorted(maps.Keys(counts)) {
		b := Bucket{Count: counts[le]}
		if !math.IsInf(le, 1) {
			b.Le = &le
		}
		out = append(out, b)
	}
	return out
}

func quantiles(b []Bucket) *Quantiles {
	if len(b) == 0 {
		return nil
	}
	return &Quantiles{P50: quantile(0.5, b), P90: quantile(0.9, b), P99: quantile(0.99, b)}
}

// quantile is interpolated inside of the bucket in which it lies; beyond the last
// bound it is that bound, as Prometheus's histogram_quantile has it.
func quantile(q float64, all []Bucket) float64 {
	rank := q * float64(all[len(all)-1].Count)
	below, start := 0.0, 0.0
	for _, b := range all {
		if b.Le == nil {
			break
		}
		if n := float64(b.Count); n >= rank {
			return 1000 * (start + (*b.Le-start)*(rank-below)/max(n-below, 1e-9))
		}
		below, start = float64(b.Count), *b.Le
	}
	return 1000 * start
}
