// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"fmt"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/explain"
	"github.com/outrider-mesh/outrider/connect/route"
)

// target is a leg with its endpoints and why each is or is not used.
func (v *view) target(l *leg, position int, u *connect.Upstream) explain.Target {
	s := v.rt.snapshot
	t := explain.Target{
		ID: l.target.ID, Service: l.target.Service, Subset: l.target.Subset, Filter: l.target.Filter,
		Datacenter: l.target.Datacenter, Peer: l.target.Peer, Failover: position,
		SNI: l.target.SNI, Expects: l.target.Accepts(s.Bundle.TrustDomain), Through: l.through,
		Endpoints: v.endpoints(l),
	}
	t.Connect = setting("connect timeout", explain.Duration(l.timeout), true, connectOrigin(l, u))
	return t
}

func (v *view) endpoints(l *leg) []explain.Endpoint {
	var out []explain.Endpoint
	for i := range l.group.Entries() {
		entry := &l.group.Entries()[i]
		e := explain.Endpoint{
			ID: entry.Endpoint.ID, Node: entry.Endpoint.Node, Address: entry.Endpoint.HostPort(), Weight: entry.Endpoint.Weight,
			LastFailure: entry.State.LastFailure(),
		}
		if entry.State.Ejected(v.now) {
			e.NotUsed = "ejected until " + entry.State.EjectedUntil().Format(time.RFC3339) + " after repeated failures"
		}
		out = append(out, e)
	}
	for _, e := range l.endpoints {
		if !e.Usable() {
			out = append(out, explain.Endpoint{ID: e.ID, Node: e.Node, Address: e.HostPort(), NotUsed: orWords(e.Unusable, "it has no weight")})
		}
	}
	return out
}

func orWords(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

// connectOrigin says where the timeout of a leg comes from. Consul writes its
// default into every target, so that one of that length is none.
func connectOrigin(l *leg, u *connect.Upstream) string {
	switch {
	case u.ConnectTimeout > 0:
		return upstreamConfig + ": connect_timeout_ms"
	case l.timeout != route.DefaultConnectTimeout:
		return resolverConfig + ": connect_timeout"
	}
	return byDefault
}

// balance says how one endpoint of the target in use is chosen.
func (v *view) balance(w *explain.Way, u *upstream, legs []leg, configured *connect.Upstream) {
	if len(legs) == 0 {
		return
	}
	origin := byDefault
	n := v.rt.snapshot.Chains[u.id].Nodes[w.Node]
	switch {
	case n.Resolver != nil && n.Resolver.LoadBalancer.Policy != "":
		origin = resolverConfig + ": load_balancer"
	case configured.Balance != "":
		origin = upstreamConfig + ": outrider_lb"
	}
	w.Balance = explain.Setting{Name: "balancing", Value: legs[0].group.Policy(), Origin: origin}
}

// requestSettings are the limits of a request, with where each comes from.
func requestSettings(c *route.Choice, rule *connect.ChainRoute, chain *connect.Chain, u *connect.Upstream) []explain.Setting {
	timed, idle, retried, origin := false, false, false, ""
	switch start := chain.Nodes[chain.Start]; {
	case rule != nil:
		origin = fmt.Sprintf("route %d of the service-router", c.Rule)
		timed, idle, retried = rule.RequestTimeout != 0, rule.IdleTimeout != 0, c.Retry.Enabled()
	case start.Resolver != nil:
		origin = resolverConfig + ": request_timeout"
		timed = start.Resolver.RequestTimeout != 0
	}
	retries := "none, but for endpoints that cannot be connected to"
	if c.Retry.Enabled() {
		retries = fmt.Sprintf("%d, within a share of the requests under way", c.Retry.Attempts())
	}
	return []explain.Setting{
		setting("request timeout", explain.Duration(c.Timeout), timed, origin),
		setting("idle timeout", explain.Duration(c.Idle), idle, origin),
		setting("retries", retries, retried, origin),
		setting("connections to a target", count(orDefaultLimit(u.MaxConnections)), u.MaxConnections >= 0, upstreamLimits),
		setting("waiting requests", count(orDefaultLimit(u.MaxPending)), u.MaxPending >= 0, upstreamLimits),
		setting("requests under way", count(orDefaultLimit(u.MaxRequests)), u.MaxRequests >= 0, upstreamLimits),
	}
}
