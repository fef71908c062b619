// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
	"github.com/outrider-mesh/outrider/connect/policy"
	"github.com/outrider-mesh/outrider/connect/relay"
)

// Observers are told what becomes of connections and requests. The zero value is
// nobody.
type Observers struct {
	Set    *measure.Set
	Tracer flow.Tracer // nil: requests are not followed
	Sinks  []flow.Sink
}

// Observe has the proxy tell o from now on. It must be called before the first
// [Proxy.Apply]: without a snapshot there is no traffic.
func (p *Proxy) Observe(o Observers) { p.observers = o }

// newRecord is the record of a connection or request that begins.
func (p *Proxy) newRecord(kind flow.Kind, rt *runtime, id connect.UpstreamID, began time.Time) flow.Record {
	r := flow.Record{Kind: kind, Start: began, RuleIndex: -1, Direction: directionOf(id)}
	if rt != nil {
		s := &rt.snapshot.Service
		r.Snapshot, r.Service, r.ProxyID = rt.version, s.Name, s.ProxyID
	}
	switch r.Direction {
	case flow.Outbound:
		r.Upstream = id
		fallthrough
	case flow.Passed:
		if rt != nil {
			r.Source = rt.self
		}
	}
	return r
}

// directionOf tells listeners apart by their IDs.
func directionOf(id connect.UpstreamID) flow.Direction {
	switch {
	case id == "":
		return flow.Inbound
	case id == transparentID:
		return flow.Passed
	case strings.HasPrefix(string(id), exposePrefix):
		return flow.Exposed
	}
	return flow.Outbound
}

// tell hands a finished record to everybody. Who faults on what a stranger has
// sent keeps nobody else from hearing of it, and ends no process.
func (p *Proxy) tell(r *flow.Record) {
	for _, s := range p.observers.Sinks {
		p.guarded(func() { s.Done(r) })
	}
}

// guarded lets a panic of an observer end at the observer.
func (p *Proxy) guarded(observe func()) {
	defer func() {
		if v := recover(); v != nil {
			p.counts.panics.Add(1)
			p.log.Error("what is told of the traffic panicked; the traffic is not concerned", "panic", v)
		}
	}()
	observe()
}

// begin fills what is known of a connection when it has been accepted.
func (c *conn) begin(p *Proxy, rt *runtime) {
	c.record = p.newRecord(flow.Connection, rt, c.upstream, time.Now())
	c.record.Downstream, c.record.DownstreamLocal = c.addresses()
	if c.to.IsValid() {
		c.record.Endpoint = c.to.String()
	}
}

// turnedAway ends the record of a connection that is not let in.
func (p *Proxy) turnedAway(c *conn) {
	c.record.Duration = time.Since(c.record.Start)
	p.observers.Set.Done(&c.record)
	p.tell(&c.record)
}

// letIn counts a connection of the application.
func (p *Proxy) letIn(c *conn, rt *runtime) {
	if u := rt.upstreams[c.upstream]; u != nil {
		c.measured = u.measure
		c.measured.Opened()
	}
}

// account ends the record of a connection that was let in. One that said nothing
// is none.
func (p *Proxy) account(c *conn) {
	r := &c.record
	if c.probed {
		return
	}
	if cut := c.cause.Load(); cut != nil && r.Reason == "" {
		cut.explain(r)
	}
	r.Duration = time.Since(r.Start)
	r.Requests = c.asked.Load()
	switch {
	case c.caller != nil:
		c.caller.Done(r)
	case c.measured != nil:
		c.measured.Done(r)
	default:
		p.observers.Set.Done(r)
	}
	p.tell(r)
}

// proved notes who calls.
func (p *Proxy) proved(c *conn, id connect.Identity) {
	c.record.Source = id
	c.caller = p.observers.Set.Peer(id)
	c.caller.Opened()
}

// shook notes a TLS handshake with who connected to us.
func (p *Proxy) shook(c *conn, began time.Time, state tls.ConnectionState) {
	c.record.Handshake = time.Since(began)
	c.record.TLS = facts(state)
	p.observers.Set.Shook(true, c.record.TLS, "", c.record.Handshake)
}

// facts are what is kept of a connection's TLS: certificates are large.
func facts(s tls.ConnectionState) *tls.ConnectionState {
	return &tls.ConnectionState{
		Version: s.Version, HandshakeComplete: s.HandshakeComplete, DidResume: s.DidResume, CipherSuite: s.CipherSuite,
		NegotiatedProtocol: s.NegotiatedProtocol, ServerName: s.ServerName, CurveID: s.CurveID,
	}
}

// relayed notes what a relay carried.
func (c *conn) relayed(result relay.Result) {
	c.record.Sent, c.record.Received = result.Sent, result.Received
}

// decided notes and counts what intentions say.
func (p *Proxy) decided(rt *runtime, r *flow.Record, d policy.Decision) {
	note(r, d)
	rt.rules.Decided(d.Rule(), d.Allowed)
}

func note(r *flow.Record, d policy.Decision) {
	r.Judged, r.Allowed, r.Intention, r.Precedence, r.Permission, r.RuleIndex = true, d.Allowed, d.Intention(), d.Precedence(), d.Permission(), d.Rule()
}

// A withdrawal is why something open was cut: the cause of its context's end.
type withdrawal struct {
	reason   connect.Reason
	why      string
	decision *policy.Decision // nil where no intention decided
}

func (w *withdrawal) Error() string { return w.why }

// Is makes every withdrawal errDenied.
func (w *withdrawal) Is(target error) bool { return target == errDenied }

func (w *withdrawal) explain(r *flow.Record) {
	r.Reason, r.Why = w.reason, w.why
	if w.decision != nil {
		note(r, *w.decision)
	}
}

// fail counts why a connection or request is not served, says so in the log and
// in its record. The first reason is the one.
func (p *Proxy) fail(r *flow.Record, reason connect.Reason, what string, about ...any) {
	if r.Reason == "" {
		r.Reason, r.Why = reason, clipText(sentence(what, clip(about)))
	}
	p.refuse(reason, what, about...)
}

// faulted notes that what was to serve has panicked: there is no word of its own
// for what must not happen.
func faulted(r *flow.Record) {
	if r.Reason == "" {
		r.Reason, r.Why = connect.StreamReset, "a fault of this program ended it; the log says more"
	}
}

// introduce fills what a request says, before anything is decided on it.
func (x *exchange) introduce() {
	x.record = x.p.newRecord(flow.Request, x.rt, x.c.upstream, x.began)
	r, of := &x.record, &x.c.record
	r.Downstream, r.DownstreamLocal, r.TLS, r.Handshake = of.Downstream, of.DownstreamLocal, of.TLS, of.Handshake
	if r.Direction == flow.Inbound {
		r.Source = of.Source
	}
	r.Method, r.Authority, r.Protocol, r.GRPC = x.r.Method, x.r.Host, protocolName(x.r), x.grpc
	r.Path, r.RequestHeader = x.target(), connect.Header(x.r.Header)
	r.Tries = x.tries[:0]
	x.c.asked.Add(1)
	if tracer := x.p.observers.Tracer; tracer != nil {
		if x.span = tracer.Begin(r, r.RequestHeader); x.span != nil {
			r.TraceID, r.SpanID = x.span.IDs()
		}
	}
}

// account ends the record of a request.
func (x *exchange) account() {
	r := &x.record
	r.Duration = time.Since(x.began)
	r.Sent, r.Received = x.uploadedBytes.Load(), x.downloadedBytes.Load()
	if r.Status > 0 {
		r.ResponseHeader = connect.Header(x.w.Header())
	}
	if cut := x.c.cause.Load(); cut != nil && r.Reason == "" && (r.Status == 0 || x.gone) {
		cut.explain(r)
	}
	x.blameRemote()
	x.blameEnd()
	r.Gone = r.Reason == "" && (r.Status == 0 || x.gone)
	switch {
	case x.caller.Service != "" && x.c.gateway != nil:
		x.p.observers.Set.Peer(x.caller).Done(r)
	case x.c.caller != nil:
		x.c.caller.Done(r)
	case x.rt != nil && x.rt.upstreams[x.c.upstream] != nil:
		x.rt.upstreams[x.c.upstream].measure.Done(r)
	default:
		x.p.observers.Set.Done(r)
	}
	if x.span != nil {
		x.p.guarded(func() { x.span.End(r) })
	}
	x.p.tell(r)
}

// blameEnd finds the reason of an exchange that was ended from within at a moment
// when nobody could say so: between a response and its header, or when the body of
// the request turned out too large after it. Without one, the caller has left.
func (x *exchange) blameEnd() {
	r, cause := &x.record, context.Cause(x.ctx)
	if r.Reason != "" || (r.Status > 0 && !x.gone) || errors.Is(cause, errBadBody) {
		return
	}
	x.withdrawn(cause)
	if reason := x.tryEnded(""); r.Reason == "" && reason != "" {
		x.p.fail(r, reason, "ended a request", "listener", listenerName(x.c.upstream), "error", cause)
	}
}

// blameRemote takes over the reason that the sidecar of the other side gives. Who
// that is, TLS has proved.
func (x *exchange) blameRemote() {
	r := &x.record
	if r.Direction != flow.Outbound || r.Reason != "" {
		return
	}
	said := connect.Reason(x.remoteReason)
	if said != "" && slices.Contains(connect.Reasons(), said) {
		r.Reason, r.Remote = said, true
		r.Why = "the sidecar of the other side says so; its own log and status have the rest"
	}
}

// attempted notes how one try went, for everybody.
func (x *exchange) attempted(t flow.Try, target *measure.Target) {
	r := &x.record
	target.Tried(&t, x.deliver.tries > 1)
	r.Target, r.Endpoint, r.Retries = t.Target, t.Endpoint, max(0, x.deliver.tries-1)
	if len(r.Tries) < flow.MaxTries {
		r.Tries = append(r.Tries, t)
	}
	if x.endTry != nil {
		x.endTry(&t)
		x.endTry = nil
	}
}

// attempted notes how one try went.
func (c *conn) attempted(l *leg, entry *balance.Entry, began time.Time, failed *failure) {
	r := &c.record
	t := flow.Try{Target: l.target.ID, Endpoint: entry.Endpoint.HostPort(), Start: began.Sub(r.Start), Took: time.Since(began)}
	if failed != nil {
		t.Reason, t.Error = failed.reason, clipText(failed.Error())
		if c.ctx.Err() != nil {
			t.Reason = "" // we were cut: that is no fault of whoever was tried
		}
	}
	l.measure.Tried(&t, len(r.Tries) > 0)
	r.Target, r.Endpoint, r.Retries = t.Target, t.Endpoint, len(r.Tries)
	if len(r.Tries) < flow.MaxTries {
		r.Tries = append(r.Tries, t)
	}
}

// tryEnded is why an attempt has no response whose exchange has been ended: that
// is no fault of whoever was tried.
func (x *exchange) tryEnded(reason connect.Reason) connect.Reason {
	cause := context.Cause(x.ctx)
	switch {
	case cause == nil:
		return reason
	case errors.Is(cause, errRequestTimeout), errors.Is(cause, errCallerDeadline), errors.Is(cause, errIdleTimeout):
		return connect.RequestTimeout
	case errors.Is(cause, errDenied):
		return connect.IntentionDenied
	case errors.Is(cause, errLargeBody):
		return connect.LimitExceeded
	case errors.Is(cause, errBadBody):
		return connect.RequestInvalid
	}
	return "" // the caller has left
}

// answered notes that the header of the response goes out.
func (x *exchange) answered(status int) {
	x.record.Status, x.record.FirstByte = status, time.Since(x.began)
}

// withdrawn takes over the reason of whoever ended the exchange from without.
func (x *exchange) withdrawn(cause error) {
	if w, ok := errors.AsType[*withdrawal](cause); ok && x.record.Reason == "" {
		w.explain(&x.record)
	}
}

// since is when something began, for a try.
func (x *exchange) since(t time.Time) time.Duration { return t.Sub(x.began) }

// remember keeps the reason of the other side before the header is edited.
func (x *exchange) remember(h http.Header) {
	if values := h[reasonHeader]; len(values) == 1 {
		x.remoteReason = values[0]
	}
}
