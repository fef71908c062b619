// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry

import (
	"bufio"
	"io"
	"math"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// writeText writes the text form of Prometheus (exposition formats, version
// 0.0.4). The library's own writes the labels of a histogram anew for each of its
// buckets, which is most of the time that a scrape takes; this writes them once.
// What is neither counter, gauge nor histogram is left to the library.
func writeText(w io.Writer, families []*dto.MetricFamily) error {
	out := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	for _, f := range families {
		if !plain(f) {
			if _, err := expfmt.MetricFamilyToText(out, f); err != nil {
				return err
			}
			continue
		}
		line = appendHead(line[:0], f)
		for _, m := range f.Metric {
			if _, err := out.Write(line); err != nil {
				return err
			}
			line = appendMetric(line[:0], f.GetName(), m)
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return out.Flush()
}

func plain(f *dto.MetricFamily) bool {
	switch f.GetType() {
	case dto.MetricType_COUNTER, dto.MetricType_GAUGE, dto.MetricType_HISTOGRAM:
	default:
		return false
	}
	for _, m := range f.Metric {
		if m.TimestampMs != nil {
			return false
		}
	}
	return true
}

func appendHead(out []byte, f *dto.MetricFamily) []byte {
	name := f.GetName()
	out = append(out, "# HELP "+name+" "...)
	out = append(out, strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(f.GetHelp())...)
	return append(out, "\n# TYPE "+name+" "+strings.ToLower(f.GetType().String())+"\n"...)
}

func appendMetric(out []byte, name string, m *dto.Metric) []byte {
	labels := make([]byte, 0, 512)
	for i, l := range m.Label {
		if i > 0 {
			labels = append(labels, ',')
		}
		labels = append(labels, l.GetName()...)
		labels = append(labels, '=', '"')
		labels = appendQuoted(labels, l.GetValue())
		labels = append(labels, '"')
	}
	switch {
	case m.Histogram != nil:
		return appendHistogram(out, name, labels, m.Histogram)
	case m.Counter != nil:
		out = appendFloat(appendLabels(append(out, name...), labels), m.Counter.GetValue())
	default:
		out = appendFloat(appendLabels(append(out, name...), labels), m.Gauge.GetValue())
	}
	return append(out, '\n')
}

func appendQuoted(out []byte, text string) []byte {
	if !strings.ContainsAny(text, "\\\n\"") {
		return append(out, text...)
	}
	for i := range len(text) {
		switch c := text[i]; c {
		case '\\', '"':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		default:
			out = append(out, c)
		}
	}
	return out
}

// appendLabels writes labels, and the space before the value.
func appendLabels(out, labels []byte) []byte {
	if len(labels) > 0 {
		out = append(out, '{')
		out = append(out, labels...)
		out = append(out, '}')
	}
	return append(out, ' ')
}

func appendHistogram(out []byte, name string, labels []byte, h *dto.Histogram) []byte {
	bucket := func(bound float64, count uint64) {
		out = append(out, name...)
		out = append(out, "_bucket{"...)
		out = append(out, labels...)
		if len(labels) > 0 {
			out = append(out, ',')
		}
		out = appendFloat(append(out, `le="`...), bound)
		out = strconv.AppendUint(append(out, `"} `...), count, 10)
		out = append(out, '\n')
	}
	infinite := false
	for _, b := range h.Bucket {
		bucket(b.GetUpperBound(), b.GetCumulativeCount())
		infinite = infinite || math.IsInf(b.GetUpperBound(), 1)
	}
	if !infinite {
		bucket(math.Inf(1), h.GetSampleCount())
	}
	out = appendLabels(append(append(out, name...), "_sum"...), labels)
	out = append(appendFloat(out, h.GetSampleSum()), '\n')
	out = appendLabels(append(append(out, name...), "_count"...), labels)
	return append(strconv.AppendUint(out, h.GetSampleCount(), 10), '\n')
}

func appendFloat(out []byte, v float64) []byte {
	switch {
	case math.IsInf(v, 1):
		return append(out, "+Inf"...)
	case math.IsInf(v, -1):
		return append(out, "-Inf"...)
	}
	return strconv.AppendFloat(out, v, 'g', -1, 64)
}
