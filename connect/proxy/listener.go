// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// listener is a bound socket with its accept loop.
type listener struct {
	socket   net.Listener
	upstream connect.UpstreamID // "" for inbound
	closed   chan struct{}
	once     sync.Once
}

func (l *listener) close() {
	l.once.Do(func() {
		close(l.closed)
		_ = l.socket.Close()
	})
}

// A BindError says which listeners of a snapshot could not be bound.
type BindError struct{ errs []error }

func (e *BindError) Error() string { return errors.Join(e.errs...).Error() }

// Unwrap returns one error for each listener.
func (e *BindError) Unwrap() []error { return e.errs }

func (p *Proxy) bindErrors(version uint64) error {
	if len(p.unbound) == 0 {
		return nil
	}
	var all BindError
	for _, id := range slices.Sorted(maps.Keys(p.unbound)) {
		all.errs = append(all.errs, fmt.Errorf("snapshot %d: %w", version, p.unbound[id]))
	}
	return &all
}

// open binds what rt wants and is not bound yet, as far as it can.
func (p *Proxy) open(ctx context.Context, rt *runtime) map[bind]*listener {
	opened := make(map[bind]*listener)
	p.unbound = make(map[connect.UpstreamID]error)
	for at, opts := range rt.binds {
		if current := p.listeners[at]; p.isShut(opts.upstream) || (current != nil && current.upstream == opts.upstream) {
			continue
		}
		socket, err := p.bind(ctx, at, opts)
		if errors.Is(err, syscall.EADDRINUSE) && p.makeWay(rt, at, opts.upstream) {
			socket, err = p.bind(ctx, at, opts)
		}
		if err != nil {
			p.unbound[opts.upstream] = fmt.Errorf("listen for %s on %s: %w; free the address or configure another", listenerName(opts.upstream), at.address, err)
			continue
		}
		opened[at] = &listener{socket: socket, upstream: opts.upstream, closed: make(chan struct{})}
	}
	return opened
}

func (p *Proxy) bind(ctx context.Context, at bind, opts bindOptions) (net.Listener, error) {
	// The port may be changing hands between two upstreams of this proxy.
	if current := p.listeners[at]; current != nil {
		current.close()
		delete(p.listeners, at)
	}
	open := func() (net.Listener, error) {
		return p.listen.Listen(context.WithoutCancel(ctx), at.network, at.address)
	}
	adopt := net.FileListener
	if at.network == "unix" {
		open = func() (net.Listener, error) { return ListenUnix(ctx, at.address, opts.mode) }
		adopt = func(f *os.File) (net.Listener, error) { return AdoptUnix(f, at.address, opts.mode) }
	}
	if p.sockets == nil {
		return open()
	}
	return p.sockets.Listen(at.network, at.address, open, adopt)
}

// ListenThrough makes listeners come from s. It must be called before Run.
func (p *Proxy) ListenThrough(s Sockets) { p.sockets = s }

// Sockets are where listeners come from: from another process that leaves them,
// or else from open. adopt makes a listener of what was left.
type Sockets interface {
	Listen(network, address string, open func() (net.Listener, error), adopt func(*os.File) (net.Listener, error)) (net.Listener, error)
}

// makeWay closes the old listener of an upstream that is about to bind the same
// port at another address, and reports whether there was one: the system refuses
// 127.0.0.1:80 to whoever still holds 0.0.0.0:80, and a listener that is to
// become narrower must not stay wide for that.
func (p *Proxy) makeWay(rt *runtime, to bind, id connect.UpstreamID) bool {
	_, port, _ := net.SplitHostPort(to.address)
	for at, l := range p.listeners {
		_, old, _ := net.SplitHostPort(at.address)
		if _, wanted := rt.binds[at]; l.upstream == id && at.network == "tcp" && !wanted && old == port {
			l.close()
			delete(p.listeners, at)
			return true
		}
	}
	return false
}

// serve starts the accept loops of new listeners.
func (p *Proxy) serve(ctx context.Context, opened map[bind]*listener) {
	for at, l := range opened {
		p.listeners[at] = l
		p.running.Add(1)
		go p.acceptLoop(ctx, l)
	}
}

// closeUnwanted closes what the runtime does not bind, except the old listener
// of one whose new address could not be bound: better the old than none.
func (p *Proxy) closeUnwanted(wanted map[bind]bindOptions) {
	for at, l := range p.listeners {
		opts, kept := wanted[at]
		if (!kept || opts.upstream != l.upstream) && p.unbound[l.upstream] == nil {
			l.close()
			delete(p.listeners, at)
		}
	}
}

// Accept errors other than the listener's end come from the system running out
// of something: the loop waits for it to pass instead of dying.
const (
	minAcceptBackoff = 5 * time.Millisecond
	maxAcceptBackoff = time.Second
)

func (p *Proxy) acceptLoop(ctx context.Context, l *listener) {
	defer p.running.Done()
	backoff := minAcceptBackoff
	for {
		socket, err := l.socket.Accept()
		if err == nil {
			backoff = minAcceptBackoff
			p.admit(ctx, l, socket)
			continue
		}
		select {
		case <-l.closed:
			return
		default:
		}
		p.log.Error("accept failed; trying again", "listener", listenerName(l.upstream), "error", err, "in", backoff)
		if !wait(l.closed, backoff) {
			return
		}
		backoff = min(2*backoff, maxAcceptBackoff)
	}
}

// wait reports false when done closes before d has passed.
func wait(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return false
	case <-timer.C:
		return true
	}
}

// admit registers a connection and starts its goroutine, or closes it at once
// when the limit is reached, so that who is refused learns it without delay.
func (p *Proxy) admit(ctx context.Context, l *listener, socket net.Conn) {
	rt := p.runtime.Load()
	c := newConn(ctx, l.upstream, socket)
	c.begin(p, rt)
	if l.upstream == transparentID && !p.redirected(rt, c) {
		p.turnedAway(c)
		c.cut()
		return
	}
	limit := p.limitOf(rt, c.upstream)
	if !p.conns.add(c, limit) {
		p.fail(&c.record, connect.LimitExceeded, "refused a connection", "listener", listenerName(c.upstream), "limit", limit, "change", settingOf(rt, c.upstream))
		p.turnedAway(c)
		c.cut()
		return
	}
	if !p.memory.Take(connectionReserve, admitPercent) {
		p.conns.remove(c)
		p.fail(&c.record, connect.LimitExceeded, "refused a connection", append([]any{"listener", listenerName(c.upstream)}, p.whyShort()...)...)
		p.turnedAway(c)
		c.cut()
		return
	}
	p.counts.accepted(c.upstream)
	p.letIn(c, rt)
	p.running.Add(1)
	go p.serveConn(c)
}

// limitOf is how many connections of a kind there may be at once.
func (p *Proxy) limitOf(rt *runtime, id connect.UpstreamID) int {
	switch u := rt.upstreams[id]; {
	case u != nil:
		return u.maxConns
	case id == transparentID:
		return orLimit(p.limits.Passed, p.limits.Outbound)
	case id != "" && rt.exposed[id] == nil:
		return 0
	}
	return rt.maxConns
}

// serveConn handles one connection; a panic ends it alone.
func (p *Proxy) serveConn(c *conn) {
	defer p.running.Done()
	defer p.memory.Give(connectionReserve)
	defer p.conns.remove(c)
	defer p.account(c)
	defer c.cut()
	defer func() {
		if v := recover(); v != nil {
			p.counts.panics.Add(1)
			faulted(&c.record)
			p.log.Error("a connection handler panicked; the connection is closed, the rest goes on", "listener", listenerName(c.upstream), "panic", v)
		}
	}()
	rt := p.runtime.Load()
	switch u := rt.upstreams[c.upstream]; {
	case c.upstream == transparentID:
		p.servePassed(c)
	case c.direct != nil:
		p.serveDirect(c)
	case c.upstream == "" && rt.http != nil:
		p.serveInboundHTTP(c)
	case c.upstream == "":
		p.serveInbound(c)
	case u == nil && rt.exposed[c.upstream] != nil:
		p.hand(c, c.accepted(), serverExposed, false)
	case u != nil && u.http != nil:
		p.hand(c, c.accepted(), serverOutbound, u.http.h2)
	default:
		p.serveOutbound(c)
	}
}
