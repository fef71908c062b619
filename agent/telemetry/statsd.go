// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry

import (
	"math"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
)

// selected is what has been read for one sending.
type selected = []*dto.MetricFamily

// deltas makes statsd's lines, which say what has happened since the last ones.
type deltas struct {
	dog  bool               // tags instead of longer names
	last map[string]float64 // of counters and buckets; only those that there still are
	now  map[string]float64
}

// lines are those of one sending: counts as changes, gauges as they are, histograms
// as the values in the middle of their buckets with the share that stands for the
// others (|ms|@0.1 is ten of them).
func (d *deltas) lines(families selected) []string {
	d.now = make(map[string]float64, len(d.last))
	var out []string
	for _, f := range families {
		for _, m := range f.Metric {
			name, tags := d.name(f, m)
			switch {
			case m.Counter != nil:
				if n := d.since(identity(f, m), m.Counter.GetValue()); n > 0 {
					out = append(out, name+":"+float(n)+"|c"+tags)
				}
			case m.Gauge != nil:
				out = append(out, d.gauge(name, tags, m.Gauge.GetValue())...)
			case m.Histogram != nil:
				out = append(out, d.histogram(identity(f, m), name, tags, m.Histogram)...)
			}
		}
	}
	d.last = d.now
	return out
}

// since is by how much a count has grown.
func (d *deltas) since(key string, value float64) float64 {
	d.now[key] = value
	return value - d.last[key]
}

// gauge writes a value. To statsd a sign means a change: before a negative value it
// is set to zero.
func (d *deltas) gauge(name, tags string, value float64) []string {
	line := name + ":" + float(value) + "|g" + tags
	if value < 0 && !d.dog {
		return []string{name + ":0|g" + tags, line}
	}
	return []string{line}
}

func (d *deltas) histogram(key, name, tags string, h *dto.Histogram) []string {
	var out []string
	var below, low float64
	write := func(key string, cumulative, middle float64) {
		n := d.since(key, cumulative) - below
		below += n
		if n <= 0 {
			return
		}
		line := name + ":" + float(math.Round(middle*1e6)/1e3) + "|ms"
		if n > 1 {
			line += "|@" + float(1/n)
		}
		out = append(out, line+tags)
	}
	for _, b := range h.Bucket {
		bound := b.GetUpperBound()
		write(key+"\x00"+float(bound), float64(b.GetCumulativeCount()), (low+bound)/2)
		low = bound
	}
	write(key+"\x00", float64(h.GetSampleCount()), low)
	return out
}

// identity tells a series from all others. What is sent does not: "a.b" and "a_b"
// become one name, of which both are counted.
func identity(f *dto.MetricFamily, m *dto.Metric) string {
	var b strings.Builder
	b.WriteString(f.GetName())
	for _, l := range m.Label {
		b.WriteString("\x00" + l.GetName() + "\x00" + l.GetValue())
	}
	return b.String()
}

// name is outrider.requests_total, and with dog the tags for the end of the line;
// without, the values of the labels follow in the order of the labels' names.
func (d *deltas) name(f *dto.MetricFamily, m *dto.Metric) (name, tags string) {
	name = f.GetName()
	if m.Histogram != nil {
		name = strings.TrimSuffix(name, "_seconds")
	}
	var b strings.Builder
	b.WriteString(strings.Replace(name, "outrider_", "outrider.", 1))
	if !d.dog {
		for _, l := range m.Label {
			b.WriteByte('.')
			b.WriteString(segment(l.GetValue()))
		}
		return b.String(), ""
	}
	var t strings.Builder
	for _, l := range m.Label {
		if l.GetValue() == "" {
			continue
		}
		if t.Len() == 0 {
			t.WriteString("|#")
		} else {
			t.WriteByte(',')
		}
		t.WriteString(l.GetName() + ":" + tagValue(l.GetValue()))
	}
	return b.String(), t.String()
}

// segment is a label's value as a part of a name; "_" for none.
func segment(value string) string {
	if value == "" {
		return "_"
	}
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			return c
		}
		return '_'
	}, value)
}

// tagValue leaves out what ends a tag or a line.
func tagValue(value string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || strings.ContainsRune(",|#", c) {
			return '_'
		}
		return c
	}, value)
}

func float(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
