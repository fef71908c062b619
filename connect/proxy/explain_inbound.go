// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"fmt"
	"maps"
	"net/http"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/explain"
	"github.com/outrider-mesh/outrider/connect/policy"
	"github.com/outrider-mesh/outrider/connect/request"
	"github.com/outrider-mesh/outrider/connect/route"
)

// inbound follows what comes to the service as serveInbound and exchange.inbound
// do, step by step.
func (v *view) inbound(a explain.Arrival) explain.Inbound {
	s := v.rt.snapshot
	caller := v.caller(a)
	in := explain.Inbound{
		Service: s.Service.Name, ProxyID: s.Service.ProxyID, Snapshot: v.rt.version, Protocol: s.Service.Protocol,
		Caller: caller.String(), Application: v.rt.app.address,
	}
	_, problem, reason := v.listener("")
	switch {
	case problem != "":
		in.Reason, in.Why = reason, problem
	case v.full("", v.rt.maxConns) != "":
		in.Reason, in.Why = connect.LimitExceeded, v.full("", v.rt.maxConns)
	case v.ownLeaf() != "":
		in.Reason, in.Why = connect.TLSFailed, v.ownLeaf()
	}
	stopped := in.Reason != ""
	if v.rt.http == nil {
		if a.Head != nil {
			in.Notes = append(in.Notes, "the service is not HTTP here: the connection is judged, and no request")
		}
		decide(&in, v.rt.policy.Authorize(caller), stopped)
	} else {
		v.judge(&in, a, caller, stopped)
	}
	in.Settings = v.inboundSettings()
	return in
}

// judge decides on a request.
func (v *view) judge(in *explain.Inbound, a explain.Arrival, caller connect.Identity, stopped bool) {
	head := a.Question.Head()
	if a.Head != nil {
		head = *a.Head
	} else {
		in.Notes = append(in.Notes, "the service is HTTP, which is judged by request: this is for "+head.Method+" "+withoutQuery(head.Path))
	}
	head.Header = maps.Clone(head.Header)
	if why := malformed(&head); why != "" {
		in.Reason, in.Why = connect.RequestInvalid, why
		return
	}
	switch outcome := request.Normalize(v.rt.http.normalize, &head); outcome.Status {
	case 0:
	case http.StatusTemporaryRedirect:
		in.Path = withoutQuery(head.Path)
		in.Notes = append(in.Notes, fmt.Sprintf("it is answered with 307 to %s, and is judged when it comes again: %s", withoutQuery(outcome.Location), outcome.Why))
		in.Allowed = !stopped
		return
	default:
		in.Reason, in.Why = connect.RequestInvalid, outcome.Why
		return
	}
	in.Path = withoutQuery(head.Path)
	decide(in, v.rt.policy.AuthorizeRequest(caller, &head, v.now), stopped)
	for i := range v.rt.http.shaping.spoil {
		if f := &v.rt.http.shaping.spoil[i]; f.match.Matches(&head) {
			in.Notes = append(in.Notes, fmt.Sprintf("faults are injected on purpose: %s are delayed by %s, %s answered with %d",
				explain.Percent(f.DelayMillionths/100), f.Delay, explain.Percent(f.AbortMillionths/100), f.AbortStatus))
			break
		}
	}
}

// decide fills in what the policy says. What stopped it before is the reason all
// the same.
func decide(in *explain.Inbound, d policy.Decision, stopped bool) {
	in.Intention, in.Precedence, in.Permission, in.Rule = d.Intention(), d.Precedence(), d.Permission(), d.Covering()
	if !stopped {
		in.Allowed, in.Reason, in.Why = d.Allowed, d.Reason, d.Why()
	}
	if in.Rule == nil {
		return
	}
	in.Tokens = explain.Tokens(in.Rule.JWT)
	for i, p := range in.Rule.Permissions {
		in.Permissions = append(in.Permissions, explain.Permission{
			Number: i + 1, Match: explain.Match(p.HTTP), Action: p.Action.String(), Tokens: explain.Tokens(p.JWT), Decides: i+1 == in.Permission,
		})
	}
}

func (v *view) inboundSettings() []explain.Setting {
	s := &v.rt.snapshot.Service
	const config = "the sidecar's configuration: "
	out := []explain.Setting{
		setting("connect timeout of the application", explain.Duration(v.rt.app.timeout), s.LocalConnectTimeout != route.DefaultConnectTimeout, config+"local_connect_timeout_ms"),
		setting("connections", count(v.rt.maxConns), s.MaxInboundConnections > 0, config+"max_inbound_connections"),
	}
	if v.rt.http == nil {
		return out
	}
	out = append(out,
		setting("response timeout", explain.Duration(v.rt.appTimeout), s.LocalRequestTimeout != 0, config+"local_request_timeout_ms"),
		setting("idle timeout", explain.Duration(v.rt.appIdle), s.LocalIdleTimeout != 0, config+"local_idle_timeout_ms"),
		setting("header bytes", count(v.rt.maxHeader), s.MaxRequestHeaders > 0, config+"max_request_headers_kb"),
	)
	if l := v.rt.http.shaping.limits; l.Rate > 0 || len(l.Routes) > 0 {
		out = append(out, setting("requests per second", fmt.Sprintf("%d, and %d limits by path; more are answered %s", l.Rate, len(l.Routes), connect.LimitExceeded), true, "service-defaults: rate_limits"))
	}
	if l := v.rt.http.shaping.limits; l.MaxBody > 0 {
		out = append(out, setting("body bytes", fmt.Sprint(l.MaxBody), true, "service-defaults: Meta"))
	}
	return out
}
