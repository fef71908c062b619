// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package measure

import "slices"

// A Kind says how a metric's values are to be read.
type Kind string

// The kinds of Prometheus.
const (
	Counter   Kind = "counter"
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
)

// A Metric is one row of the table that metrics, their documentation and the
// checks of dashboards are made from.
type Metric struct {
	Name   string
	Kind   Kind
	Help   string   // one sentence
	Labels []string // besides Prometheus's own, in the order of the documentation
}

// Labels that every series of a sidecar has.
func always() []string { return []string{"service", "proxy_id"} }

// who calls whom, which both sides name alike.
func between(more ...string) []string {
	return slices.Concat([]string{"direction", "source", "destination", "upstream", "target"}, more)
}

// Metrics is the table of what a [Set] measures.
func Metrics() []Metric {
	rows := slices.Concat(traffic(), tries(), security())
	for i := range rows {
		rows[i].Labels = slices.Concat(always(), rows[i].Labels)
	}
	return rows
}

func traffic() []Metric {
	return []Metric{
		{"outrider_requests_total", Counter, "HTTP requests at their end, by the class of the response's status; none when no response was sent.", between("code")},
		{"outrider_request_duration_seconds", Histogram, "From a request's header to its end, retries included.", between()},
		{"outrider_grpc_responses_total", Counter, "gRPC calls at their end, by the status that they ended with (0 is OK).", between("grpc_status")},
		{"outrider_connections_total", Counter, "Connections that were let in.", between()},
		{"outrider_connections_open", Gauge, "Connections that were let in and have not ended.", between()},
		{"outrider_connection_duration_seconds", Histogram, "How long connections were open.", between()},
		{"outrider_sent_bytes_total", Counter, "Bytes by the side that connected, counted at the end: bodies of requests, or all bytes of a connection that is not HTTP.", between()},
		{"outrider_received_bytes_total", Counter, "Bytes to the side that connected, counted at the end: bodies of responses, or all bytes of a connection that is not HTTP.", between()},
		{"outrider_failures_total", Counter, "Connections and requests that were not served, or not to their end, by reason. Every reason is there from the start.", []string{"direction", "kind", "reason"}},
		{"outrider_edge_failures_total", Counter, "The same by who calls whom; side says whether this sidecar gave the reason or that of the other side.", between("kind", "reason", "side")},
		{"outrider_abandoned_total", Counter, "Connections and requests whose caller left before their end, which are no failures.", between("kind")},
	}
}

func tries() []Metric {
	target := func(more ...string) []string {
		return slices.Concat([]string{"upstream", "target", "destination"}, more)
	}
	return []Metric{
		{"outrider_tries_total", Counter, "Attempts at endpoints; retry says that it was not the first of its connection or request.", target("retry")},
		{"outrider_try_failures_total", Counter, "Attempts at endpoints that failed, by reason.", target("reason")},
		{"outrider_try_duration_seconds", Histogram, "From the choice of an endpoint to the response's header or to the failure.", target()},
		{"outrider_ejections_total", Counter, "Endpoints that were left out for a while because they failed.", target()},
		{"outrider_retry_budget_exhausted_total", Counter, "Retries that the budget did not allow.", []string{"upstream"}},
	}
}

func security() []Metric {
	return []Metric{
		{"outrider_tls_handshakes_total", Counter, "TLS handshakes: full, resumed or failed by reason; inbound with callers, outbound with endpoints.", []string{"direction", "result", "version", "reason"}},
		{"outrider_tls_handshake_duration_seconds", Histogram, "How long TLS handshakes took that succeeded.", []string{"direction"}},
		{"outrider_decisions_total", Counter, "What intentions decided on connections and requests.", []string{"intention", "action"}},
	}
}

// Buckets are the upper bounds of the classic form of histograms, in seconds.
// Requests and handshakes have the native form as well, which Prometheus takes when
// it is told to: a tenth between one bucket and the next. It costs a scrape more
// than anything else, so the others go without.
func requestBuckets() []float64 {
	return []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15}
}

func tryBuckets() []float64 { return []float64{0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 15} }

func handshakeBuckets() []float64 { return []float64{0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1, 5} }

func connectionBuckets() []float64 { return []float64{0.1, 1, 10, 60, 600, 3600} }
