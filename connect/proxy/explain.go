// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"crypto/x509"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/explain"
)

// ExplainOutbound says what becomes of a call of the application: it asks the
// runtime in force what it would do, and changes nothing. Limits and ejections
// are those of this moment.
func (p *Proxy) ExplainOutbound(ctx context.Context, q explain.Question) explain.Outbound {
	rt := p.runtime.Load()
	if rt == nil {
		return explain.Outbound{Service: q.Source, Reason: connect.NotReady, Why: whyNoSnapshot}
	}
	v := view{rt: rt, now: time.Now(), live: p}
	v.listener = func(id connect.UpstreamID) (string, string, connect.Reason) { return p.listenerOf(ctx, id) }
	return v.outbound(q)
}

// ExplainInbound says what becomes of what comes to the service, in the same way.
func (p *Proxy) ExplainInbound(ctx context.Context, a explain.Arrival) explain.Inbound {
	rt := p.runtime.Load()
	if rt == nil {
		return explain.Inbound{Service: a.Service.Name, Reason: connect.NotReady, Why: whyNoSnapshot}
	}
	v := view{rt: rt, now: time.Now(), live: p}
	v.listener = func(id connect.UpstreamID) (string, string, connect.Reason) { return p.listenerOf(ctx, id) }
	return v.inbound(a)
}

const whyNoSnapshot = "the sidecar has not heard enough to serve anybody yet"

// listenerOf returns the address of a listener, or why there is none.
func (p *Proxy) listenerOf(ctx context.Context, id connect.UpstreamID) (address, problem string, reason connect.Reason) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	err := p.do(ctx, func(context.Context) error {
		for _, l := range p.listeners {
			if l.upstream == id {
				address = l.socket.Addr().String()
			}
		}
		switch {
		case p.isShut(id):
			problem, reason = "the sidecar is draining", connect.Draining
		case p.unbound[id] != nil:
			problem, reason = p.unbound[id].Error(), connect.NotReady
		}
		return nil
	})
	if err != nil {
		return "", "the sidecar does not run", connect.NotReady
	}
	return address, problem, reason
}

// Explained is a snapshot that nobody runs, made ready to be asked like a proxy.
type Explained struct{ rt *runtime }

// Explain makes a snapshot ready to be asked, with the code that makes proxies
// ready. Of its leaf only the identity and the end are looked at, and of the
// trust bundle only the trust domain: certificates and the key may be missing.
// now is where its limits in time are judged.
func Explain(s *connect.Snapshot) (*Explained, error) {
	p := New(DefaultLimits(), hclog.NewNullLogger())
	c := compiler{registry: p.registry, clusters: &p.clusters, dial: p, limits: p.limits}
	rt, err := c.compile(withLeaf(s))
	if err != nil {
		return nil, fmt.Errorf("compile snapshot %d: %w", s.Version, err)
	}
	p.clusters.settle(rt, false)
	return &Explained{rt}, nil
}

// withLeaf gives a snapshot without certificates one that proves nothing, which
// compiling needs to be there.
func withLeaf(s *connect.Snapshot) *connect.Snapshot {
	if s.Bundle == nil || (s.Leaf != nil && len(s.Leaf.Chain) > 0) {
		return s
	}
	out, leaf := *s, connect.Leaf{Identity: s.Service.Identity(s.Bundle.TrustDomain)}
	if s.Leaf != nil {
		leaf = *s.Leaf
	}
	leaf.Chain = []*x509.Certificate{{}}
	out.Leaf = &leaf
	return &out
}

// Outbound is [Proxy.ExplainOutbound] at now, without traffic and ejections.
func (e *Explained) Outbound(q explain.Question, now time.Time) explain.Outbound {
	v := view{rt: e.rt, now: now, listener: e.bound}
	return v.outbound(q)
}

// Inbound is [Proxy.ExplainInbound] at now, without traffic.
func (e *Explained) Inbound(a explain.Arrival, now time.Time) explain.Inbound {
	v := view{rt: e.rt, now: now, listener: e.bound}
	return v.inbound(a)
}

func (e *Explained) bound(id connect.UpstreamID) (address, problem string, reason connect.Reason) {
	for at, options := range e.rt.binds {
		if options.upstream == id {
			address = at.address
		}
	}
	return address, "", ""
}

// view is a runtime at one moment.
type view struct {
	rt   *runtime
	now  time.Time
	live *Proxy // nil: nobody runs it
	// listener returns the address of a listener, and why it cannot be used.
	listener func(id connect.UpstreamID) (address, problem string, reason connect.Reason)
}

// ownLeaf says why no handshake of ours succeeds; "" when they do.
func (v *view) ownLeaf() string { return text(leafEnded(v.rt.snapshot.Leaf, v.now)) }

// full says which limit on connections is reached; "" for none.
func (v *view) full(id connect.UpstreamID, limit int) string {
	if v.live == nil {
		return ""
	}
	if open := v.live.conns.active(id); open >= limit {
		return fmt.Sprintf("%d connections are open, of %d", open, limit)
	}
	return ""
}

func (v *view) caller(a explain.Arrival) connect.Identity {
	if a.Caller != nil {
		return *a.Caller
	}
	return a.Question.Caller(v.rt.snapshot.Service, v.rt.snapshot.Bundle.TrustDomain, v.rt.snapshot.Peers)
}

// byDefault is a setting that nothing was said of.
const byDefault = "default"

// setting tells a value that is configured at origin from one that is not.
func setting(name, value string, configured bool, origin string) explain.Setting {
	if !configured {
		origin = byDefault
	}
	return explain.Setting{Name: name, Value: value, Origin: origin}
}

func count(n int) string { return strconv.Itoa(n) }

func withoutQuery(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path
}
