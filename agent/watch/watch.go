// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package watch runs blocking queries: one loop per thing watched, and keyed
// sets of loops that several owners share. It knows no API, decides nothing
// about the values it carries, and never forgets a good value because of a bad
// answer.
package watch

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/go-hclog"
)

// A Cursor is how far a watch has read. The zero Cursor asks for an answer at
// once. A source uses Index or Hash, whichever its endpoint blocks on (Consul's
// HTTP API documents both kinds of blocking query).
type Cursor struct {
	Index uint64
	Hash  string
}

// Fetch asks for the value after a cursor and blocks until there is something
// new, the source's own wait time is over, or ctx ends. It returns the cursor
// to go on from; the value must not be written to afterwards. A Fetch is used
// by one goroutine at a time.
type Fetch[V any] func(ctx context.Context, after Cursor) (V, Cursor, error)

// Options tune a watch. Zero fields take the defaults named at each.
type Options struct {
	// Name is what is watched, for logs: `intentions for "web"`.
	Name string
	// Logger takes the warnings of failing watches; nil discards them.
	Logger hclog.Logger
	// MinGap is the least time between the starts of two queries, so that a
	// source that answers at once instead of blocking is not hammered: 250 ms.
	MinGap time.Duration
	// BackoffBase and BackoffLimit bound the pause after failures: 500 ms, 30 s.
	BackoffBase, BackoffLimit time.Duration
	// Sooner returns a channel that is closed when there is a reason to expect a
	// better answer, such as another token: a watch that waits after a failure
	// then tries at once. It is asked before each query; nil means never.
	Sooner func() <-chan struct{}
	// Limit is how many keys a Set watches at once; what is wanted beyond it
	// waits for a place and says so in Status: 1024.
	Limit int
	// Random returns numbers in [0, 1) for the jitter: math/rand/v2. It must be
	// safe for concurrent use.
	Random func() float64
}

const (
	defaultMinGap       = 250 * time.Millisecond
	defaultBackoffBase  = 500 * time.Millisecond
	defaultBackoffLimit = 30 * time.Second
	defaultLimit        = 1024

	// remindEvery is how many failures pass between two warnings about one
	// outage: an outage of hours must not fill a disk with log lines.
	remindEvery = 10
)

// WithDefaults returns the options with their defaults filled in.
func (o Options) WithDefaults() Options {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.MinGap <= 0 {
		o.MinGap = defaultMinGap
	}
	if o.BackoffBase <= 0 {
		o.BackoffBase = defaultBackoffBase
	}
	if o.BackoffLimit <= 0 {
		o.BackoffLimit = defaultBackoffLimit
	}
	if o.Limit <= 0 {
		o.Limit = defaultLimit
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Sooner == nil {
		o.Sooner = func() <-chan struct{} { return nil }
	}
	return o
}

// Loop fetches again and again until ctx ends, and calls emit from its own
// goroutine, one call at a time: with a value when the cursor has moved, with
// an error (and the zero value) for every failed query. What ctx cuts short is
// not emitted.
//
// An index that is zero or lower than before makes the next query start from
// zero, as Consul's documentation of blocking queries asks; so does any error,
// because the source may have been restarted with less than we have read, and
// would then keep us waiting. The value that comes with it is emitted even when
// it equals the last one: Loop compares cursors only.
func Loop[V any](ctx context.Context, opts Options, fetch Fetch[V], emit func(V, error)) {
	loop(ctx, opts.WithDefaults(), fetch, func(a answer[V]) {
		if a.err != nil || a.moved {
			emit(a.value, a.err)
		}
	})
}

// An answer is the outcome of one query.
type answer[V any] struct {
	value    V
	moved    bool // the cursor moved; value may be new
	err      error
	failures int // consecutive, this one included
}

func loop[V any](ctx context.Context, opts Options, fetch Fetch[V], observe func(answer[V])) {
	outage := outage{name: opts.Name, logger: opts.Logger}
	var after Cursor
	for ctx.Err() == nil {
		started, sooner := time.Now(), opts.Sooner()
		value, next, err := fetch(ctx, after)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			outage.failed(err)
			observe(answer[V]{err: err, failures: outage.failures})
			after = Cursor{}
			pause := Delay(outage.failures, opts.Random(), opts.BackoffBase, opts.BackoffLimit)
			gap := opts.MinGap - time.Since(started)
			if !sleep(ctx, gap) || !sleepUntil(ctx, sooner, pause-max(gap, 0)) {
				return
			}
			continue
		}
		outage.recovered()
		observe(answer[V]{value: value, moved: next == Cursor{} || next != after})
		after = follow(after, next)
		if !sleep(ctx, opts.MinGap-time.Since(started)) {
			return
		}
	}
}

// follow returns the cursor of the next query.
func follow(after, next Cursor) Cursor {
	if next.Index < after.Index {
		return Cursor{}
	}
	return next
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// sleepUntil is sleep that also ends when sooner is closed.
func sleepUntil(ctx context.Context, sooner <-chan struct{}, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-sooner:
	case <-timer.C:
	}
	return true
}

// An outage counts the failures of one watch and logs the first, every tenth
// and the end of them.
type outage struct {
	name     string
	logger   hclog.Logger
	failures int
	since    time.Time
}

func (o *outage) failed(err error) {
	o.failures++
	if o.failures == 1 {
		o.since = time.Now()
		o.logger.Warn("watch failed, keeping the last good value", "watch", o.name, "error", err)
		return
	}
	if o.failures%remindEvery == 0 {
		o.logger.Warn("watch still failing, keeping the last good value", "watch", o.name, "failures", o.failures, "since", o.since.UTC().Format(time.RFC3339), "error", err)
	}
}

func (o *outage) recovered() {
	if o.failures == 0 {
		return
	}
	o.logger.Info("watch recovered", "watch", o.name, "failures", o.failures, "after", time.Since(o.since).Round(time.Millisecond))
	o.failures = 0
}
