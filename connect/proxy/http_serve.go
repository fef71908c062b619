// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/mtls"
	"github.com/outrider-mesh/outrider/connect/wire"
)

// serverKind is which handler a connection's requests go to.
type serverKind int

const (
	serverInbound serverKind = iota
	serverOutbound
	serverExposed
	serverKinds
)

// servers are the HTTP servers of a proxy, for each kind the one that takes new
// connections and those before it, which serve what they have. They are added
// to in Run's goroutine only.
type servers struct {
	mu      sync.Mutex
	current [serverKinds]served
	every   []served
}

type served struct {
	*wire.Server
	kind   serverKind
	header int // bytes of a request's header
}

func (s *servers) get(kind serverKind) *wire.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current[kind].Server
}

func (s *servers) of(kind serverKind) []*wire.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*wire.Server
	for _, server := range s.every {
		if server.kind == kind {
			out = append(out, server.Server)
		}
	}
	return out
}

func (s *servers) all() []*wire.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*wire.Server
	for _, server := range s.every {
		out = append(out, server.Server)
	}
	return out
}

func (s *servers) each(f func(*wire.Server)) {
	for _, server := range s.all() {
		f(server)
	}
}

func (s *servers) add(next served) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current[next.kind] = next
	s.every = append(s.every, next)
}

// again makes a server of before the current one: there are as many as there
// have been bounds, not as many as changes of them.
func (s *servers) again(kind serverKind, header int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, server := range s.every {
		if server.kind == kind && server.header == header {
			s.current[kind] = server
			return true
		}
	}
	return false
}

// serveHTTP has a server for every kind that the runtime needs, with its bound
// on headers.
func (p *Proxy) serveHTTP(rt *runtime) {
	need := [serverKinds]bool{serverInbound: rt.http != nil, serverExposed: len(rt.exposed) > 0}
	for _, u := range rt.upstreams {
		need[serverOutbound] = need[serverOutbound] || u.http != nil
	}
	handlers := [serverKinds]http.HandlerFunc{p.handleInbound, p.handleOutbound, p.handleExposed}
	for kind := range serverKinds {
		header := defaultHeader
		if kind == serverInbound {
			header = rt.maxHeader
		}
		if !need[kind] || p.servers.again(kind, header) {
			continue
		}
		server := wire.NewServer(wire.Options{
			MaxHeader: header, HeaderTimeout: p.limits.Handshake, Idle: p.limits.Idle, Handler: handlers[kind], Spent: isSpent,
			Log: p.log, Memory: wireMemory(p.memory),
		})
		p.servers.add(served{server, kind, header})
		p.running.Go(func() {
			if err := server.Run(); err != nil {
				p.log.Error("an HTTP server ended", "error", err)
			}
		})
	}
}

// hand gives a connection to the server of a kind, and returns when it and all
// its requests have ended.
// ahead says that HTTP/2 is to be expected.
func (p *Proxy) hand(c *conn, over net.Conn, kind serverKind, ahead bool) {
	c.http.Store(true)
	c.record.HTTP = true
	c.server = p.servers.get(kind)
	c.server.Serve(over, ahead, c)
	c.cancel()
	c.requests.end()
}

// isSpent is asked of a connection that waits for its next request.
func isSpent(about any) bool {
	c, ok := about.(*conn)
	return ok && c.spent.Load()
}

// connOf finds the connection of a request.
func connOf(r *http.Request) (*conn, bool) {
	c, ok := wire.About(r.Context()).(*conn)
	return c, ok
}

// serveInboundHTTP has a peer prove its identity; its requests are judged one by
// one.
func (p *Proxy) serveInboundHTTP(c *conn) {
	c.http.Store(true) // before the peer is known: see recheck
	c.record.HTTP = true
	socket := &heard{Conn: c.accepted()}
	rt := p.runtime.Load()
	peer := tls.Server(socket, rt.inbound)
	ctx, cancel := context.WithTimeout(c.ctx, p.limits.Handshake)
	defer cancel()
	err := peer.HandshakeContext(ctx)
	if err == nil {
		state := peer.ConnectionState()
		p.shook(c, c.record.Start, state)
		var caller mtls.Caller
		if caller, err = rt.callers.Proved(state); err == nil {
			// One caller has many connections, and the text is thousands of bytes.
			c.vouched = unique.Make(vouched(state.PeerCertificates)).Value()
			if caller.IsGateway() {
				c.gateway = &caller.Gateway
				c.record.Gateway = caller.Label()
			} else {
				c.peer.Store(&caller.Identity)
				p.proved(c, caller.Identity)
			}
			p.hand(c, peer, serverInbound, state.NegotiatedProtocol == "h2")
			return
		}
	}
	p.unproved(c, err, socket.any.Load())
}

// heard is a socket that knows whether the other side has said anything.
type heard struct {
	net.Conn
	any atomic.Bool
}

func (h *heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 && !h.any.Load() {
		h.any.Store(true)
	}
	return n, err
}

// parting is how long clients have to learn from a response that they should
// use another connection, before idle ones are closed under them.
const parting = time.Second

// part ends the connections of servers: by a word in each response first, then
// those that are idle, then as they become so.
func (p *Proxy) part(ctx context.Context, servers []*wire.Server) {
	if len(servers) == 0 {
		return
	}
	for _, s := range servers {
		s.Drain()
	}
	if p.conns.any() && !wait(ctx.Done(), parting) {
		return
	}
	for _, s := range servers {
		s.Shutdown(ctx)
	}
}

// complain says what of a snapshot is not in force, when that is news.
func (p *Proxy) complain(before, next *runtime) {
	for _, problem := range next.problems {
		if before == nil || !slices.Contains(before.problems, problem) {
			p.log.Warn("part of the configuration is not in force", "snapshot", next.version, "problem", problem)
		}
	}
}

// unproved says why a peer is not let in.
func (p *Proxy) unproved(c *conn, err error, spoke bool) {
	if !spoke && !timedOut(err) {
		// A connect without a word is how health checks see whether we listen.
		p.counts.probes.Add(1)
		c.probed = true
		p.log.Trace("probed", "peer", c.accepted().RemoteAddr())
		return
	}
	reason := connect.TLSFailed
	if untrusted, ok := errors.AsType[*connect.PeerError](err); ok {
		reason = untrusted.Reason
	}
	if c.record.TLS == nil { // else the handshake succeeded, and is counted so
		p.observers.Set.Shook(true, nil, reason, time.Since(c.record.Start))
	}
	p.fail(&c.record, reason, "refused a peer", "peer", c.accepted().RemoteAddr(), "error", err)
}
