// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package measure

import (
	"slices"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// A cell is one series that is there once something has been counted in it. All
// but the first use take no lock.
type cell[T any] struct{ series atomic.Pointer[T] }

// in returns the series, made with the lock of the Set when it is not there yet;
// nil when what it belongs to has been forgotten.
func (c *cell[T]) in(e *edge, resolve func() T) *T {
	if p := c.series.Load(); p != nil {
		return p
	}
	e.set.mu.Lock()
	defer e.set.mu.Unlock()
	if p := c.series.Load(); p != nil || e.gone {
		return p
	}
	series := resolve()
	c.series.Store(&series)
	return &series
}

// bump adds to a counter that may have been forgotten.
func bump(c *prometheus.Counter, n float64) {
	if c != nil {
		(*c).Add(n)
	}
}

// The kinds and sides of failures.
const (
	kinds = 2
	sides = 2
)

// classes are those of HTTP statuses.
func classes() []string { return []string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"} }

func classAt(status int) int {
	if class := status / 100; class > 0 && class <= 5 {
		return class
	}
	return 0
}

// reasons are every Reason, and one for what is none of them.
const reasons = 16

func reasonWords() []string {
	out := make([]string, 0, reasons)
	for _, r := range connect.Reasons() {
		out = append(out, string(r))
	}
	return append(out, Other)
}

// reasonAt is the position of a reason's word: of few, so that looking is cheap
// and takes no map.
func reasonAt(r connect.Reason) int {
	for i, known := range connect.Reasons() {
		if r == known {
			return i
		}
	}
	return reasons - 1
}

// grpcStatuses are the codes of gRPC, and one for what is none.
const grpcStatuses = 18

func grpcAt(status string) int {
	if n, err := strconv.ParseUint(status, 10, 8); err == nil && n < grpcStatuses-1 {
		return int(n)
	}
	return grpcStatuses - 1
}

func grpcWord(at int) string {
	if at == grpcStatuses-1 {
		return Other
	}
	return strconv.Itoa(at)
}

func kindWord(k flow.Kind) string {
	if k == flow.Request {
		return "request"
	}
	return "connection"
}

// An edge is what is measured between one source and one destination.
type edge struct {
	set    *Set
	target connect.TargetID
	labels []string
	gone   bool // guarded by set.mu

	requests    [6]cell[prometheus.Counter]
	grpc        [grpcStatuses]cell[prometheus.Counter]
	abandoned   [kinds]cell[prometheus.Counter]
	failures    [kinds * reasons * sides]cell[prometheus.Counter]
	connections cell[prometheus.Counter]
	open        cell[prometheus.Gauge]
	duration    cell[prometheus.Observer]
	connection  cell[prometheus.Observer]
	sent        cell[prometheus.Counter]
	received    cell[prometheus.Counter]
}

func newEdge(s *Set, d flow.Direction, source, destination, upstream, target string) *edge {
	return &edge{set: s, target: connect.TargetID(target), labels: cleaned(d.String(), source, destination, upstream, target)}
}

func (e *edge) with(more ...string) []string { return slices.Concat(e.labels, more) }

func (e *edge) counter(c *cell[prometheus.Counter], f *family) *prometheus.Counter {
	if p := c.series.Load(); p != nil {
		return p
	}
	return c.in(e, func() prometheus.Counter { return f.counter(e.labels...) })
}

func (e *edge) observe(c *cell[prometheus.Observer], f *family, seconds float64) {
	p := c.series.Load()
	if p == nil {
		p = c.in(e, func() prometheus.Observer { return f.observer(e.labels...) })
	}
	if p != nil {
		(*p).Observe(seconds)
	}
}

func (e *edge) served() { bump(e.counter(&e.connections, e.set.vecs.connections), 1) }

func (e *edge) opened() {
	e.served()
	e.opens(1)
}

func (e *edge) closed() { e.opens(-1) }

func (e *edge) opens(n float64) {
	p := e.open.series.Load()
	if p == nil {
		p = e.open.in(e, func() prometheus.Gauge { return e.set.vecs.open.gauge(e.labels...) })
	}
	if p != nil {
		(*p).Add(n)
	}
}

// done counts a record, but for the number of connections.
func (e *edge) done(r *flow.Record) {
	v := &e.set.vecs
	switch {
	case r.Kind == flow.Request:
		e.request(r)
	case r.Reason == "" || r.Requests > 0 || r.Sent > 0 || r.Received > 0:
		e.observe(&e.connection, v.connection, r.Duration.Seconds())
	}
	// Bytes of a connection of HTTP are those of its requests.
	if r.Kind == flow.Request || r.Requests == 0 {
		if r.Sent > 0 {
			bump(e.counter(&e.sent, v.sent), float64(r.Sent))
		}
		if r.Received > 0 {
			bump(e.counter(&e.received, v.received), float64(r.Received))
		}
	}
	switch {
	case r.Gone:
		e.left(r.Kind)
	case r.Reason != "":
		e.fail(r)
	}
}

func (e *edge) request(r *flow.Record) {
	class := classAt(r.Status)
	c := &e.requests[class]
	p := c.series.Load()
	if p == nil {
		p = c.in(e, func() prometheus.Counter {
			return e.set.vecs.requests.counter(e.with(classes()[class])...)
		})
	}
	bump(p, 1)
	e.observe(&e.duration, e.set.vecs.duration, r.Duration.Seconds())
	if r.GRPC && r.GRPCStatus != "" {
		e.status(grpcAt(r.GRPCStatus))
	}
}

func (e *edge) status(at int) {
	c := &e.grpc[at]
	p := c.series.Load()
	if p == nil {
		p = c.in(e, func() prometheus.Counter { return e.set.vecs.grpc.counter(e.with(grpcWord(at))...) })
	}
	bump(p, 1)
}

func (e *edge) left(k flow.Kind) {
	c := &e.abandoned[min(k, flow.Request)]
	p := c.series.Load()
	if p == nil {
		p = c.in(e, func() prometheus.Counter { return e.set.vecs.abandoned.counter(e.with(kindWord(k))...) })
	}
	bump(p, 1)
}

func (e *edge) fail(r *flow.Record) {
	at, side := reasonAt(r.Reason), sideAt(r.Remote)
	c := &e.failures[(int(min(r.Kind, flow.Request))*reasons+at)*sides+side]
	p := c.series.Load()
	if p == nil {
		kind := kindWord(r.Kind)
		p = c.in(e, func() prometheus.Counter {
			return e.set.vecs.edgeFailures.counter(e.with(kind, reasonWords()[at], sideWord(side))...)
		})
	}
	bump(p, 1)
}

func sideAt(remote bool) int {
	if remote {
		return 1
	}
	return 0
}

func sideWord(at int) string {
	if at == 1 {
		return "remote"
	}
	return "local"
}

// failures are those of a whole sidecar, each there from the start: a rate sees
// the first one.
type failures [flow.Passed + 1][kinds][reasons]prometheus.Counter

func (f *failures) init(v *vecs) {
	words := reasonWords()
	for d := range f {
		for k := range f[d] {
			for i := range f[d][k] {
				direction, kind := flow.Direction(d), kindWord(flow.Kind(k))
				f[d][k][i] = v.failures.counter(direction.String(), kind, words[i])
			}
		}
	}
}

func (f *failures) count(r *flow.Record) {
	if r.Failed() {
		f[min(r.Direction, flow.Passed)][min(r.Kind, flow.Request)][reasonAt(r.Reason)].Inc()
	}
}
