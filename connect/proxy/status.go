// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"cmp"
	"context"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// A Status is what a proxy does at one moment, for people and programs that
// watch it. Counts are since the proxy was made.
type Status struct {
	Snapshot uint64 `json:"snapshot"` // 0 while none is applied
	Inbound  InboundStatus
	// Transparent is nil unless in transparent mode.
	Transparent *TransparentStatus `json:",omitempty"`
	// Upstreams are in the order of the snapshot.
	Upstreams []UpstreamStatus
	// Refused counts connections that were not served, by reason; Attempts
	// counts failed tries at single endpoints.
	Refused   map[connect.Reason]int64
	Recent    []Refusal // the last few refusals that were logged, oldest first
	Attempts  map[connect.Reason]int64
	Ejections int64
	Retries   int64    // tries of HTTP requests after the first
	Problems  []string // what of the snapshot is not in force
	Probes    int64    // inbound connections that ended before a word was said
	Panics    int64
	// Memory is nil where nobody counts it.
	Memory *MemoryStatus `json:",omitempty"`
}

// TrafficStatus counts connections and their bytes. Sent is what the side that
// connected has sent.
type TrafficStatus struct {
	Active      int
	Connections int64
	Requests    int64 // of HTTP
	Sent        int64
	Received    int64
}

// InboundStatus is that of the inbound listener; Address is "" without one.
type InboundStatus struct {
	Address string
	Problem string // why there is no listener, "" when there is one
	Limit   int
	TrafficStatus
}

// UpstreamStatus is that of one upstream. Problem is "" when it is served.
type UpstreamStatus struct {
	ID      connect.UpstreamID
	Address string // "" for one without a listener
	// Implicit says that it is there because intentions allow it.
	Implicit   bool     `json:",omitempty"`
	VirtualIPs []string `json:",omitempty"` // that lead to it in transparent mode
	Active     int
	Limit      int
	Problem    string
	Targets    []TargetStatus
}

// TransparentStatus is that of the listener which connections are redirected to;
// traffic is that to outside the mesh. Address is "" without one.
type TransparentStatus struct {
	Address string
	Problem string // why there is no listener, "" when there is one
	// DestinationsOnly says that nothing is passed on to outside the mesh.
	DestinationsOnly bool
	VirtualIPs       int // that lead somewhere
	Direct           int // addresses of instances that are called as they are
	Limit            int // of connections to outside the mesh
	TrafficStatus
}

// TargetStatus is that of one target, in failover order.
type TargetStatus struct {
	ID  connect.TargetID
	SNI string
	// Through says what Endpoints are when they are not the target's instances:
	// `mesh gateways of datacenter "dc2"`.
	Through   string `json:",omitempty"`
	Endpoints []EndpointStatus
}

// EndpointStatus is that of one endpoint; NotUsed is "" when it gets traffic.
type EndpointStatus struct {
	ID          string
	Node        string
	Address     string
	Weight      int
	NotUsed     string
	Ejected     bool `json:",omitempty"` // that is why it is not used
	LastFailure string
	Active      int64
}

// Status reports what the proxy does. It returns the zero Status when the proxy
// does not run.
func (p *Proxy) Status(ctx context.Context) Status {
	var s Status
	err := p.do(ctx, func(context.Context) error {
		s = p.status(time.Now())
		return nil
	})
	if err != nil {
		return Status{}
	}
	return s
}

func (p *Proxy) status(now time.Time) Status {
	s := Status{
		Refused: values(p.counts.reasons), Recent: p.quiet.last(), Attempts: values(p.counts.attempts),
		Ejections: p.counts.ejections.Load(), Retries: p.counts.retries.Load(), Probes: p.counts.probes.Load(), Panics: p.counts.panics.Load(),
		Memory: p.memoryStatus(),
	}
	in := &p.counts.inbound
	s.Inbound.TrafficStatus = TrafficStatus{p.conns.active(""), in.connections.Load(), in.requests.Load(), in.sent.Load(), in.received.Load()}
	rt := p.runtime.Load()
	if rt == nil {
		return s
	}
	s.Snapshot, s.Inbound.Limit, s.Problems = rt.version, rt.maxConns, rt.problems
	addresses := make(map[connect.UpstreamID]string)
	for _, l := range p.listeners {
		addresses[l.upstream] = l.socket.Addr().String()
	}
	s.Inbound.Address, s.Inbound.Problem = addresses[""], text(p.unbound[""])
	if t := rt.transparent; t != nil {
		out := &p.counts.passed
		s.Transparent = &TransparentStatus{
			Address: addresses[transparentID], Problem: text(p.unbound[transparentID]), DestinationsOnly: t.only,
			VirtualIPs: len(t.virtual), Direct: len(t.direct), Limit: p.limitOf(rt, transparentID),
			TrafficStatus: TrafficStatus{p.conns.active(transparentID), out.connections.Load(), 0, out.sent.Load(), out.received.Load()},
		}
	}
	for _, configured := range rt.snapshot.Upstreams {
		u := rt.upstreams[configured.ID]
		s.Upstreams = append(s.Upstreams, UpstreamStatus{
			ID: u.id, Address: addresses[u.id], Active: p.conns.active(u.id), Limit: u.maxConns,
			Implicit: configured.Implicit, VirtualIPs: rt.virtualIPs(configured),
			Problem: cmp.Or(text(p.unbound[u.id]), u.problem), Targets: rt.targets(u, now),
		})
	}
	return s
}

// virtualIPs are nil unless in transparent mode.
func (rt *runtime) virtualIPs(u connect.Upstream) []string {
	if rt.transparent == nil {
		return nil
	}
	return addressTexts(rt.snapshot.VirtualIPs(u))
}

func (rt *runtime) targets(u *upstream, now time.Time) []TargetStatus {
	var out []TargetStatus
	for _, l := range u.everyLeg() {
		t := TargetStatus{ID: l.target.ID, SNI: l.target.SNI, Through: l.through}
		for i := range l.group.Entries() {
			entry := &l.group.Entries()[i]
			e := EndpointStatus{
				ID: entry.Endpoint.ID, Node: entry.Endpoint.Node, Address: entry.Endpoint.HostPort(), Weight: entry.Endpoint.Weight,
				LastFailure: entry.State.LastFailure(), Active: entry.State.Active(),
			}
			if entry.State.Ejected(now) {
				e.Ejected = true
				e.NotUsed = "ejected until " + entry.State.EjectedUntil().Format(time.RFC3339) + " after repeated failures"
			}
			t.Endpoints = append(t.Endpoints, e)
		}
		for _, e := range l.endpoints {
			if !e.Usable() {
				t.Endpoints = append(t.Endpoints, EndpointStatus{ID: e.ID, Node: e.Node, Address: e.HostPort(), Weight: e.Weight, NotUsed: e.Unusable})
			}
		}
		out = append(out, t)
	}
	return out
}

// everyLeg returns the legs of a TCP upstream, or one for each target that any
// request may go to.
func (u *upstream) everyLeg() []leg {
	if u.http == nil {
		return u.legs
	}
	var out []leg
	seen := make(map[connect.TargetID]bool)
	for _, d := range u.http.destinations {
		for _, l := range d.legs {
			if !seen[l.target.ID] {
				seen[l.target.ID] = true
				out = append(out, l)
			}
		}
	}
	return out
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// values reads counters, leaving out those that never counted.
func values(counts map[connect.Reason]*atomic.Int64) map[connect.Reason]int64 {
	out := make(map[connect.Reason]int64)
	for reason, n := range counts {
		if v := n.Load(); v > 0 {
			out[reason] = v
		}
	}
	return out
}
