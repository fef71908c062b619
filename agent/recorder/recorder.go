// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package recorder keeps the last failures of a host, so that whoever is called
// in the night can see what happened before. It must not write to a disk, and
// holds no header and no query.
package recorder

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"

	"github.com/outrider-mesh/outrider/agent/outline"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

const (
	// Keeps is how many failures are kept.
	Keeps = 1000
	// maxBytes bounds what they take together; with long paths and many tries
	// fewer than Keeps are kept.
	maxBytes = 4 << 20
)

// A Recorder keeps the last failures. It is a [flow.Sink]: what did not fail costs
// one comparison, a failure a short lock. Make it with [New]; it is safe for
// concurrent use.
type Recorder struct {
	mu    sync.Mutex
	ring  []outline.Outline // grows to Keeps, then goes round
	first int               // the oldest one in ring
	count int
	bytes int
	total uint64
}

// New returns an empty recorder.
func New() *Recorder { return &Recorder{} }

var _ flow.Sink = (*Recorder)(nil)

// Done keeps the outline of a record that failed.
func (r *Recorder) Done(rec *flow.Record) {
	if !rec.Failed() {
		return
	}
	o := outline.Of(rec)
	size := o.Size()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.total++
	for r.count > 0 && (r.count == Keeps || r.bytes+size > maxBytes) {
		r.drop()
	}
	at := r.first + r.count
	switch {
	case at < len(r.ring):
		r.ring[at] = o
	case len(r.ring) < Keeps:
		r.ring = append(r.ring, o)
	default:
		r.ring[at-Keeps] = o
	}
	r.count++
	r.bytes += size
}

// drop forgets the oldest one.
func (r *Recorder) drop() {
	r.bytes -= r.ring[r.first].Size()
	r.ring[r.first] = outline.Outline{}
	r.first = (r.first + 1) % Keeps
	r.count--
}

// Failures are the last failures of a host.
type Failures struct {
	Total    uint64 // since the start; more than there are here
	Failures []outline.Outline
}

// Last returns at most n failures that match, the newest first; a nil match
// matches all. The caller owns the result, and treats tries as immutable.
func (r *Recorder) Last(n int, match func(*outline.Outline) bool) Failures {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := Failures{Total: r.total, Failures: []outline.Outline{}}
	for i := r.count - 1; i >= 0 && len(out.Failures) < n; i-- {
		o := &r.ring[(r.first+i)%Keeps]
		if match == nil || match(o) {
			out.Failures = append(out.Failures, *o)
		}
	}
	return out
}

// ServeHTTP answers with the last failures as JSON, the newest first. The
// parameters limit (a number), service, upstream, source and reason choose.
func (r *Recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	limit, match, err := choice(req.URL.Query())
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := json.MarshalIndent(r.Last(limit, match), "", "  ")
	if err != nil {
		http.Error(w, fmt.Sprintf("encode the failures: %v", err), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}

func choice(q url.Values) (limit int, match func(*outline.Outline) bool, err error) {
	limit = Keeps
	known := []string{"limit", "reason", "service", "source", "upstream"}
	for name := range q {
		if !slices.Contains(known, name) {
			return 0, nil, fmt.Errorf("there is no parameter %.64q; there are limit, reason, service, source and upstream", name)
		}
	}
	if text := q.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 {
			return 0, nil, fmt.Errorf("limit is %.64q; give a number of at least 1", text)
		}
	}
	reason := connect.Reason(q.Get("reason"))
	if reason != "" && !slices.Contains(connect.Reasons(), reason) {
		return 0, nil, fmt.Errorf("there is no reason %.64q; the reasons are %v", reason, connect.Reasons())
	}
	service, upstream, source := q.Get("service"), q.Get("upstream"), q.Get("source")
	is := func(want, got string) bool { return want == "" || want == got }
	return limit, func(o *outline.Outline) bool {
		return is(string(reason), string(o.Reason)) && is(service, o.Service) && is(upstream, o.Upstream) && is(source, o.Source)
	}, nil
}
