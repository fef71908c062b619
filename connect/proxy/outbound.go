// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/connect/relay"
)

// maxAttempts bounds how many endpoints of one target a connection tries.
const maxAttempts = 3

// serveOutbound brings one connection of the application to an endpoint of its
// upstream.
func (p *Proxy) serveOutbound(c *conn) {
	rt := p.runtime.Load()
	u := rt.upstreams[c.upstream]
	if u == nil {
		p.fail(&c.record, connect.NoRoute, "refused a connection", "upstream", c.upstream, "why", "the upstream was removed")
		return
	}
	if u.problem != "" {
		p.fail(&c.record, u.reason, "refused a connection", "upstream", u.id, "why", u.problem, "snapshot", rt.version)
		return
	}
	local, err := relay.NewPlain(c.accepted())
	if err != nil {
		p.fail(&c.record, connect.RequestInvalid, "refused a connection", "upstream", u.id, "error", err)
		return
	}
	remote, entry, failed := p.connect(c, u)
	if c.ctx.Err() != nil {
		return // cut meanwhile: who did it has said why
	}
	if failed != nil {
		p.fail(&c.record, failed.reason, "cannot reach the upstream", "upstream", u.id, "error", failed, "snapshot", rt.version)
		return
	}
	entry.State.Begin()
	defer entry.State.End()
	p.finish(c, relay.Copy(local, remote, p.relayOptions()), "upstream", u.id, "endpoint", entry.Endpoint.HostPort())
}

// failure is why no endpoint could be connected to.
type failure struct {
	reason connect.Reason
	err    error
}

func (f *failure) Error() string { return f.err.Error() }

// connect tries endpoints leg by leg: within a target the next endpoint when
// one cannot be connected to, then the next target.
func (p *Proxy) connect(c *conn, u *upstream) (*relay.TLS, *balance.Entry, *failure) {
	last := &failure{connect.NoHealthyEndpoint, errors.New(noEndpointIn(u.legs))}
	for i := range u.legs {
		l := &u.legs[i]
		var tried []*balance.Entry
		for len(tried) < maxAttempts {
			entry := l.group.Pick(time.Now(), tried)
			if entry == nil {
				break
			}
			began := time.Now()
			remote, failed := p.connectTo(c, l, entry)
			c.attempted(l, entry, began, failed)
			if failed == nil {
				l.group.Succeeded(entry)
				return remote, entry, nil
			}
			if c.ctx.Err() != nil {
				return nil, nil, failed // we were cut: the endpoint is not to blame
			}
			last = failed
			tried = append(tried, entry)
			p.blame(u, l, entry, failed)
		}
	}
	return nil, nil, last
}

func (p *Proxy) blame(u *upstream, l *leg, entry *balance.Entry, failed *failure) {
	p.counts.attemptFailed(failed.reason)
	if l.group.Failed(entry, time.Now(), clipText(failed.Error())) {
		p.ejected(u, l, entry)
	}
}

func (p *Proxy) ejected(u *upstream, l *leg, entry *balance.Entry) {
	p.counts.ejections.Add(1)
	l.measure.Ejected()
	p.log.Warn("ejected an endpoint that keeps failing", "upstream", u.id, "target", l.target.ID, "endpoint", entry.Endpoint.HostPort(),
		"until", entry.State.EjectedUntil().Format(time.RFC3339), "error", entry.State.LastFailure())
}

func (p *Proxy) connectTo(c *conn, l *leg, entry *balance.Entry) (*relay.TLS, *failure) {
	address := entry.Endpoint.HostPort()
	ctx, cancel := context.WithTimeout(c.ctx, l.timeout)
	defer cancel()
	socket, err := p.dialOut(ctx, address)
	if err != nil {
		return nil, connectFailure(fmt.Errorf("connect to %s: %w", address, err))
	}
	if !c.attach(socket) {
		return nil, &failure{connect.Draining, net.ErrClosed}
	}
	remote, err := relay.TLSClient(socket, l.tls)
	if err != nil {
		return nil, connectFailure(err)
	}
	shake, cancelShake := context.WithTimeout(c.ctx, p.limits.Handshake)
	defer cancelShake()
	began := time.Now()
	if err := remote.Handshake(shake); err != nil {
		c.detach(socket)
		failed := handshakeFailure(fmt.Errorf("TLS with %s: %w", address, err))
		p.observers.Set.Shook(false, nil, failed.reason, time.Since(began))
		return nil, failed
	}
	state := remote.ConnectionState()
	p.observers.Set.Shook(false, &state, "", time.Since(began))
	return remote, nil
}

func connectFailure(err error) *failure {
	if timedOut(err) {
		return &failure{connect.ConnectTimeout, err}
	}
	return &failure{connect.ConnectFailed, err}
}

func handshakeFailure(err error) *failure {
	if untrusted, ok := errors.AsType[*connect.PeerError](err); ok {
		return &failure{untrusted.Reason, err}
	}
	return &failure{connect.TLSFailed, err}
}

// noEndpointIn says how many endpoints each target has, and why none will do.
func noEndpointIn(legs []leg) string {
	var text strings.Builder
	text.WriteString("no usable endpoint")
	for _, l := range legs {
		fmt.Fprintf(&text, "; target %s: %d usable in Consul", l.target.ID, l.group.Len())
		if l.through != "" {
			text.WriteString(", through " + l.through)
		}
		if l.group.Len() > 0 {
			text.WriteString(", all ejected after failures")
		} else if len(l.endpoints) > 0 {
			text.WriteString(": " + unusable(l.endpoints))
		}
	}
	return text.String()
}

// unusable says why each of the first endpoints is not used.
func unusable(endpoints []connect.Endpoint) string {
	const most = 4
	var reasons []string
	for _, e := range endpoints[:min(most, len(endpoints))] {
		reasons = append(reasons, e.HostPort()+": "+e.Unusable)
	}
	if more := len(endpoints) - most; more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(reasons, ", ")
}
