// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/relay"
)

// passTimeout bounds a connect to outside the mesh: that of Consul's own proxies
// to anything.
const passTimeout = 5 * time.Second

// whyLoop is what an operator reads when the redirect rules catch the sidecar
// itself.
const whyLoop = "it is the sidecar's own connection: the redirect rules must leave out the user that the sidecar runs as; set uid in transparent_proxy to that of the sidecar's task"

// redirected finds out where an accepted connection was meant to go, and makes
// it one of that upstream. It reports false, having said why, for one that goes
// nowhere.
func (p *Proxy) redirected(rt *runtime, c *conn) bool {
	from, local := c.addresses()
	to, err := p.original(c.accepted())
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	t := rt.transparent
	var f fate
	switch {
	case t == nil:
		f.why = whyNoMode
	case err != nil || to == netip.AddrPortFrom(local.Addr().Unmap(), local.Port()):
		// A kernel that does not track the connection knows no other destination.
		f.why = whyNotRedirected
	case p.own.has(from, to):
		f.why = whyLoop
	default:
		f = t.destine(from, to)
	}
	if f.why != "" {
		p.fail(&c.record, connect.NoRoute, "refused a redirected connection", "destination", to, "from", from, "why", f.why, "snapshot", rt.version)
		return false
	}
	c.to, c.direct = to, f.direct
	c.record.Endpoint = to.String()
	if f.upstream != nil {
		c.upstream = f.upstream.id
		c.record.Upstream, c.record.Direction = c.upstream, flow.Outbound
		p.calls.note(c.upstream)
	}
	return true
}

// servePassed relays a connection to where it was meant to go, outside the mesh.
func (p *Proxy) servePassed(c *conn) {
	rt := p.runtime.Load() // after c is registered: see recheckPassed
	if why := rt.transparent.forbids(); why != "" {
		p.fail(&c.record, connect.NoRoute, "refused a redirected connection", "destination", c.to, "why", why, "snapshot", rt.version)
		return
	}
	remote, failed := p.dialPassed(c)
	if c.ctx.Err() != nil {
		return // cut meanwhile: who did it has said why
	}
	if failed != nil {
		p.fail(&c.record, failed.reason, "cannot pass on a connection", "destination", c.to, "error", failed)
		c.sever() // as near as can be to what the application would have met by itself
		return
	}
	local, err := relay.NewPlain(c.accepted())
	if err != nil {
		p.fail(&c.record, connect.RequestInvalid, "refused a redirected connection", "destination", c.to, "error", err)
		return
	}
	p.finish(c, relay.Copy(local, remote, p.relayOptions()), "destination", c.to)
}

func (p *Proxy) dialPassed(c *conn) (*relay.Plain, *failure) {
	ctx, cancel := context.WithTimeout(c.ctx, passTimeout)
	defer cancel()
	socket, err := p.dialOut(ctx, c.to.String())
	if err != nil {
		return nil, connectFailure(fmt.Errorf("connect to %s: %w", c.to, err))
	}
	if !c.attach(socket) {
		return nil, &failure{connect.Draining, net.ErrClosed}
	}
	// By now, a dial of ours that led here is known to be ours.
	if from, _ := c.addresses(); p.own.has(from, c.to) {
		return nil, &failure{connect.NoRoute, fmt.Errorf("%s", whyLoop)}
	}
	remote, err := relay.NewPlain(socket)
	if err != nil {
		return nil, &failure{connect.ConnectFailed, err}
	}
	return remote, nil
}

// serveDirect brings a connection to the very instance whose address it was
// meant for.
func (p *Proxy) serveDirect(c *conn) {
	d := c.direct
	entry := &balance.Entry{Endpoint: &connect.Endpoint{Address: c.to.Addr().String(), Port: c.to.Port()}}
	began, l := time.Now(), &leg{tls: d.tls, timeout: d.timeout}
	remote, failed := p.connectTo(c, l, entry)
	c.attempted(l, entry, began, failed)
	if c.ctx.Err() != nil {
		return // cut meanwhile: who did it has said why
	}
	if failed != nil {
		p.fail(&c.record, failed.reason, "cannot reach an instance that is called directly", "upstream", c.upstream, "destination", c.to, "error", failed)
		return
	}
	local, err := relay.NewPlain(c.accepted())
	if err != nil {
		p.fail(&c.record, connect.RequestInvalid, "refused a connection", "upstream", c.upstream, "error", err)
		return
	}
	p.finish(c, relay.Copy(local, remote, p.relayOptions()), "upstream", c.upstream, "endpoint", c.to)
}

// recheckPassed ends connections to outside the mesh when that is forbidden. A
// connection registers before it loads the runtime, so each meets the new rule
// either here or at its own start.
func (p *Proxy) recheckPassed(rt *runtime) {
	why := rt.transparent.forbids()
	if why == "" {
		return
	}
	for _, c := range p.conns.of(transparentID) {
		p.refuse(connect.NoRoute, "cut an open connection", "destination", c.to, "why", why, "snapshot", rt.version)
		c.cause.Store(&withdrawal{reason: connect.NoRoute, why: why})
		c.sever()
	}
}

// dialOut makes a connection that leaves this host's applications alone: it must
// not be redirected to us again.
func (p *Proxy) dialOut(ctx context.Context, address string) (net.Conn, error) {
	socket, err := p.dialer.DialContext(ctx, "tcp", address)
	if err == nil {
		p.own.note(socket)
	}
	return socket, err
}
