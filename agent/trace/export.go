// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

const (
	// lastWords bounds what Run does after its context has ended.
	lastWords = 5 * time.Second
	// maxTries is how often one batch is sent before it is given up, with pauses
	// that double from firstPause up to longestPause.
	maxTries     = 4
	firstPause   = time.Second
	longestPause = 30 * time.Second
	// quietFor is the least time between two reports that the queue is full.
	quietFor = time.Minute
	// logEvery is which failures in a row are logged, after the first.
	logEvery = 10
)

// A deliverer brings spans to a collector.
type deliverer interface {
	// send returns how many spans the collector has refused, for good. A *later is
	// an error that may go away by itself. It ends with ctx.
	send(ctx context.Context, data *tracepb.TracesData) (refused int64, err error)
	close()
}

// later is an error after which the same may be sent again.
type later struct {
	cause error
	after time.Duration // as the collector asks; 0 when it does not
}

func (l *later) Error() string { return l.cause.Error() }
func (l *later) Unwrap() error { return l.cause }

// export is what Run works on: one batch at a time. While one is under way, the
// queue takes what comes, up to its bounds.
type export struct {
	t        *Tracing
	items    []*item
	spans    int
	failures int
	reported uint64 // drops that the log knows of
	silent   time.Time
}

func (x *export) loop(ctx context.Context) {
	tick := time.NewTicker(x.t.settings.delay)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case it := <-x.t.queue:
			if x.add(it); x.spans < x.t.settings.batch {
				continue
			}
		case <-tick.C:
		}
		x.flush(ctx, maxTries)
	}
}

func (x *export) add(it *item) {
	x.items = append(x.items, it)
	x.spans += it.spans()
}

// last sends what is left when ctx has ended.
func (x *export) last(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	for more := true; more; {
		select {
		case it := <-x.t.queue:
			if x.add(it); x.spans < x.t.settings.batch {
				continue
			}
		default:
			more = false
		}
		x.flush(ctx, 1)
		if ctx.Err() != nil {
			x.done(func(spans uint64) { x.t.failed.Add(spans) })
		}
	}
}

// flush sends the batch. When ctx ends first it is kept.
func (x *export) flush(ctx context.Context, tries int) {
	if len(x.items) == 0 {
		return
	}
	data := x.t.settings.resource.data(x.items)
	for n := 1; ; n++ {
		refused, err := x.once(ctx, data)
		if err == nil {
			x.accepted(refused)
			return
		}
		if ctx.Err() != nil {
			return
		}
		wait, ok := errors.AsType[*later](err)
		x.failure(err)
		if !ok || n == tries {
			x.done(func(spans uint64) { x.t.failed.Add(spans) })
			return
		}
		if !pause(ctx, wait.pause(n)) {
			return
		}
	}
}

func (x *export) once(ctx context.Context, data *tracepb.TracesData) (refused int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, x.t.settings.destination.timeout)
	defer cancel()
	return x.t.deliver.send(ctx, data)
}

// pause is how long to wait after the nth failure in a row: what the collector
// asks for, or full jitter under a bound that doubles.
func (l *later) pause(n int) time.Duration {
	if l.after > 0 {
		return min(l.after, longestPause)
	}
	bound := min(firstPause<<min(n-1, 10), longestPause)
	return bound/2 + rand.N(bound/2) //nolint:gosec // a pause is no secret
}

// pause waits, and reports whether ctx has let it.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// done empties the batch, and has its spans counted.
func (x *export) done(count func(spans uint64)) {
	count(uint64(x.spans)) //nolint:gosec // never negative
	for i, it := range x.items {
		x.t.held.Add(-it.size)
		x.items[i] = nil
	}
	x.items, x.spans = x.items[:0], 0
}

func (x *export) accepted(refused int64) {
	t := x.t
	x.done(func(spans uint64) {
		bad := min(uint64(max(refused, 0)), spans)
		t.sent.Add(spans - bad)
		t.failed.Add(bad)
	})
	if refused > 0 {
		t.log.Warn("the collector has refused spans; its own log says why", "collector", t.Destination(), "spans", refused)
	}
	if x.failures > 0 {
		t.log.Info("traces are sent again", "collector", t.Destination(), "failures", x.failures)
		x.failures = 0
	}
	dropped, now := t.dropped.Load(), time.Now()
	if dropped > x.reported && now.Sub(x.silent) >= quietFor {
		t.log.Warn("spans are dropped, because there are more than can be sent; sample fewer requests with sample_ratio or OTEL_TRACES_SAMPLER_ARG",
			"dropped", dropped-x.reported, "collector", t.Destination())
		x.reported, x.silent = dropped, now
	}
}

// failure logs the first of a row and then every tenth.
func (x *export) failure(err error) {
	x.failures++
	if x.failures != 1 && x.failures%logEvery != 0 {
		return
	}
	x.reported = x.t.dropped.Load()
	x.t.log.Warn("traces cannot be sent; requests are served as before, spans are dropped when there are too many of them",
		"collector", x.t.Destination(), "error", err, "failures", x.failures, "dropped", x.reported)
}
