// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package tap shows connections and requests as they end to whoever watches. It
// must not hold up traffic: a watcher that is slow, or asks for much, misses some
// and is told how many. Nothing is kept for a watcher who comes later.
package tap

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"

	"github.com/outrider-mesh/outrider/agent/outline"
	"github.com/outrider-mesh/outrider/connect/flow"
)

const (
	// maxWatchers bounds who watches at once: each costs every request a look.
	maxWatchers = 8
	// queued bounds what waits for one watcher.
	queued = 128
)

// How many events a watcher is shown each second: at first, and at most.
const (
	DefaultRate = 50
	MaxRate     = 1000
)

// A Tap is a [flow.Sink] that watchers look at. While there is none, a record
// costs one load of a pointer. Make it with [New]; it is safe for concurrent use.
type Tap struct {
	log      hclog.Logger
	watchers atomic.Pointer[[]*watcher] // nil for none; replaced, never written to

	mu    sync.Mutex    // of changes
	ended chan struct{} // closed when Run returns
	over  bool
}

// New returns a tap that nobody watches. The logger is told of watchers who are
// shown secrets.
func New(log hclog.Logger) *Tap {
	return &Tap{log: log, ended: make(chan struct{})}
}

var _ flow.Sink = (*Tap)(nil)

// Run waits for the end of ctx, and then ends what watchers watch: nobody may
// watch any more. It is called once and returns nil.
func (t *Tap) Run(ctx context.Context) error {
	<-ctx.Done()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	close(t.ended)
	return nil
}

// An Event is one line of what a watcher is shown: a connection or request, or how
// many were left out.
type Event struct {
	outline.Outline

	// Query is that of the path; only for a watcher who is shown secrets.
	Query string `json:",omitempty"`
	// Headers are at first those that hold no secret; for a watcher who asks, all
	// of them, with "(hidden)" for values that may be one.
	RequestHeader  map[string][]string `json:",omitempty"`
	ResponseHeader map[string][]string `json:",omitempty"`
}

// A Notice is a line that is no event.
type Notice struct {
	// LeftOut counts what matched since the last notice and was not shown.
	LeftOut uint64
	Because string
}

// Done shows a record to every watcher whom it concerns. It never waits for one.
func (t *Tap) Done(r *flow.Record) {
	watchers := t.watchers.Load()
	if watchers == nil {
		return
	}
	for _, w := range *watchers {
		w.see(r)
	}
}

// A watcher is somebody who watches.
type watcher struct {
	filter  Filter
	show    show
	pace    *rate.Limiter
	events  chan *Event
	tooMany atomic.Uint64 // left out for the rate
	tooSlow atomic.Uint64 // left out because the watcher did not read
}

func (w *watcher) see(r *flow.Record) {
	if !w.filter.match(r) {
		return
	}
	if !w.pace.Allow() {
		w.tooMany.Add(1)
		return
	}
	if len(w.events) == cap(w.events) {
		w.tooSlow.Add(1) // before anything is made for nobody
		return
	}
	select {
	case w.events <- w.show.event(r):
	default:
		w.tooSlow.Add(1)
	}
}

// join adds a watcher; false when there are too many, or the agent ends.
func (t *Tap) join(w *watcher) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*watcher
	if now := t.watchers.Load(); now != nil {
		all = *now
	}
	if t.over || len(all) >= maxWatchers {
		return false
	}
	all = append(slices.Clone(all), w)
	t.watchers.Store(&all)
	return true
}

func (t *Tap) leave(w *watcher) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(*t.watchers.Load()), func(other *watcher) bool { return other == w })
	if len(all) == 0 {
		t.watchers.Store(nil)
		return
	}
	t.watchers.Store(&all)
}
