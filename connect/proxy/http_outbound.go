// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"cmp"
	crand "crypto/rand"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/request"
	"github.com/outrider-mesh/outrider/connect/retry"
	"github.com/outrider-mesh/outrider/connect/route"
)

// httpUpstream is an upstream whose requests are told apart.
type httpUpstream struct {
	table        *route.Table
	destinations []destination
	budget       *retry.Budget
	h2           bool // spoken to in HTTP/2
}

// destination is where one resolver leads: its target, then its failover
// targets.
type destination struct {
	legs []leg
	hash []connect.HashPolicy
}

// handleOutbound serves a request of the local application.
func (p *Proxy) handleOutbound(w http.ResponseWriter, r *http.Request) {
	p.exchange(w, r, (*exchange).outbound)
}

func (x *exchange) outbound() {
	u := x.rt.upstreams[x.c.upstream]
	switch {
	case u == nil:
		x.refuse(unready(connect.NoRoute, "the upstream was removed"))
		return
	case u.problem != "":
		x.refuse(unready(u.reason, u.problem), "why", u.problem)
		return
	case u.http == nil:
		x.refuse(unready(connect.NoRoute, "the upstream is not HTTP any more"))
		return
	}
	head := x.head()
	// The next hop normalises for itself: what is no path is refused, and the
	// rest stays as it is.
	if !x.wellFormed(&head) || !x.normal(connect.Normalization{KeepPath: true}, &head) {
		return
	}
	if a, bad := x.acceptable(u.http); bad {
		x.refuse(a)
		return
	}
	choice, ok := u.http.table.Route(&head, rand.Uint32N(route.Draws))
	if !ok {
		x.refuse(noRoute())
		return
	}
	x.record.Node, x.record.Rule = choice.Node, choice.Rule
	x.timers.start(choice.Timeout, choice.Idle, x.end)
	if !x.heedDeadline(&head) {
		return
	}
	x.send(u, &choice, head)
}

// acceptable refuses what cannot be sent on over the mesh.
func (x *exchange) acceptable(u *httpUpstream) (answer, bool) {
	switch {
	case u.h2 && x.upgrade:
		return invalid(http.StatusNotImplemented, "this upstream is spoken to in HTTP/2, which cannot upgrade: set its service's protocol to http"), true
	case x.r.ProtoMajor < 2 && isGRPC(x.r):
		return invalid(http.StatusHTTPVersionNotSupported, "gRPC needs HTTP/2"), true
	case x.grpc && !u.h2:
		return invalid(http.StatusNotImplemented, "gRPC needs an upstream whose service has protocol grpc or http2"), true
	}
	return answer{}, false
}

// send prepares the request and has it delivered.
func (x *exchange) send(u *upstream, choice *route.Choice, head connect.Head) {
	original := head
	out := head
	out.Header = maps.Clone(head.Header)
	delete(out.Header, xfcc)
	x.facts = x.describe(&original)
	choice.EditRequest(&out, &x.facts)
	delete(out.Header, xfcc) // a router may not vouch for anybody either
	if out.Path != x.record.Path {
		x.record.OriginalPath, x.record.Path = cmp.Or(x.record.OriginalPath, x.record.Path), out.Path
	}
	x.facts.Request = &out
	x.prepare(out, choice.Retry.Enabled())
	u.http.budget.Begin()
	defer u.http.budget.End()
	var cookie string
	pick := picker{x: x, d: &u.http.destinations[choice.Destination]}
	if pick.hashed = len(pick.d.hash) > 0; pick.hashed {
		pick.hash, pick.hashed, cookie = request.HashKey(pick.d.hash, &original, x.facts.Downstream.Addr(), freshCookie)
	}
	x.try(u, choice, &pick, func(h http.Header) {
		if cookie != "" {
			h.Add("Set-Cookie", cookie)
		}
		x.facts.Response = connect.Header(h)
		choice.EditResponse(connect.Header(h), &x.facts)
	})
}

// freshCookie is the value of a generated cookie.
func freshCookie() string {
	return crand.Text()
}

// describe gathers what format commands may ask for.
func (x *exchange) describe(head *connect.Head) request.Facts {
	f := request.Facts{Start: x.began, Request: head, Protocol: protocolName(x.r)}
	f.Downstream, f.DownstreamLocal = x.c.addresses()
	if id := x.c.peer.Load(); id != nil {
		f.Peer = *id
	}
	f.Hostname = x.p.hostname
	return f
}

func protocolName(r *http.Request) string {
	if r.ProtoMajor == 2 {
		return "HTTP/2"
	}
	return strings.ToUpper(r.Proto)
}
