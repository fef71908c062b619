// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/relay"
)

// counters count since the proxy was made. They are never reset.
type counters struct {
	inbound, outbound traffic
	reasons           map[connect.Reason]*atomic.Int64 // never written to after init
	attempts          map[connect.Reason]*atomic.Int64
	ejections         atomic.Int64
	panics            atomic.Int64
}

// traffic is that of one direction; bytes are as seen by the side that
// connected.
type traffic struct{ connections, sent, received atomic.Int64 }

func (c *counters) init() {
	c.reasons = make(map[connect.Reason]*atomic.Int64)
	c.attempts = make(map[connect.Reason]*atomic.Int64)
	for _, r := range connect.Reasons() {
		c.reasons[r], c.attempts[r] = new(atomic.Int64), new(atomic.Int64)
	}
}

func (c *counters) refused(r connect.Reason)       { c.reasons[r].Add(1) }
func (c *counters) attemptFailed(r connect.Reason) { c.attempts[r].Add(1) }

func (c *counters) of(id connect.UpstreamID) *traffic {
	if id == "" {
		return &c.inbound
	}
	return &c.outbound
}

func (c *counters) accepted(id connect.UpstreamID) { c.of(id).connections.Add(1) }

func (c *counters) relayed(id connect.UpstreamID, r relay.Result) {
	c.of(id).sent.Add(r.Sent)
	c.of(id).received.Add(r.Received)
}

// quiet bounds what refusals may write to the log: per reason the first few,
// then one line a second with the number left out.
type quiet struct {
	mu    sync.Mutex
	lines map[connect.Reason]*line
}

type line struct {
	sometimes rate.Sometimes
	skipped   atomic.Int64
}

func (q *quiet) of(r connect.Reason) *line {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.lines == nil {
		q.lines = make(map[connect.Reason]*line)
	}
	l := q.lines[r]
	if l == nil {
		l = &line{sometimes: rate.Sometimes{First: 20, Interval: time.Second}}
		q.lines[r] = l
	}
	return l
}

// refuse counts why a connection is not served and says so in the log.
func (p *Proxy) refuse(c *conn, reason connect.Reason, what string, about ...any) {
	p.counts.refused(reason)
	l := p.quiet.of(reason)
	l.skipped.Add(1)
	l.sometimes.Do(func() {
		if n := l.skipped.Swap(0); n > 1 {
			about = append(about, "and_more", n-1)
		}
		p.log.Warn(what, append([]any{"reason", reason}, about...)...)
	})
}
