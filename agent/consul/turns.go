// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"

	"github.com/outrider-mesh/outrider/agent/watch"
)

// turns bound how many connections to Consul the reads of unused upstreams take
// together. In transparent mode there may be hundreds of upstreams of which the
// application calls three; each watched one would hold two of the 200 connections
// that Consul's agent allows one address.
//
// Nor are they read more often in all than a sidecar without work may cost: many
// are read less often each. How many there are is for those to say who register
// services.
type turns struct {
	free chan struct{}

	mu   sync.Mutex
	next time.Time // from which on the next read is due on average
}

const (
	readsAtOnce = 4
	// readEvery is the time for one read on average, and readsAhead how many more
	// there may be: at the beginning nothing is known of any.
	readEvery  = 50 * time.Millisecond
	readsAhead = 4096
)

func newTurns() *turns { return &turns{free: make(chan struct{}, readsAtOnce)} }

// due is how long the next read has to wait. Each call is one read.
func (t *turns) due(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if earliest := now.Add(-readsAhead * readEvery); t.next.Before(earliest) {
		t.next = earliest
	}
	t.next = t.next.Add(readEvery)
	return t.next.Sub(now)
}

// pacer returns that of something unused, nil for what is watched.
func (t *turns) pacer(unused bool) *pacer {
	if !unused {
		return nil
	}
	// Not all at once: they began together.
	return &pacer{every: again*3/4 + rand.N(again/2)} //nolint:gosec // no secret depends on it
}

func (t *turns) take(ctx context.Context) error {
	if wait := t.due(time.Now()); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case t.free <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *turns) giveBack() { <-t.free }

// getPaced is get for what is watched, when pace is nil. For what is not, it
// waits for the pace, then for its turn, and asks the agent's own cache, so that
// Consul's servers are not asked again for each sidecar of a host.
func (c *Client) getPaced(ctx context.Context, r request, after watch.Cursor, out any, pace *pacer) (meta, error) {
	if pace == nil {
		return c.get(ctx, r, after, out)
	}
	if _, err := pace.wait(ctx, after); err != nil {
		return meta{}, err
	}
	if err := c.unused.take(ctx); err != nil {
		return meta{}, err
	}
	defer c.unused.giveBack()
	cached := r
	cached.params = maps.Clone(r.params)
	if cached.params == nil {
		cached.params = url.Values{}
	}
	cached.params.Set("cached", "")
	return c.get(ctx, cached, watch.Cursor{}, out)
}
