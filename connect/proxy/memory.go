// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"fmt"
	"sync"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/limit"
	"github.com/outrider-mesh/outrider/connect/relay"
	"github.com/outrider-mesh/outrider/connect/wire"
)

// Memory is what the proxies of one process may hold together for connections
// and requests. Safe for concurrent use. Each proxy counts what it admits at the
// price of the worst that can come of it, so that what is counted is an upper
// bound and what is used mostly much less.
//
// It is shared out evenly among the proxies that run, so that none can take what
// another will need; one whose service says how much it wants has that instead.
type Memory struct {
	bytes int64
	all   *limit.Budget

	mu    sync.Mutex
	parts map[*limit.Budget]int64 // what its service says; 0 means an even share
}

// NewMemory returns memory of so many bytes.
func NewMemory(bytes int64) *Memory {
	return &Memory{bytes: bytes, all: limit.NewBudget(bytes, nil), parts: make(map[*limit.Budget]int64)}
}

// ConnectionsIn is how many idle connections fit into memory of so many bytes.
func ConnectionsIn(bytes int64) int64 { return bytes / 100 * admitPercent / connectionReserve }

// part makes the budget of one proxy, which gets its share with want; nil when
// nobody counts.
func (m *Memory) part() *limit.Budget {
	if m == nil {
		return nil
	}
	return limit.NewBudget(0, m.all)
}

// want says how much a part is to have in bytes; 0 means an even share.
func (m *Memory) want(part *limit.Budget, bytes int64) {
	m.share(func() { m.parts[part] = bytes })
}

// leave gives the share of a part to the others.
func (m *Memory) leave(part *limit.Budget) { m.share(func() { delete(m.parts, part) }) }

func (m *Memory) share(change func()) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
	for part, bytes := range m.parts {
		if bytes == 0 {
			bytes = m.bytes / int64(len(m.parts))
		}
		part.Resize(bytes)
	}
}

// Press says whether the process is about to run out of memory for whatever
// reason: no proxy admits anything new then. What there is goes on.
func (m *Memory) Press(on bool) { m.all.Press(on) }

// What is counted, in bytes.
const (
	// connectionReserve is for a connection with its counterpart: 23 KiB while
	// both are idle, a record of TLS that has not come whole, and a small buffer
	// at each of the four ends.
	connectionReserve = 48 << 10
	// requestReserve is for a request: its goroutines, a buffer for each body,
	// those of the connection to the application, and its part of the
	// least windows of HTTP/2.
	requestReserve = 128 << 10
)

// Up to how full memory may be, in percent: the rest is for what has been
// admitted to go on with.
const (
	admitPercent  = 94
	replayPercent = 75
)

// MemoryStatus is what a proxy holds, in bytes, as an upper bound.
type MemoryStatus struct {
	Limit, Held int64
	Short       int64 // how often something was refused or made do with less
	Pressed     bool  // the process is close to the limit of its memory
}

// relayMemory is nil where nobody counts.
func (p *Proxy) relayMemory() relay.Memory {
	if p.memory == nil {
		return nil
	}
	return p.memory
}

// wireMemory is nil where nobody counts.
func wireMemory(b *limit.Budget) wire.Memory {
	if b == nil {
		return nil
	}
	return b
}

// whyShort says in key-value pairs what of memory has run out, and what to do.
func (p *Proxy) whyShort() []any {
	s := p.memory.State()
	why, change := "the connections of this service may hold no more memory", "limits { memory_mb } of the agent, or outrider_memory_mb in the config of the service's proxy"
	if s.Pressed {
		why, change = "the process is close to the memory limit that the system gives it", "that limit: MemoryMax of the unit, memory of the task"
	}
	return []any{"why", why, "held", megabytes(s.Held), "limit", megabytes(s.Limit), "change", change}
}

func megabytes(n int64) string { return fmt.Sprintf("%.1fMB", float64(n)/(1<<20)) }

// settingOf names what changes the limit of connections of a kind.
func settingOf(rt *runtime, id connect.UpstreamID) string {
	switch u := rt.upstreams[id]; {
	case u != nil && u.http == nil:
		return "limits { max_connections } of the upstream, or limits { outbound_connections } of the agent"
	case u != nil:
		return "limits { outbound_connections } of the agent"
	case id == transparentID:
		return "none"
	}
	return "max_inbound_connections of the service, or limits { inbound_connections } of the agent"
}

// noteShort says once that there is little memory, when there begins to be.
func (p *Proxy) noteShort() {
	now := p.memory.State().Short
	grown := now > p.short
	if grown && !p.wasShort {
		p.log.Warn("memory is short: connections go on with smaller buffers", p.whyShort()...)
	}
	p.short, p.wasShort = now, grown
}

func (p *Proxy) memoryStatus() *MemoryStatus {
	if p.memory == nil {
		return nil
	}
	s := p.memory.State()
	return &MemoryStatus{Limit: s.Limit, Held: s.Held, Short: s.Short, Pressed: s.Pressed}
}
