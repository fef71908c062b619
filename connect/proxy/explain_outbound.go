// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"slices"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/connect/explain"
	"github.com/outrider-mesh/outrider/connect/request"
	"github.com/outrider-mesh/outrider/connect/route"
)

// outbound follows a call of the application as serveOutbound and
// exchange.outbound do, step by step.
func (v *view) outbound(q explain.Question) explain.Outbound {
	s := v.rt.snapshot
	out := explain.Outbound{
		Service: s.Service.Name, ProxyID: s.Service.ProxyID, Snapshot: v.rt.version,
		Identity: s.Leaf.Identity.String(), Caller: s.Leaf.Identity,
	}
	configured, others := v.find(q.Destination)
	if configured == nil {
		out.Reason = connect.NoRoute
		out.Why = fmt.Sprintf("%s has no upstream %q: add it to the sidecar's upstreams", s.Service.Name, q.Destination)
		return out
	}
	u := v.rt.upstreams[configured.ID]
	out.Upstream = u.id
	out.Calls = connect.ServiceName{
		Name: configured.Name, Namespace: cmp.Or(configured.Namespace, s.Service.Namespace), Partition: cmp.Or(configured.Partition, s.Service.Partition),
	}
	if others > 0 {
		out.Notes = append(out.Notes, fmt.Sprintf("%d more upstreams lead to %s: name one by its ID", others, q.Destination))
	}
	if chain := s.Chains[u.id]; chain != nil {
		out.Protocol = chain.Protocol
	}
	out.Protocol = cmp.Or(configured.Protocol, out.Protocol)
	if v.refused(&out, u, configured) {
		return out
	}
	if u.http == nil {
		v.connection(&out, u, configured, q)
	} else {
		v.request(&out, u, configured, q)
	}
	return out
}

// find returns the upstream that a person means by its ID, by the name of its
// service or by that of its chain, and how many more would do.
func (v *view) find(name string) (*connect.Upstream, int) {
	all := v.rt.snapshot.Upstreams
	tests := []func(u *connect.Upstream) bool{
		func(u *connect.Upstream) bool { return string(u.ID) == name },
		func(u *connect.Upstream) bool { return u.Name == name || (u.Peer != "" && u.Peer+"/"+u.Name == name) },
		func(u *connect.Upstream) bool {
			c := v.rt.snapshot.Chains[u.ID]
			return c != nil && c.Service == name
		},
	}
	for _, test := range tests {
		var found *connect.Upstream
		n := 0
		for i := range all {
			if test(&all[i]) && v.rt.upstreams[all[i].ID] != nil {
				found = cmp.Or(found, &all[i])
				n++
			}
		}
		if found != nil {
			return found, n - 1
		}
	}
	return nil, 0
}

// refused looks at what stands before any decision on where to go.
func (v *view) refused(out *explain.Outbound, u *upstream, configured *connect.Upstream) bool {
	address, problem, reason := v.listener(u.id)
	if out.Listener = address; address == "" && configured.Implicit {
		out.Listener = "its virtual IPs, in transparent mode"
		address, problem, reason = v.listener(transparentID)
	}
	switch full := v.full(u.id, u.maxConns); {
	case u.problem != "":
		out.Reason, out.Why = u.reason, u.problem
	case problem != "":
		out.Reason, out.Why = reason, problem
	case address == "":
		out.Reason, out.Why = connect.NotReady, "it has no listener"
	case full != "":
		out.Reason, out.Why = connect.LimitExceeded, full
	}
	return out.Reason != ""
}

// connection is where a connection of TCP goes.
func (v *view) connection(out *explain.Outbound, u *upstream, configured *connect.Upstream, q explain.Question) {
	if q.HTTP() {
		out.Notes = append(out.Notes, "the upstream is not HTTP: method, path and header decide nothing")
	}
	w := explain.Way{Share: explain.Whole, Node: v.rt.snapshot.Chains[u.id].Start}
	v.follow(&w, configured, u.legs, nil)
	v.balance(&w, u, u.legs, configured)
	out.Ways = []explain.Way{w}
	out.Settings = []explain.Setting{
		setting("connections", count(u.maxConns), configured.MaxConnections >= 0, upstreamLimits),
		setting("idle timeout", explain.Duration(v.limits().Idle), false, ""),
	}
}

func (v *view) limits() Limits {
	if v.live != nil {
		return v.live.limits
	}
	return DefaultLimits()
}

// Where settings of upstreams come from.
const (
	upstreamLimits = "limits of the upstream's configuration"
	upstreamConfig = "the upstream's configuration"
	resolverConfig = "service-resolver"
)

// request is where a request goes.
func (v *view) request(out *explain.Outbound, u *upstream, configured *connect.Upstream, q explain.Question) {
	if !q.HTTP() {
		out.Notes = append(out.Notes, "the upstream is HTTP, which is judged by request: this is for GET /")
	}
	head := q.Head()
	if a, why := unfit(u.http, &head); why != "" {
		out.Reason, out.Why = a, why
		return
	}
	ways := u.http.table.Ways(&head)
	if len(ways) == 0 {
		out.Reason, out.Why = connect.NoRoute, "no route of the service-router matches"
		return
	}
	first := &ways[0].Choice
	chain := v.rt.snapshot.Chains[u.id]
	var rule *connect.ChainRoute
	if start := chain.Nodes[chain.Start]; first.Rule > 0 && first.Rule <= len(start.Routes) {
		rule = &start.Routes[first.Rule-1]
		out.Rule = &explain.Rule{Number: first.Rule, Of: len(start.Routes), Match: explain.Match(rule.Match)}
	}
	for i := range ways {
		out.Ways = append(out.Ways, v.way(u, configured, &ways[i], &head, rule))
	}
	if sent := withoutQuery(out.Ways[0].Arrives.Path); out.Rule != nil && sent != withoutQuery(head.Path) {
		out.Rule.Path = sent
	}
	out.Settings = requestSettings(first, rule, chain, configured)
}

// unfit is why a request is refused before it is routed, as wellFormed, normal
// and acceptable refuse it; "" when it is not.
func unfit(u *httpUpstream, head *connect.Head) (connect.Reason, string) {
	r := &http.Request{ProtoMajor: 2, Header: http.Header(head.Header)}
	x := &exchange{r: r, grpc: isGRPC(r)}
	a, bad := x.acceptable(u)
	switch why := malformed(head); {
	case head.Method == http.MethodConnect:
		return connect.RequestInvalid, whyConnect
	case why != "":
		return connect.RequestInvalid, why
	case request.Normalize(connect.Normalization{KeepPath: true}, head).Status != 0:
		return connect.RequestInvalid, request.Normalize(connect.Normalization{KeepPath: true}, head).Why
	case bad:
		return a.reason, a.body
	}
	return "", ""
}

// way is where one choice leads, with the request as it arrives there.
func (v *view) way(u *upstream, configured *connect.Upstream, chosen *route.Way, head *connect.Head, rule *connect.ChainRoute) explain.Way {
	w := explain.Way{Share: chosen.Share, Node: chosen.Choice.Node}
	chain := v.rt.snapshot.Chains[u.id]
	from := chain.Start
	if rule != nil {
		from = rule.Next
	}
	if chain.Nodes[from].Kind == connect.SplitterNode {
		w.Splitter = from
	}
	sent := *head
	sent.Header = maps.Clone(head.Header)
	delete(sent.Header, xfcc)
	chosen.Choice.EditRequest(&sent, &request.Facts{Request: head, Protocol: "HTTP/2", Start: v.now})
	delete(sent.Header, xfcc)
	w.Arrives = &sent
	d := &u.http.destinations[chosen.Choice.Destination]
	v.follow(&w, configured, d.legs, hashed(d, head))
	v.balance(&w, u, d.legs, configured)
	return w
}

// hashed is what a request is hashed to, nil when that is not known before it is
// sent: by the caller's address, or a cookie that is still to be made.
func hashed(d *destination, head *connect.Head) *uint64 {
	for i := range d.hash {
		if d.hash[i].SourceIP || d.hash[i].Cookie != nil {
			return nil
		}
	}
	key, ok, _ := request.HashKey(d.hash, head, netip.Addr{}, nil)
	if !ok {
		return nil
	}
	return &key
}

// follow goes through the targets in order to the first that can be used, as
// picker.next and Proxy.connect do.
func (v *view) follow(w *explain.Way, u *connect.Upstream, legs []leg, hash *uint64) {
	called := -1
	var chosen []*balance.Entry
	for i := range legs {
		if chosen = candidates(&legs[i], v, hash); len(chosen) > 0 {
			called = i
			break
		}
	}
	for i := range legs {
		t := v.target(&legs[i], i, u)
		if t.Called = i == called; t.Called {
			mark(t.Endpoints, chosen)
		}
		w.Targets = append(w.Targets, t)
	}
	if called < 0 {
		w.Reason, w.Why, w.Called = connect.NoHealthyEndpoint, noEndpointIn(legs), legs[0].target
		return
	}
	l := &legs[called]
	w.Called = l.target
	if w.Reason, w.Why = v.barred(l); w.Reason == "" {
		w.Target = l.target.ID
	}
}

// mark says which endpoints the request may go to.
func mark(all []explain.Endpoint, chosen []*balance.Entry) {
	for i := range all {
		e := &all[i]
		e.Chosen = e.Weight > 0 && slices.ContainsFunc(chosen, func(c *balance.Entry) bool { return c.Endpoint.HostPort() == e.Address })
	}
}

// candidates are the endpoints that the first try may go to.
func candidates(l *leg, v *view, hash *uint64) []*balance.Entry {
	if hash == nil || !l.group.Hashes() {
		return l.group.Candidates(v.now)
	}
	if e := l.group.PickHashed(v.now, *hash, nil); e != nil {
		return []*balance.Entry{e}
	}
	return nil
}

// barred is why a request to a target that has endpoints fails all the same.
func (v *view) barred(l *leg) (connect.Reason, string) {
	s := v.rt.snapshot
	expired := v.ownLeaf()
	switch {
	case l.cluster != nil && l.cluster.requests.Load() >= l.cluster.maxRequests.Load():
		return connect.LimitExceeded, fmt.Sprintf("%d requests to the target are under way, of %d", l.cluster.requests.Load(), l.cluster.maxRequests.Load())
	case expired != "":
		return connect.TLSFailed, expired
	case s.BundleOf(l.target) == nil:
		return connect.TLSFailed, "the roots of the endpoint are not known"
	case len(l.target.Accepts(s.Bundle.TrustDomain)) == 0:
		return connect.IdentityMismatch, "nothing is known of who the endpoint must be"
	}
	return "", ""
}
