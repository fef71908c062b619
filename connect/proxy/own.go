// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// own remembers the connections that the proxy has made of late. One that comes
// back as a redirected connection is known by its two ends, which no other
// connection of the host has at the same time.
type own struct {
	on atomic.Bool // in transparent mode only

	mu     sync.Mutex
	made   map[ends]time.Time
	latest []ends // a ring
	next   int
}

type ends struct{ local, remote netip.AddrPort }

// A connection comes back at once or never.
const (
	ownRemembered = 4096
	ownFor        = 5 * time.Second
)

func (o *own) note(socket net.Conn) {
	if !o.on.Load() {
		return
	}
	local, ok := socket.LocalAddr().(*net.TCPAddr)
	remote, also := socket.RemoteAddr().(*net.TCPAddr)
	if !ok || !also {
		return
	}
	e := ends{plainPort(local.AddrPort()), plainPort(remote.AddrPort())}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.made == nil {
		o.made, o.latest = make(map[ends]time.Time, ownRemembered), make([]ends, ownRemembered)
	}
	delete(o.made, o.latest[o.next])
	o.made[e], o.latest[o.next] = time.Now(), e
	o.next = (o.next + 1) % ownRemembered
}

// has reports whether a connection from one address to another is our own.
func (o *own) has(from, to netip.AddrPort) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	made, found := o.made[ends{plainPort(from), plainPort(to)}]
	return found && time.Since(made) < ownFor
}

func plainPort(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// calls are the upstreams that were called by a virtual IP or an instance's
// address.
type calls struct {
	news chan struct{} // one slot

	mu   sync.RWMutex
	seen map[connect.UpstreamID]bool
}

func (c *calls) init() {
	c.news, c.seen = make(chan struct{}, 1), make(map[connect.UpstreamID]bool)
}

func (c *calls) note(id connect.UpstreamID) {
	c.mu.RLock()
	known := c.seen[id]
	c.mu.RUnlock()
	if known {
		return
	}
	c.mu.Lock()
	c.seen[id] = true
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default: // it was not looked at yet
	}
}

// keep forgets upstreams that are gone: should they come back, they are new.
func (c *calls) keep(upstreams map[connect.UpstreamID]*upstream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.seen, func(id connect.UpstreamID, _ bool) bool { return upstreams[id] == nil })
}

// Called receives when an upstream has been called in transparent mode for the
// first time since it was applied; see [Proxy.Calls].
func (p *Proxy) Called() <-chan struct{} { return p.calls.news }

// Calls returns the upstreams of the snapshot in force that have been called in
// transparent mode, sorted.
func (p *Proxy) Calls() []connect.UpstreamID {
	p.calls.mu.RLock()
	defer p.calls.mu.RUnlock()
	return slices.Sorted(maps.Keys(p.calls.seen))
}
