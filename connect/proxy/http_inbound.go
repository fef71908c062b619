// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/mtls"
	"github.com/outrider-mesh/outrider/connect/request"
	"github.com/outrider-mesh/outrider/connect/wire"
)

// httpService is the local service as one whose requests are told apart.
type httpService struct {
	protocol  connect.Protocol
	normalize connect.Normalization
	sanitize  bool // remove XFCC instead of adding to it
	identity  string
	shaping   *shaping
	app       *appPools
}

// appPools are the connections to the application, per version of HTTP.
type appPools struct {
	cluster *cluster
	address string // host:port, or a path
	h1, h2  *wire.Pool
}

// handleInbound serves a request of a proved peer.
func (p *Proxy) handleInbound(w http.ResponseWriter, r *http.Request) {
	p.exchange(w, r, (*exchange).inbound)
}

func (x *exchange) inbound() {
	s := x.rt.http
	if s == nil {
		x.refuse(unready(connect.NotReady, "the service does not speak HTTP any more"))
		return
	}
	head := x.head()
	if !x.wellFormed(&head) || !x.normal(s.normalize, &head) {
		return
	}
	if !x.identify(&head) {
		return
	}
	x.judged.Store(&head)
	d := x.rt.policy.AuthorizeRequest(x.caller, &head, x.began)
	x.p.decided(x.rt, &x.record, d)
	if !d.Allowed {
		a := denied()
		a.reason = d.Reason
		x.refuse(a, "source", x.caller.Label(), "intention", d.Intention(), "permission", d.Permission(), "why", d.Why())
		return
	}
	// A policy that came between loading the runtime and storing the head has
	// not seen this request: ask it here.
	if rt := x.p.runtime.Load(); rt != x.rt {
		if d, no := x.rejudge(rt); no {
			note(&x.record, d)
			a := denied()
			a.reason = d.Reason
			x.refuse(a, "source", x.caller.Label(), "intention", d.Intention(), "why", d.Why())
			return
		}
	}
	x.timers.start(x.rt.appTimeout, x.rt.appIdle, x.end)
	if !x.heedDeadline(&head) || !x.shape(s, &head) {
		return
	}
	out := head
	out.Header = maps.Clone(head.Header)
	d.Edit(&out)
	x.vouch(s, out.Header)
	x.toApp(s.app, out)
}

// identify finds out who calls: whoever the connection's certificate proves, or
// whom a mesh gateway vouches for.
func (x *exchange) identify(head *connect.Head) bool {
	if id := x.c.peer.Load(); id != nil {
		x.caller = *id
		return true
	}
	err, source := errNoPeer, "nobody"
	if g := x.c.gateway; g != nil {
		source = mtls.Caller{Gateway: *g}.Label()
		x.record.Gateway = source
		if x.caller, err = vouchedBy(*g, x.rt.callers, head.Header); err == nil {
			x.record.Source = x.caller
			return true
		}
	}
	a := denied()
	a.reason = connect.IdentityMismatch
	x.refuse(a, "source", source, "why", err)
	return false
}

// normal brings the request into the form that is judged and sent on.
func (x *exchange) normal(n connect.Normalization, head *connect.Head) bool {
	outcome := request.Normalize(n, head)
	if head.Path != x.record.Path {
		x.record.OriginalPath, x.record.Path = x.record.Path, head.Path
	}
	switch outcome.Status {
	case 0:
		return true
	case http.StatusTemporaryRedirect:
		x.begin()
		x.w.Header().Set("Location", outcome.Location)
		x.answered(outcome.Status)
		x.w.WriteHeader(outcome.Status)
	default:
		x.refuse(invalid(outcome.Status, http.StatusText(outcome.Status)), "why", outcome.Why)
	}
	return false
}

// toApp hands the request to the application and its answer back.
func (x *exchange) toApp(app *appPools, out connect.Head) {
	x.prepare(out, false)
	pool := app.h1
	if x.r.ProtoMajor == 2 && app.h2 != nil {
		pool = app.h2
	}
	now := time.Now()
	resp, err := pool.RoundTrip(x.request(x.ctx))
	t := flow.Try{Endpoint: app.address, Start: x.since(now), Took: time.Since(now)}
	if err != nil {
		t.Reason, t.Error = x.tryEnded(appReason(err)), clipText(err.Error())
		x.attempted(t, nil)
		x.appFailed(err)
		return
	}
	t.Status = resp.StatusCode
	x.attempted(t, nil)
	// The reason is for those of the mesh to give.
	keep := func(h http.Header) { delete(h, reasonHeader) }
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.switchProtocols(resp, keep)
		return
	}
	if err := x.respond(resp, keep); err != nil {
		x.broken(nil, nil, err)
	}
}

// appReason is what an attempt at the application failed of.
func appReason(err error) connect.Reason {
	switch wireKind(err) {
	case wire.Overflowed:
		return connect.LimitExceeded
	case wire.Reset, wire.Refused:
		return connect.StreamReset
	}
	return connect.AppUnreachable
}

func (x *exchange) appFailed(err error) {
	if x.ctx.Err() != nil {
		x.ended(context.Cause(x.ctx))
		return
	}
	a := unreachable(connect.AppUnreachable, "connection failure")
	switch wireKind(err) {
	case wire.Overflowed:
		a = overflowed()
	case wire.Reset, wire.Refused:
		a = unreachable(connect.StreamReset, "connection termination")
	}
	x.refuse(a, "error", err)
}

// recheckRequests asks a new policy about the requests under way of a
// connection.
func (p *Proxy) recheckRequests(c *conn, rt *runtime) {
	c.requests.each(func(x *exchange) {
		if d, no := x.rejudge(rt); no && context.Cause(x.ctx) == nil {
			p.refuse(d.Reason, "cut an open request", "source", x.caller.Label(), "intention", d.Intention(), "why", d.Why(), "snapshot", rt.version)
			x.end(&withdrawal{d.Reason, d.Why(), &d})
		}
	})
}

var errNoPeer = errors.New("the TLS handshake proved no identity")
