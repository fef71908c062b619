// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package proxy is the data plane of one sidecar: listeners, connections and
// their end. It runs what a snapshot says and knows nothing of where snapshots
// come from.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/connect/limit"
	"github.com/outrider-mesh/outrider/connect/relay"
	"github.com/outrider-mesh/outrider/connect/wire"
)

// Limits bound what peers and applications can make the proxy hold.
type Limits struct {
	Inbound  int // connections to the inbound listener where the service sets no limit
	Outbound int // connections to one upstream where the upstream sets no limit
	Passed   int // connections to outside the mesh, in transparent mode
	// Handshake is the time a peer has from its connect to a proved identity.
	Handshake time.Duration
	// Idle and HalfClosed are as in [relay.Options].
	Idle       time.Duration
	HalfClosed time.Duration
	// Memory is what the proxy takes its share of; nil means that nobody counts
	// what is held.
	Memory *Memory
}

// DefaultLimits are the limits of a proxy that is told nothing else: those that
// Consul's documentation gives for Envoy where it has any.
func DefaultLimits() Limits {
	return Limits{Inbound: 20_000, Outbound: 1024, Passed: 8192, Handshake: 10 * time.Second, Idle: time.Hour, HalfClosed: 5 * time.Minute}
}

// A Proxy serves one local service. Make it with [New], then [Proxy.Run] it;
// Apply and Drain work while it runs.
type Proxy struct {
	log       hclog.Logger
	limits    Limits
	dialer    net.Dialer
	listen    net.ListenConfig
	sockets   Sockets // nil: it opens them itself
	registry  *balance.Registry
	clusters  clusters
	conns     conns
	counts    counters
	quiet     quiet
	buffers   bufferPool
	memory    *limit.Budget // nil: nobody counts
	hostname  string
	observers Observers
	own       own
	calls     calls
	original  func(net.Conn) (netip.AddrPort, error) // where a redirected connection was meant to go

	runtime  atomic.Pointer[runtime]
	commands chan command
	running  sync.WaitGroup // accept loops and connections
	stopped  chan struct{}  // closed when Run has begun to end

	// Owned by Run.
	drained   drained
	listeners map[bind]*listener
	unbound   map[connect.UpstreamID]error // listeners of the runtime that could not be bound
	servers   servers
	short     int64 // how often memory had been short at the last look
	wasShort  bool
}

// command is something that only Run's goroutine may do.
type command struct {
	do   func(ctx context.Context) error
	done chan error
}

// drained says which listeners have been closed for good.
type drained int

const (
	nothing drained = iota
	inboundListener
	everyListener
)

// ErrStopped is returned by calls on a proxy that no longer runs.
var ErrStopped = errors.New("the proxy has stopped")

// New returns a proxy that has no listener and serves nobody until a snapshot
// is applied.
func New(limits Limits, log hclog.Logger) *Proxy {
	p := &Proxy{
		log: log, limits: limits,
		registry:  balance.NewRegistry(),
		commands:  make(chan command),
		stopped:   make(chan struct{}),
		listeners: make(map[bind]*listener),
		original:  originalDestination,
		memory:    limits.Memory.part(),
	}
	// MPTCP, on by default for Go listeners, breaks socket options that
	// interception needs and gains nothing between proxies.
	p.listen.SetMultipathTCP(false)
	p.dialer.SetMultipathTCP(false)
	p.counts.init()
	p.conns.init()
	p.clusters.init(wireMemory(p.memory))
	p.calls.init()
	p.hostname, _ = os.Hostname() // only format commands ask for it
	return p
}

// Run serves until ctx ends. It then closes every listener and connection, and
// returns when all of it has ended, as it does when it panics: nobody may be
// served by a policy that nothing can change any more. Drain first for a gentle
// end. A proxy runs once.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.stop()
	p.limits.Memory.want(p.memory, 0)
	defer p.limits.Memory.leave(p.memory)
	sweep := time.NewTicker(poolSweep)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-sweep.C:
			p.clusters.sweep(now)
			p.noteShort()
		case c := <-p.commands:
			c.done <- c.do(ctx)
		}
	}
}

func (p *Proxy) stop() {
	close(p.stopped)
	for at, l := range p.listeners {
		l.close()
		delete(p.listeners, at)
	}
	p.conns.shut()
	p.servers.each((*wire.Server).Close)
	p.clusters.cut()
	p.running.Wait()
}

// do runs f in Run's goroutine, with Run's context.
func (p *Proxy) do(ctx context.Context, f func(context.Context) error) error {
	c := command{do: f, done: make(chan error, 1)}
	select {
	case p.commands <- c:
	case <-p.stopped:
		return ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("wait for the proxy to run: %w", ctx.Err())
	}
	select {
	case err := <-c.done:
		return err
	case <-p.stopped: // in the middle of f, by a panic
		return ErrStopped
	}
}

// Apply makes s what the proxy runs. Listeners that s no longer has stop
// accepting; their connections go on. Connections that s no longer allows are
// closed before Apply returns.
//
// A snapshot without leaf or trust bundle is an error, and the previous one
// keeps serving, untouched. A listener that cannot be bound is an error too, of
// type *[BindError], but must not hold back a withdrawn intention: the rest of
// s is in force then, and applying s again tries the listener again. ctx bounds
// only the wait for a proxy that does not run.
func (p *Proxy) Apply(ctx context.Context, s *connect.Snapshot) error {
	return p.do(ctx, func(ctx context.Context) error {
		before := p.runtime.Load()
		c := compiler{registry: p.registry, clusters: &p.clusters, dial: p, limits: p.limits, measure: p.observers.Set, before: before}
		next, err := c.compile(s)
		if err != nil {
			return fmt.Errorf("compile snapshot %d: %w", s.Version, err)
		}
		p.serveHTTP(next)
		p.limits.Memory.want(p.memory, s.Service.MaxMemory)
		opened := p.open(ctx, next)
		// Before anybody uses it: a cluster has its limits from the first request on,
		// and whoever still comes to one that is gone is served all the same.
		p.clusters.settle(next, before != nil && (before.snapshot.Leaf != s.Leaf || before.snapshot.Bundle != s.Bundle || !maps.Equal(before.snapshot.Peers, s.Peers)))
		p.own.on.Store(next.transparent != nil)
		p.runtime.Store(next)
		p.serve(ctx, opened)
		p.closeUnwanted(next.binds)
		p.registry.Retain(next.keys)
		p.observers.Set.Retain(func(id connect.UpstreamID) bool { return next.upstreams[id] != nil })
		p.recheck(next)
		p.recheckPassed(next)
		p.calls.keep(next.upstreams)
		p.complain(before, next)
		return p.bindErrors(s.Version)
	})
}

// recheck asks the new policy about every open inbound connection. A connection
// registers before it loads the runtime, so each is judged by the new policy
// either here or at its own start.
func (p *Proxy) recheck(rt *runtime) {
	for _, c := range p.conns.inbound() {
		if c.http.Load() {
			p.recheckRequests(c, rt)
			continue
		}
		id := c.peer.Load()
		if id == nil {
			continue
		}
		if d := rt.policy.Authorize(*id); !d.Allowed {
			p.refuse(d.Reason, "cut an open connection", "source", id.Label(), "intention", d.Intention(), "why", d.Why(), "snapshot", rt.version)
			c.cause.Store(&withdrawal{d.Reason, d.Why(), &d})
			c.sever()
		}
	}
}

// Inbound reports the address of the inbound listener, nil while there is none.
func (p *Proxy) Inbound(ctx context.Context) net.Addr {
	return p.addr(ctx, "")
}

// Outbound reports the address of the listener of an upstream, nil while there
// is none.
func (p *Proxy) Outbound(ctx context.Context, id connect.UpstreamID) net.Addr {
	return p.addr(ctx, id)
}

func (p *Proxy) addr(ctx context.Context, id connect.UpstreamID) (addr net.Addr) {
	_ = p.do(ctx, func(context.Context) error {
		for _, l := range p.listeners {
			if l.upstream == id {
				addr = l.socket.Addr()
			}
		}
		return nil
	})
	return addr
}

// Drain stops accepting inbound connections and waits until all connections
// have ended or ctx has; then it closes what is left, which it counts. Outbound
// listeners accept until the last inbound connection has ended: the application
// may need its upstreams to finish what it is doing. Drain leaves the proxy
// without listeners, whatever is applied during it or afterwards.
func (p *Proxy) Drain(ctx context.Context) (cut int) {
	p.shutListeners(ctx, inboundListener)
	p.part(ctx, p.servers.of(serverInbound))
	select {
	case <-p.conns.empty(directionInbound):
	case <-ctx.Done():
	}
	p.shutListeners(ctx, everyListener)
	p.part(ctx, p.servers.all())
	select {
	case <-p.conns.empty(directionAny):
	case <-ctx.Done():
	}
	return p.conns.cutAll(func(c *conn) {
		p.counts.refused(connect.Draining)
		c.cause.Store(&withdrawal{reason: connect.Draining, why: "the sidecar is ending, and the time to end by itself was up"})
	})
}

// shutListeners closes listeners for good. That waits for Run no longer than a
// moment, even if ctx has ended: closing them is what the end of a drain is for.
func (p *Proxy) shutListeners(ctx context.Context, which drained) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = p.do(ctx, func(context.Context) error {
		p.drained = max(p.drained, which)
		for at, l := range p.listeners {
			if p.isShut(l.upstream) {
				l.close()
				delete(p.listeners, at)
			}
		}
		return nil
	})
}

// isShut reports whether a drain has closed the listener for good.
func (p *Proxy) isShut(id connect.UpstreamID) bool {
	return p.drained == everyListener || (p.drained == inboundListener && id == "")
}

func (p *Proxy) relayOptions() relay.Options {
	return relay.Options{Idle: p.limits.Idle, HalfClosed: p.limits.HalfClosed, Memory: p.relayMemory()}
}

// Snapshot is the snapshot in force, nil before the first.
func (p *Proxy) Snapshot() *connect.Snapshot {
	rt := p.runtime.Load()
	if rt == nil {
		return nil
	}
	return rt.snapshot
}
