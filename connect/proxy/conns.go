// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
	"github.com/outrider-mesh/outrider/connect/wire"
)

// conn is one connection through the proxy: the accepted socket and, once
// there, the one it is relayed to.
type conn struct {
	upstream connect.UpstreamID // "" for inbound
	peer     atomic.Pointer[connect.Identity]
	to       netip.AddrPort  // where a redirected connection was meant to go; zero for any other
	direct   *direct         // of a redirected connection to an instance's own address
	ctx      context.Context // ends with the connection; bounds its dials
	cancel   context.CancelFunc
	http     atomic.Bool // requests are told apart, and judged one by one
	requests requests
	spent    atomic.Bool      // of HTTP/1: where the next request would begin is not known
	server   *wire.Server     // of HTTP
	vouched  string           // of an inbound connection of HTTP: see vouched
	gateway  *connect.Gateway // instead of peer: who calls is said in each request

	record   flow.Record                // of the goroutine that serves the connection
	cause    atomic.Pointer[withdrawal] // why somebody else cut it
	caller   *measure.Peer              // nil unless inbound and proved
	measured *measure.Upstream          // nil unless it is one's
	asked    atomic.Int64               // requests
	probed   bool                       // it ended before a word was said

	mu      sync.Mutex
	sockets []net.Conn
	over    bool
}

func newConn(ctx context.Context, id connect.UpstreamID, socket net.Conn) *conn {
	c := &conn{upstream: id, sockets: []net.Conn{socket}}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

// accepted is the socket that the connection began with.
func (c *conn) accepted() net.Conn { return c.sockets[0] }

// addresses are those of the two ends; zero for a unix socket.
func (c *conn) addresses() (remote, local netip.AddrPort) {
	socket := c.accepted()
	if a, ok := socket.RemoteAddr().(*net.TCPAddr); ok {
		remote = a.AddrPort()
	}
	if a, ok := socket.LocalAddr().(*net.TCPAddr); ok {
		local = a.AddrPort()
	}
	return remote, local
}

// attach adds a socket of ours that cut must close, and reports false, having closed
// it, when the connection is over already.
func (c *conn) attach(socket net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		_ = socket.Close()
		return false
	}
	c.sockets = append(c.sockets, socket)
	if a, ok := socket.LocalAddr().(*net.TCPAddr); ok {
		c.record.UpstreamLocal = a.AddrPort()
	}
	return true
}

// detach forgets and closes a socket that turned out to be of no use.
func (c *conn) detach(socket net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, s := range c.sockets {
		if s == socket {
			c.sockets = append(c.sockets[:i], c.sockets[i+1:]...)
			break
		}
	}
	_ = socket.Close()
}

// cut closes the sockets under the connection, which ends whatever waits on
// them. TLS is not asked: its farewell could block on a peer that reads nothing.
func (c *conn) cut() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, s := range c.sockets {
		_ = s.Close()
	}
}

// sever cuts a connection that bytes go over: TCP is reset, so that neither
// side takes what it has got for all there was.
func (c *conn) sever() {
	c.mu.Lock()
	for _, s := range c.sockets {
		if tcp, ok := s.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // fails on a closed socket only
		}
	}
	c.mu.Unlock()
	c.cut()
}

type direction int

const (
	directionAny direction = iota
	directionInbound
)

// conns are the open connections, counted per listener.
type conns struct {
	mu      sync.Mutex
	open    map[*conn]struct{}
	counts  map[connect.UpstreamID]int
	shutOff bool
	waiters []waiter
}

type waiter struct {
	direction direction
	done      chan struct{}
}

func (cs *conns) init() {
	cs.open = make(map[*conn]struct{})
	cs.counts = make(map[connect.UpstreamID]int)
}

// add registers c unless its listener already has limit connections.
func (cs *conns) add(c *conn, limit int) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.shutOff || cs.counts[c.upstream] >= limit {
		return false
	}
	cs.open[c] = struct{}{}
	cs.counts[c.upstream]++
	return true
}

func (cs *conns) remove(c *conn) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.open, c)
	if cs.counts[c.upstream]--; cs.counts[c.upstream] == 0 {
		delete(cs.counts, c.upstream)
	}
	cs.wake()
}

func (cs *conns) wake() {
	rest := cs.waiters[:0]
	for _, w := range cs.waiters {
		if cs.count(w.direction) == 0 {
			close(w.done)
			continue
		}
		rest = append(rest, w)
	}
	cs.waiters = rest
}

func (cs *conns) count(d direction) int {
	if d == directionInbound {
		return cs.counts[""]
	}
	return len(cs.open)
}

// active is the number of open connections of a listener.
func (cs *conns) active(id connect.UpstreamID) int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.counts[id]
}

// any reports whether there is a connection.
func (cs *conns) any() bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return len(cs.open) > 0
}

// empty returns a channel that is closed once there is no connection left in
// the direction.
func (cs *conns) empty(d direction) <-chan struct{} {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	w := waiter{d, make(chan struct{})}
	cs.waiters = append(cs.waiters, w)
	cs.wake()
	return w.done
}

// inbound returns the open inbound connections.
func (cs *conns) inbound() []*conn { return cs.of("") }

// of returns the open connections of a listener or upstream.
func (cs *conns) of(id connect.UpstreamID) []*conn {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var out []*conn
	for c := range cs.open {
		if c.upstream == id {
			out = append(out, c)
		}
	}
	return out
}

// cutAll cuts every open connection, telling each to f first, and returns how
// many there were.
func (cs *conns) cutAll(f func(*conn)) int {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for c := range cs.open {
		f(c)
		c.sever()
	}
	return len(cs.open)
}

// shut cuts every connection and admits no more.
func (cs *conns) shut() {
	cs.mu.Lock()
	cs.shutOff = true
	cs.mu.Unlock()
	cs.cutAll(func(c *conn) {
		c.cause.CompareAndSwap(nil, &withdrawal{reason: connect.Draining, why: "the sidecar has ended"})
	})
}
