// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/outrider-mesh/outrider/agent/bounded"
)

const (
	// maxScrapes bounds the scrapes at once, of all addresses: each takes time of
	// the processor from the traffic.
	maxScrapes = 4
	// maxConns bounds the connections of one address.
	maxConns = 64
	// stateWithin bounds how long a scrape waits for what is true at the moment.
	stateWithin = 2 * time.Second

	// firstRetry and lastRetry are the pauses after an address could not be bound.
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// Handler answers with the metrics of all sidecars, of the process and of the Go
// runtime, in the forms that Prometheus asks for. Who may ask is the caller's to
// decide.
func (r *Registry) Handler() http.Handler { return r.scrape(r.everything) }

func (r *Registry) scrape(choose func() selection) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method != http.MethodGet && q.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "metrics are read with GET", http.StatusMethodNotAllowed)
			return
		}
		select {
		case r.scrapes <- struct{}{}:
			defer func() { <-r.scrapes }()
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, fmt.Sprintf("%d scrapes are under way already", maxScrapes), http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithTimeout(q.Context(), stateWithin)
		families, err := r.gather(ctx, choose())
		cancel()
		if err != nil {
			r.opts.Logger.Warn("some metrics cannot be read", "error", err)
		}
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cross-Origin-Resource-Policy", "same-origin")
		w.Header().Set("Cache-Control", "no-store")
		if err := write(w, q, families); err != nil {
			r.opts.Logger.Debug("a scrape was not read to its end", "error", err)
		}
	})
}

// write answers in the form that is asked for: text, or the one that has native
// histograms.
func write(w http.ResponseWriter, q *http.Request, families []*dto.MetricFamily) error {
	format := expfmt.Negotiate(q.Header)
	w.Header().Set("Content-Type", string(format))
	w.Header().Set("Vary", "Accept, Accept-Encoding")
	out := io.Writer(w)
	var packed *gzip.Writer
	if acceptsGzip(q.Header) {
		w.Header().Set("Content-Encoding", "gzip")
		var err error
		// Ten times smaller at its fastest, and hardly smaller at its best.
		if packed, err = gzip.NewWriterLevel(w, gzip.BestSpeed); err != nil {
			return err
		}
		out = packed
	}
	if err := encode(out, format, families); err != nil {
		return err
	}
	if packed != nil {
		return packed.Close()
	}
	return nil
}

func encode(w io.Writer, format expfmt.Format, families []*dto.MetricFamily) error {
	if format.FormatType() == expfmt.TypeTextPlain {
		return writeText(w, families)
	}
	encoder := expfmt.NewEncoder(w, format)
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			return err
		}
	}
	return nil
}

func acceptsGzip(h http.Header) bool {
	for _, value := range h.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(value, ",") {
			name, parameters, _ := strings.Cut(coding, ";")
			if strings.EqualFold(strings.TrimSpace(name), "gzip") && strings.Trim(strings.TrimSpace(parameters), "q=0.") != "" || strings.EqualFold(strings.TrimSpace(coding), "gzip") {
				return true
			}
		}
	}
	return false
}

// serve keeps /metrics on an address until ctx ends.
func (r *Registry) serve(ctx context.Context, j job) {
	log := r.opts.Logger.With("address", j.address)
	backoff, failed := firstRetry, false
	for {
		listener, err := r.opts.Listen(ctx, j.address)
		if err == nil {
			log.Info("serving metrics", "again", failed)
			err = serveOn(ctx, listener, r.scrape(func() selection { return r.at(j.address) }))
			backoff = firstRetry
		}
		if ctx.Err() != nil {
			return
		}
		if !failed {
			log.Error("metrics cannot be served; trying again", "error", fmt.Errorf("listen for Prometheus on %s: %w; set telemetry.prometheus_address or envoy_prometheus_bind_addr to a free one", j.address, err))
		}
		failed = true
		if !pause(ctx, backoff) {
			return
		}
		backoff = min(2*backoff, lastRetry)
	}
}

// serveOn serves /metrics and nothing else until ctx ends, which is no error, and
// closes the listener.
func serveOn(ctx context.Context, l net.Listener, metrics http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", metrics)
	// Prometheus asks once a minute or more often.
	limits := bounded.Limits{Conns: maxConns, Header: 16 << 10, Read: 5 * time.Second, Write: 20 * time.Second, Idle: 2 * time.Minute}
	return bounded.Serve(ctx, l, foreign(mux), limits)
}

// foreign refuses requests that reach us by the loopback and name another host: a
// web page that has made its own name resolve to this machine must not read metrics
// through the browser of somebody who works here. Such a name has a dot. Nor may a
// page of another site, which browsers tell of (Fetch Metadata, Sec-Fetch-Site),
// have the machine work for it. Whoever serves metrics on an address of the network
// has decided that the network may see them.
func foreign(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok && local.IP.IsLoopback() {
			host, _, err := net.SplitHostPort(r.Host)
			if err != nil {
				host = r.Host
			}
			if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err != nil && strings.Contains(host, ".") {
				http.Error(w, "on the loopback, metrics are for who asks for an address or a name without a dot", http.StatusForbidden)
				return
			}
			if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" {
				http.Error(w, "on the loopback, metrics are not for pages of other sites", http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}
