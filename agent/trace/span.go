// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// Begin implements [flow.Tracer]. Exposed paths are not followed: anybody may
// call them, and as a rule it is health checks that do. Nor is what leaves the
// mesh: the trace is nothing to strangers.
func (t *Tracing) Begin(r *flow.Record, h connect.Header) flow.Span {
	if r.Direction != flow.Inbound && r.Direction != flow.Outbound {
		return nil
	}
	o := t.settings.propagation.extract(h)
	id := o.trace
	if id == (traceID{}) {
		id = newTraceID()
	}
	write := t.settings.propagation.write | o.forms
	if t.settings.sampler.sample(o, id) {
		s := &span{t: t, origin: o, write: write, began: r.Start, trace: id, id: newSpanID()}
		s.text = text(id, s.id, o.random|flagSampled)
		return s
	}
	q := &quiet{write: write, state: o.state}
	switch {
	case o.decision == unsampled && o.from == w3c && strings.HasPrefix(h[traceparent][0], "00-"):
		// Nothing changes for whoever reads this form: it may go on as it came.
		q.text = h[traceparent][0]
		if o.state != "" || len(h[tracestate]) == 0 {
			q.write &^= w3c
		}
	case o.trace != traceID{}:
		q.text = text(id, o.parent, o.random)
	default:
		// Whoever comes next is told, and does not begin a trace of its own in the
		// middle.
		q.text = text(id, newSpanID(), 0)
	}
	return q
}

// quiet is the span of a request that is not recorded.
type quiet struct {
	text  string
	state string
	write forms
}

func (q *quiet) IDs() (trace, span string) { return q.text[traceAt:traceEnd], q.text[spanAt:spanEnd] }

func (q *quiet) Try(h connect.Header) func(*flow.Try) {
	if q.write != 0 {
		inject(h, q.write, q.text, q.state, false)
	}
	return nothing
}

func (q *quiet) End(*flow.Record) {}

func nothing(*flow.Try) {}

// span is that of a request which is recorded.
type span struct {
	t      *Tracing
	origin origin
	write  forms
	began  time.Time
	trace  traceID
	id     spanID
	text   string
	tries  []attempt
}

// An attempt is the span of one try.
type attempt struct {
	id    spanID
	ended bool
	try   flow.Try
}

func (s *span) IDs() (trace, id string) { return s.text[traceAt:traceEnd], s.text[spanAt:spanEnd] }

func (s *span) Try(h connect.Header) func(*flow.Try) {
	if len(s.tries) == flow.MaxTries {
		// The record has no room for it either. What comes next belongs to the request.
		inject(h, s.write, s.text, s.origin.state, s.origin.debug)
		return nothing
	}
	id := newSpanID()
	inject(h, s.write, text(s.trace, id, s.origin.random|flagSampled), s.origin.state, s.origin.debug)
	at := len(s.tries)
	s.tries = append(s.tries, attempt{id: id, try: flow.Try{Start: time.Since(s.began)}})
	return func(try *flow.Try) {
		a := &s.tries[at]
		a.ended, a.try = true, *try
		a.try.Error = clipped(a.try.Error, maxError)
	}
}

// Bounds of what one request puts into the queue, in bytes.
const (
	maxPath  = 1024
	maxName  = 256
	maxError = 256
	maxWhy   = 1024

	// itemBase is what an item takes besides texts, tryBase one of its tries.
	itemBase = 1024
	tryBase  = 256
	// maxHeld bounds what waits for the collector, in bytes.
	maxHeld = 4 << 20
)

// An item is one request that has ended, on its way to the collector. Its texts
// are bounded, and are no part of larger ones.
type item struct {
	record flow.Record
	trace  traceID
	id     spanID
	parent spanID // zero for the first of a trace
	state  string
	flags  byte
	tls    bool
	tries  []attempt
	size   int64
}

// spans is how many an item becomes.
func (it *item) spans() int { return 1 + len(it.tries) }

func (s *span) End(r *flow.Record) {
	it := &item{
		record: *r, trace: s.trace, id: s.id, parent: s.origin.parent, state: s.origin.state,
		flags: s.origin.random | flagSampled, tls: r.TLS != nil, tries: s.tries,
	}
	k := &it.record
	k.RequestHeader, k.ResponseHeader, k.TLS, k.Tries = nil, nil, nil, nil
	k.Path, k.OriginalPath = clipped(r.PathOnly(), maxPath), ""
	if len(r.Path) > maxPath {
		k.Path = strings.Clone(k.Path) // the query is not to be kept with it
	}
	k.Method, k.Authority = clipped(r.Method, maxName), clipped(r.Authority, maxName)
	k.Why, k.GRPCStatus = clipped(r.Why, maxWhy), clipped(r.GRPCStatus, maxName)
	for i := range it.tries {
		if a := &it.tries[i]; !a.ended {
			// The request ended first: so did the try, as far as anybody knows.
			a.try.Took = max(0, r.Duration-a.try.Start)
		}
		it.size += tryBase + int64(len(it.tries[i].try.Error))
	}
	it.size += itemBase + int64(len(k.Path)+len(k.Authority)+len(k.Why)+len(it.state))
	s.t.enqueue(it)
}

// enqueue never waits: what does not fit is dropped and counted.
func (t *Tracing) enqueue(it *item) {
	n := uint64(it.spans()) //nolint:gosec // at most MaxTries+1
	t.made.Add(n)
	if t.held.Add(it.size) <= maxHeld {
		select {
		case t.queue <- it:
			return
		default:
		}
	}
	t.held.Add(-it.size)
	t.dropped.Add(n)
}

// clipped returns at most n bytes of s, without holding the rest of it.
func clipped(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(strings.Clone(s[:n]), "")
}
