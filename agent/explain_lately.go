// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/explain"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// maxLately bounds the pairs of a source and a destination whose latest failure
// is remembered.
const maxLately = 256

// lately remembers the latest failure of each source and destination, so that
// explain can say what no configuration tells: that an application does not
// answer, or that an endpoint is somebody else. What is served takes no lock, and
// costs one load before anything has failed.
type lately struct {
	some atomic.Bool
	seen atomic.Pointer[map[pair]*slot] // replaced, never written to

	mu sync.Mutex // of replacements
}

// slot has the latest failure of one pair.
type slot struct{ latest atomic.Pointer[failure] }

// pair is one side of a call: that of the sidecar, and whom it has to do with.
type pair struct {
	proxyID   string
	direction flow.Direction
	other     string // upstream or source
}

type failure struct {
	what  explain.Lately
	since atomic.Int64
}

func newLately() *lately {
	l := &lately{}
	l.seen.Store(&map[pair]*slot{})
	return l
}

// Done is told of everything that ends.
func (l *lately) Done(r *flow.Record) {
	at, told := pairOf(r)
	if !told {
		return
	}
	if r.Failed() {
		l.failed(at, r)
		return
	}
	if !l.some.Load() || r.Gone || (r.Kind == flow.Connection && (r.Requests > 0 || r.Sent+r.Received == 0)) {
		return // a connection of HTTP says nothing of how its requests went
	}
	if s := (*l.seen.Load())[at]; s != nil {
		s.latest.Load().since.Add(1)
	}
}

// pairOf reports false for what is no call of one known service to another.
func pairOf(r *flow.Record) (pair, bool) {
	switch {
	case r.Direction == flow.Outbound && r.Upstream != "":
		return pair{r.ProxyID, r.Direction, string(r.Upstream)}, true
	case r.Direction == flow.Inbound && r.Source.Service != "":
		return pair{r.ProxyID, r.Direction, r.Source.Label()}, true
	}
	return pair{}, false
}

func (l *lately) failed(at pair, r *flow.Record) {
	f := &failure{what: explain.Lately{At: r.Start.Add(r.Duration), Reason: r.Reason, Why: r.Why, Endpoint: r.Endpoint, Remote: r.Remote}}
	if s := (*l.seen.Load())[at]; s != nil {
		s.latest.Store(f)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	next := maps.Clone(*l.seen.Load())
	if s := next[at]; s != nil {
		s.latest.Store(f)
		return
	}
	if len(next) >= maxLately {
		forget(next)
	}
	s := &slot{}
	s.latest.Store(f)
	next[at] = s
	l.seen.Store(&next)
	l.some.Store(true)
}

// forget makes room by the oldest.
func forget(seen map[pair]*slot) {
	var oldest pair
	var since time.Time
	for at, s := range seen {
		if t := s.latest.Load().what.At; since.IsZero() || t.Before(since) {
			oldest, since = at, t
		}
	}
	delete(seen, oldest)
}

// of returns the latest failure of a pair, nil when there was none.
func (l *lately) of(proxyID string, d flow.Direction, other string) *explain.Lately {
	if l == nil {
		return nil
	}
	s := (*l.seen.Load())[pair{proxyID, d, other}]
	if s == nil {
		return nil
	}
	f := s.latest.Load()
	out := f.what
	out.Since = f.since.Load()
	return &out
}

// outbound and inbound look a pair up as explain knows it.
func (l *lately) outbound(proxyID string, u connect.UpstreamID) *explain.Lately {
	return l.of(proxyID, flow.Outbound, string(u))
}

func (l *lately) inbound(proxyID string, source connect.Identity) *explain.Lately {
	return l.of(proxyID, flow.Inbound, source.Label())
}
