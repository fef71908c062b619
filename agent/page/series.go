// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package page

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	dto "github.com/prometheus/client_model/go"
)

// A Series is what has been counted since the agent began, small enough to be
// asked for every two seconds. Whoever draws it takes the difference of two.
type Series struct {
	Services []ServiceSeries // by name, then by proxy ID
	Problem  string          `json:",omitempty"` // why a part is not here
}

// A ServiceSeries is that of one sidecar.
type ServiceSeries struct {
	Service    string
	ProxyID    string
	Sources    []Line // who calls the service, "web" or "east/web"; by name
	Upstreams  []Line // whom it calls, by the upstream's ID
	Intentions []Hit  // by name
}

// A Line is the traffic of one source, or to one upstream.
type Line struct {
	Name string
	// HTTP says that calls are requests; else they are connections.
	HTTP   bool
	Calls  int64
	Failed map[string]int64 `json:",omitempty"` // by reason
	// Buckets are a histogram of how long requests took; for connections to an
	// upstream, how long it took until one was made. Counts are cumulative.
	Buckets []Bucket `json:",omitempty"`
	// Quantiles of all that was counted, in milliseconds; nil when nothing was.
	Latency *Quantiles `json:",omitempty"`
}

// A Bucket counts what took at most Le seconds; nil is any time.
type Bucket struct {
	Le    *float64
	Count uint64
}

// Quantiles are in milliseconds.
type Quantiles struct{ P50, P90, P99 float64 }

// A Hit says how often an intention decided. Its name is that of logs and
// metrics, "web → api" or "default policy".
type Hit struct {
	Name            string
	Allowed, Denied int64
}

// A Gatherer reads counters as they are now, such as those of one sidecar.
type Gatherer interface {
	Gather() ([]*dto.MetricFamily, error)
}

// Counts answers GET and HEAD with the [Series] of what is gathered, as JSON. all
// is asked each time, since sidecars come and go.
func Counts(all func() []Gatherer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protect(w.Header())
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "counts are read-only", http.StatusMethodNotAllowed)
			return
		}
		s, err := gather(all())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		body, err := json.Marshal(s)
		if err != nil {
			http.Error(w, fmt.Sprintf("encode the counts: %v", err), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n'))
	})
}

// gather fails only when there is nothing at all: a part that cannot be gathered
// must not hide the rest.
func gather(from []Gatherer) (Series, error) {
	var families []*dto.MetricFamily
	var err error
	for _, g := range from {
		more, problem := g.Gather()
		families, err = append(families, more...), errors.Join(err, problem)
	}
	if err != nil && len(families) == 0 {
		return Series{}, fmt.Errorf("gather the counts: %w; the agent's log may say more", err)
	}
	s := reduce(families)
	if err != nil {
		s.Problem = err.Error()
	}
	return s, nil
}
