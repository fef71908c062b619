// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/route"
	"github.com/outrider-mesh/outrider/connect/wire"
)

// picker finds the endpoint of each try.
type picker struct {
	x      *exchange
	d      *destination
	hash   uint64
	hashed bool
	tried  []*balance.Entry
}

// next returns an endpoint that has not been tried, of the first target that
// has one; when all have been, any usable one.
func (k *picker) next(now time.Time) (*leg, *balance.Entry) {
	for _, tried := range [][]*balance.Entry{k.tried, nil} {
		for i := range k.d.legs {
			if e := k.pick(&k.d.legs[i], now, tried); e != nil {
				k.tried = append(k.tried, e)
				return &k.d.legs[i], e
			}
		}
		if len(k.tried) == 0 {
			break
		}
	}
	return nil, nil
}

// untried reports whether there is an endpoint that has not been tried.
func (k *picker) untried(now time.Time) bool {
	for i := range k.d.legs {
		if k.pick(&k.d.legs[i], now, k.tried) != nil {
			return true
		}
	}
	return false
}

func (k *picker) pick(l *leg, now time.Time, tried []*balance.Entry) *balance.Entry {
	if k.hashed {
		return l.group.PickHashed(now, k.hash, tried)
	}
	return l.group.Pick(now, tried)
}

// try is one attempt and how it went: resp, or what it failed of.
type try struct {
	leg    *leg
	entry  *balance.Entry
	resp   *http.Response
	failed *failure
	kind   wire.Kind // of failed
	took   time.Duration
	end    func() // gives back what the attempt holds; to be called once
}

// try delivers the request, again where the route and the budget say so, and
// passes the response on.
func (x *exchange) try(u *upstream, choice *route.Choice, pick *picker, edit func(http.Header)) {
	held := false // one retry of the budget, for as long as this request retries
	defer func() {
		if held {
			u.http.budget.EndRetry()
		}
	}()
	for retries := 0; ; retries++ {
		t := x.attempt(u, pick)
		if t.failed != nil && x.ctx.Err() != nil {
			t.end()
			x.ended(context.Cause(x.ctx))
			return
		}
		asked, unsent := t.again(choice)
		again := asked && retries < choice.Retry.Attempts()
		elsewhere := unsent && retries < maxAttempts-1 && pick.untried(time.Now())
		if (again || elsewhere) && !held && x.deliver.body.replayable() {
			if held = u.http.budget.TryRetry(); !held {
				u.measure.BudgetSpent()
			}
		}
		if (!again && !elsewhere) || !held || !x.deliver.body.replayable() {
			x.conclude(u, t, edit)
			return
		}
		x.p.counts.retries.Add(1)
		t.drop()
		if !elsewhere && !wait(x.ctx.Done(), choice.Retry.Backoff(retries+1, rand.Float64())) {
			x.ended(context.Cause(x.ctx))
			return
		}
	}
}

// again reports whether the route asks for another attempt after this one.
// unsent means that nobody has seen the request, so that trying elsewhere is safe
// whatever the route says.
func (t *try) again(choice *route.Choice) (asked, unsent bool) {
	if t.failed == nil {
		h := connect.Header(t.resp.Header)
		code, _ := h.Lookup("Grpc-Status")
		return choice.Retry.OnStatus(t.resp.StatusCode, code, h), false
	}
	switch t.kind {
	case wire.DialFailed:
		return t.entry != nil && choice.Retry.OnFailure(route.ConnectFailure), t.entry != nil
	case wire.Refused:
		return choice.Retry.OnFailure(route.RefusedStream), false
	case wire.Reset:
		return choice.Retry.OnFailure(route.Reset), false
	}
	return false, false
}

func (t *try) drop() {
	if t.resp != nil {
		_ = t.resp.Body.Close()
	}
	t.end()
}

// attempt sends the request to one endpoint.
func (x *exchange) attempt(u *upstream, pick *picker) *try {
	t := &try{end: func() {}}
	now := time.Now()
	if t.leg, t.entry = pick.next(now); t.entry == nil {
		t.kind, t.failed = wire.DialFailed, &failure{connect.NoHealthyEndpoint, errors.New(noEndpointIn(pick.d.legs))}
		return t
	}
	if !t.leg.cluster.enter() {
		t.kind, t.failed = wire.Overflowed, &failure{connect.LimitExceeded, errors.New("the limit on concurrent requests is reached")}
		return t
	}
	t.entry.State.Begin()
	t.end = func() {
		t.entry.State.End()
		t.leg.cluster.leave()
	}
	x.facts.Upstream = t.entry.Endpoint.HostPort()
	resp, err := t.leg.pools[t.entry.State].RoundTrip(x.request(x.ctx)) //nolint:bodyclose // respond or drop closes it
	if err != nil {
		t.kind, t.failed = wireKind(err), failureOf(err)
	}
	t.resp, t.took = resp, time.Since(now)
	told := t.told(x.since(now), x.facts.Upstream)
	if t.failed != nil {
		told.Reason = x.tryEnded(told.Reason)
	}
	x.attempted(told, t.leg.measure)
	if !x.statusFollows(t) {
		x.observe(u, t)
	}
	return t
}

// told is the attempt in the words of the record.
func (t *try) told(began time.Duration, address string) flow.Try {
	out := flow.Try{Target: t.leg.target.ID, Endpoint: address, Start: began, Took: t.took}
	if t.failed != nil {
		out.Reason, out.Error = t.failed.reason, clipText(t.failed.Error())
	} else {
		out.Status, out.Peer = t.resp.StatusCode, t.leg.proved
	}
	return out
}

// onlyIdentity is the one identity that endpoints of a target may have, zero
// where there are several.
func onlyIdentity(t connect.Target, trustDomain string) connect.Identity {
	accepted := t.Accepts(trustDomain)
	if len(accepted) != 1 {
		return connect.Identity{}
	}
	u, err := url.Parse(accepted[0])
	if err != nil {
		return connect.Identity{}
	}
	id, err := connect.ParseIdentity(u)
	if err != nil {
		return connect.Identity{}
	}
	id.Peer = t.Peer
	return id
}

// statusFollows reports whether a gRPC response tells how it went only in its
// trailers.
func (x *exchange) statusFollows(t *try) bool {
	return t.failed == nil && x.grpc && t.resp.StatusCode == http.StatusOK && t.resp.Header["Grpc-Status"] == nil
}

// failureOf gives the error of a round trip its reason.
func failureOf(err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if wireKind(err) == wire.Overflowed {
		return &failure{connect.LimitExceeded, err}
	}
	return &failure{connect.StreamReset, err}
}

// observe tells the balancer how the endpoint did. What ended because the
// caller went away, or because of a limit of ours, says nothing about it.
func (x *exchange) observe(u *upstream, t *try) {
	outcome, cause := balance.Success, ""
	switch {
	case t.failed == nil:
		if code := grpcCode(t.resp); grpcFailed(code) {
			outcome, cause = balance.ServerError, "answered gRPC status "+code
		} else if t.resp.StatusCode >= 500 {
			outcome, cause = balance.ServerError, fmt.Sprintf("answered %d", t.resp.StatusCode)
		}
	case t.kind == wire.Overflowed:
		return
	case t.kind == wire.Ended && !errors.Is(context.Cause(x.ctx), errRequestTimeout):
		return
	default:
		outcome, cause = balance.LocalFailure, clipText(t.failed.Error())
		x.p.counts.attemptFailed(t.failed.reason)
	}
	if cause != "" {
		t.entry.State.Blame(cause)
	}
	for _, e := range t.leg.group.Observe(t.entry, time.Now(), t.took, outcome) {
		x.p.ejected(u, t.leg, e)
	}
}

// grpcCode is the status of a gRPC response, "" when it has none (yet).
func grpcCode(resp *http.Response) string {
	if code := resp.Header.Get("Grpc-Status"); code != "" {
		return code
	}
	return resp.Trailer.Get("Grpc-Status")
}

// grpcFailed reports whether a grpc-status speaks of a server that is not well:
// those that Envoy maps to 5xx.
func grpcFailed(code string) bool {
	switch code {
	case "2", "4", "12", "13", "14", "15":
		return true
	}
	return false
}

// conclude answers with what the last try brought.
func (x *exchange) conclude(u *upstream, t *try, edit func(http.Header)) {
	defer t.end()
	if t.failed != nil {
		x.refuse(answerTo(t.failed), "upstream", u.id, "endpoint", x.facts.Upstream, "error", t.failed)
		return
	}
	x.facts.Status = t.resp.StatusCode
	x.remember(t.resp.Header)
	if t.resp.StatusCode == http.StatusSwitchingProtocols {
		x.switchProtocols(t.resp, edit)
		return
	}
	later := x.statusFollows(t)
	if err := x.respond(t.resp, edit); err != nil {
		x.broken(u, t, err)
	}
	if later {
		x.observe(u, t)
	}
}

// broken handles a response that ended in its middle.
func (x *exchange) broken(u *upstream, t *try, err error) {
	_, gone := errors.AsType[*clientGone](err)
	switch {
	case errors.Is(x.why, errRequestTimeout), errors.Is(x.why, errCallerDeadline), errors.Is(x.why, errIdleTimeout):
		x.p.fail(&x.record, connect.RequestTimeout, "a response took too long", "listener", listenerName(x.c.upstream), "endpoint", x.facts.Upstream, "error", x.why)
	case x.why == nil && !gone:
		if u != nil {
			x.blame(u, t, err)
		}
		x.p.fail(&x.record, connect.StreamReset, "a response broke off", "listener", listenerName(x.c.upstream), "endpoint", x.facts.Upstream, "error", err)
	}
	x.withdrawn(x.why)
	x.gone = true
	panic(http.ErrAbortHandler)
}

func (x *exchange) blame(u *upstream, t *try, err error) {
	t.entry.State.Blame(clipText(err.Error()))
	for _, e := range t.leg.group.Observe(t.entry, time.Now(), 0, balance.LocalFailure) { // no time: its header came long ago
		x.p.ejected(u, t.leg, e)
	}
}

func answerTo(f *failure) answer {
	switch f.reason {
	case connect.NoHealthyEndpoint:
		return noEndpointUp()
	case connect.LimitExceeded:
		return overflowed()
	case connect.StreamReset:
		return unreachable(f.reason, "connection termination")
	case connect.ConnectTimeout:
		return unreachable(f.reason, "connection timeout")
	}
	return unreachable(f.reason, "connection failure")
}
