// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"fmt"
	"slices"
	"strings"
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
	passed            traffic                          // to outside the mesh
	reasons           map[connect.Reason]*atomic.Int64 // never written to after init
	attempts          map[connect.Reason]*atomic.Int64
	ejections         atomic.Int64
	retries           atomic.Int64 // of requests
	probes            atomic.Int64
	panics            atomic.Int64
}

// traffic is that of one direction; bytes are as seen by the side that
// connected.
type traffic struct{ connections, requests, sent, received atomic.Int64 }

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
	if id == transparentID {
		return &c.passed
	}
	return &c.outbound
}

func (c *counters) accepted(id connect.UpstreamID) { c.of(id).connections.Add(1) }

// Served counts connections and requests since the proxy was made.
func (p *Proxy) Served() int64 {
	c := &p.counts
	return c.inbound.connections.Load() + c.outbound.connections.Load() + c.passed.connections.Load() + c.inbound.requests.Load() + c.outbound.requests.Load()
}

func (c *counters) relayed(id connect.UpstreamID, r relay.Result) {
	c.of(id).sent.Add(r.Sent)
	c.of(id).received.Add(r.Received)
}

// quiet bounds what refusals may write to the log: per reason the first few,
// then one line a second with the number left out.
type quiet struct {
	mu     sync.Mutex
	lines  map[connect.Reason]*line
	recent []Refusal // the last few that were logged, oldest first
}

// A Refusal is one connection that was not served, in words.
type Refusal struct {
	Time   time.Time
	Reason connect.Reason
	Text   string
}

const maxRecent = 16

func (q *quiet) keep(r Refusal) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.recent) == maxRecent {
		q.recent = slices.Delete(q.recent, 0, 1)
	}
	q.recent = append(q.recent, r)
}

func (q *quiet) last() []Refusal {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.recent)
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

// sentence joins what happened with its key-value pairs.
func sentence(what string, about []any) string {
	var b strings.Builder
	b.WriteString(what)
	for i := 0; i+1 < len(about); i += 2 {
		fmt.Fprintf(&b, ", %v %v", about[i], about[i+1])
	}
	return b.String()
}

// maxWords bounds one value of a log line and of status, in bytes: a stranger's
// certificate of many kilobytes may be quoted in an error.
const maxWords = 1024

// clip shortens what a peer may have made long.
func clip(about []any) []any {
	out := slices.Clone(about)
	for i, v := range out {
		switch v := v.(type) {
		case error:
			out[i] = clipText(v.Error())
		case string:
			out[i] = clipText(v)
		}
	}
	return out
}

func clipText(s string) string {
	if len(s) <= maxWords {
		return s
	}
	return strings.ToValidUTF8(s[:maxWords], "") + "…"
}

// refuse counts why a connection is not served and says so in the log.
func (p *Proxy) refuse(reason connect.Reason, what string, about ...any) {
	p.counts.refused(reason)
	l := p.quiet.of(reason)
	l.skipped.Add(1)
	l.sometimes.Do(func() {
		if n := l.skipped.Swap(0); n > 1 {
			about = append(about, "and_more", n-1)
		}
		about = clip(about)
		p.log.Warn(what, append([]any{"reason", reason}, about...)...)
		p.quiet.keep(Refusal{Time: time.Now(), Reason: reason, Text: sentence(what, about)})
	})
}
