// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"errors"
	"net/http"

	"github.com/outrider-mesh/outrider/connect"
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
	h1, h2  *wire.Pool
}

// handleInbound serves a request of a proved peer.
func (p *Proxy) handleInbound(w http.ResponseWriter, r *http.Request) {
	p.exchange(w, r, (*exchange).inbound)
}

func (x *exchange) inbound() {
	s, caller := x.rt.http, x.c.peer.Load()
	if s == nil || caller == nil {
		x.refuse(unready(connect.NotReady, "the service does not speak HTTP any more"))
		return
	}
	if x.r.Method == http.MethodConnect {
		x.refuse(invalid(http.StatusMethodNotAllowed, "CONNECT is not served"), "source", caller.Service)
		return
	}
	head := x.head()
	if !x.normal(s, &head) {
		return
	}
	x.judged.Store(&head)
	d := x.rt.policy.AuthorizeRequest(*caller, &head, x.began)
	if !d.Allowed {
		a := denied()
		a.reason = d.Reason
		x.refuse(a, "source", caller.Service, "intention", d.Intention(), "permission", d.Permission(), "why", d.Why())
		return
	}
	// A policy that came between loading the runtime and storing the head has
	// not seen this request: ask it here.
	if rt := x.p.runtime.Load(); rt != x.rt {
		if d, no := x.rejudge(rt, *caller); no {
			x.refuse(denied(), "source", caller.Service, "intention", d.Intention(), "why", d.Why())
			return
		}
	}
	x.timers.start(x.rt.appTimeout, x.rt.appIdle, x.cancel)
	if !x.heedDeadline(&head) || !x.shape(s, &head) {
		return
	}
	out := head
	out.Header = connect.Header(passOn(http.Header(head.Header)))
	d.Edit(&out)
	x.vouch(s, out.Header)
	x.upgradable(out.Header)
	x.toApp(s.app, out)
}

// normal brings the request into the form that is judged and sent on.
func (x *exchange) normal(s *httpService, head *connect.Head) bool {
	outcome := request.Normalize(s.normalize, head)
	switch outcome.Status {
	case 0:
		return true
	case http.StatusTemporaryRedirect:
		x.begin()
		x.w.Header().Set("Location", outcome.Location)
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
	resp, err := pool.RoundTrip(x.request(x.ctx))
	if err != nil {
		x.appFailed(err)
		return
	}
	keep := func(http.Header) {}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		x.switchProtocols(resp, keep)
		return
	}
	if err := x.respond(resp, keep); err != nil {
		x.broken(nil, nil, err)
	}
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
func (p *Proxy) recheckRequests(c *conn, id connect.Identity, rt *runtime) {
	c.requests.each(func(x *exchange) {
		if d, no := x.rejudge(rt, id); no && context.Cause(x.ctx) == nil {
			p.refuse(d.Reason, "cut an open request", "source", id.Service, "intention", d.Intention(), "why", d.Why(), "snapshot", rt.version)
			x.cancel(errDenied)
		}
	})
}

var errNoPeer = errors.New("the TLS handshake proved no identity")
