// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import "fmt"

// The modes of mesh gateways (Consul, mesh gateways: modes). Any other, and
// none, means that instances are called directly.
const (
	GatewayLocal  = "local"  // through the gateways of the caller's datacenter
	GatewayRemote = "remote" // through those of the target's
)

// GatewayIn names the datacenter whose mesh gateways are called instead of the
// target's instances, by a caller in datacenter local; "" means that instances
// are. What a peer says of its services are its gateways already.
func (t Target) GatewayIn(local string) string {
	switch {
	case t.Query || t.External:
		return ""
	case t.Peer != "":
		if t.MeshGateway == GatewayLocal {
			return local
		}
		return ""
	case t.Datacenter == "" || t.Datacenter == local:
		return ""
	case t.MeshGateway == GatewayLocal:
		return local
	case t.MeshGateway == GatewayRemote:
		return t.Datacenter
	}
	return ""
}

// Reach returns what is called for a target, and in words through what, "" when
// that is its instances. Mesh gateways take the place of instances that cannot
// be called from here, for as long as one of those is usable: gateways pass on
// TLS and have no say in whether the service is well (Consul, mesh gateways).
//
// It puts together what the snapshot keeps apart, because one target may be
// called directly by one upstream and through gateways by another.
func (s *Snapshot) Reach(t Target) (endpoints []Endpoint, through string) {
	endpoints = s.Endpoints[t.ID]
	in := t.GatewayIn(s.Service.Datacenter)
	if in != "" {
		through = fmt.Sprintf("mesh gateways of datacenter %q", in)
	}
	if t.Peer != "" {
		if problem := s.peerProblem(t.Peer); problem != "" {
			return unusable(endpoints, t.Peer, problem), through
		}
	}
	if in == "" || !anyUsable(endpoints) {
		return endpoints, through
	}
	gateways := s.Gateways[in]
	if len(gateways) == 0 {
		return unusable(nil, in, fmt.Sprintf("no mesh gateway is registered in datacenter %q", in)), through
	}
	return gateways, through
}

func (s *Snapshot) peerProblem(name string) string {
	switch p, known := s.Peers[name]; {
	case !known:
		return fmt.Sprintf("the trust bundle of peer %q has not been heard of yet", name)
	case p.Problem != "":
		return p.Problem
	case p.Bundle == nil:
		return fmt.Sprintf("peer %q has no trust bundle", name)
	}
	return ""
}

// BundleOf returns the roots that endpoints of a target must chain to, nil when
// they are not known.
func (s *Snapshot) BundleOf(t Target) *TrustBundle {
	if t.Peer == "" {
		return s.Bundle
	}
	if p := s.Peers[t.Peer]; p.Proves() {
		return p.Bundle
	}
	return nil
}

func anyUsable(endpoints []Endpoint) bool {
	for _, e := range endpoints {
		if e.Usable() {
			return true
		}
	}
	return false
}

// unusable are the endpoints with a reason why none will do; without any it is
// one that carries the reason.
func unusable(endpoints []Endpoint, id, reason string) []Endpoint {
	if len(endpoints) == 0 {
		return []Endpoint{{ID: id, Unusable: reason}}
	}
	out := make([]Endpoint, len(endpoints))
	for i, e := range endpoints {
		if e.Unusable == "" {
			e.Unusable = reason
		}
		e.Weight = 0
		out[i] = e
	}
	return out
}
