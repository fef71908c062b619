// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/mtls"
	"github.com/outrider-mesh/outrider/connect/relay"
)

// serveInbound brings one peer to the application: handshake, decision, dial,
// relay. Until the decision, the peer costs a socket and a goroutine, for no
// longer than the handshake's deadline.
func (p *Proxy) serveInbound(c *conn) {
	peer, id, ok := p.handshake(c)
	if !ok {
		return
	}
	c.peer.Store(&id)
	p.proved(c, id)
	rt := p.runtime.Load() // after the peer is known: see recheck
	d := rt.policy.Authorize(id)
	p.decided(rt, &c.record, d)
	if !d.Allowed {
		p.fail(&c.record, d.Reason, "denied a connection", "source", id.Label(), "intention", d.Intention(), "why", d.Why(), "snapshot", rt.version)
		return
	}
	c.record.Endpoint = rt.app.address
	application, err := p.dialApp(c, rt)
	if c.ctx.Err() != nil {
		return // cut meanwhile: who did it has said why
	}
	if err != nil {
		p.fail(&c.record, connect.AppUnreachable, "cannot reach the application", "source", id.Label(), "address", rt.app.address, "error", err)
		return
	}
	p.finish(c, relay.Copy(peer, application, p.relayOptions()), "source", id.Label())
}

func (p *Proxy) handshake(c *conn) (*relay.TLS, connect.Identity, bool) {
	socket := c.accepted()
	rt := p.runtime.Load()
	peer, err := relay.TLSServer(socket, rt.inbound)
	if err != nil {
		p.fail(&c.record, connect.RequestInvalid, "refused a peer", "error", err)
		return nil, connect.Identity{}, false
	}
	ctx, cancel := context.WithTimeout(c.ctx, p.limits.Handshake)
	defer cancel()
	err = peer.Handshake(ctx)
	if err == nil {
		state := peer.ConnectionState()
		p.shook(c, c.record.Start, state)
		var caller mtls.Caller
		if caller, err = rt.callers.Proved(state); err == nil && caller.IsGateway() {
			err = errGatewayOfTCP
		}
		if err == nil {
			return peer, caller.Identity, true
		}
	}
	p.unproved(c, err, peer.Heard())
	return nil, connect.Identity{}, false
}

func (p *Proxy) dialApp(c *conn, rt *runtime) (*relay.Plain, error) {
	ctx, cancel := context.WithTimeout(c.ctx, rt.app.timeout)
	defer cancel()
	socket, err := p.dialer.DialContext(ctx, rt.app.network, rt.app.address)
	if err != nil {
		return nil, err
	}
	if !c.attach(socket) {
		return nil, net.ErrClosed
	}
	return relay.NewPlain(socket)
}

var errGatewayOfTCP = &connect.PeerError{Reason: connect.IdentityMismatch, Err: errors.New("a mesh gateway calls in its own name, which it may for HTTP only")}

// finish records the end of a relay. How peers end their connections is their
// business: it is worth a debug line.
func (p *Proxy) finish(c *conn, result relay.Result, about ...any) {
	p.counts.relayed(c.upstream, result)
	c.relayed(result)
	if p.log.IsDebug() {
		p.log.Debug("connection ended", append(about, "sent", result.Sent, "received", result.Received, "error", result.Err)...)
	}
}

// timedOut reports whether an error is that of a deadline.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) || (errors.As(err, &timeout) && timeout.Timeout())
}
