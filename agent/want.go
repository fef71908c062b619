// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"github.com/outrider-mesh/outrider/agent/assemble"
	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/connect"
)

// want watches the chains of upstreams, the instances of their targets, and the
// mesh gateways and peers that lie on the way to them. It runs in the
// assembler's goroutine.
func (s *session) want(wants assemble.Wants) {
	<-s.registered // closed: the assembler wants nothing before the registration is known
	byChain := make(map[consul.ChainKey][]connect.UpstreamID)
	for _, u := range wants.Upstreams {
		if u.Problem == "" {
			key := consul.UpstreamChainKey(u, s.service)
			key.Unused = !wants.Used[u.ID]
			byChain[key] = append(byChain[key], u.ID)
		}
	}
	byKey := make(map[consul.EndpointsKey][]connect.TargetID)
	for _, t := range wants.Targets {
		key := consul.TargetEndpointsKey(t, s.service)
		key.Unused = !wants.UsedTargets[t.ID]
		byKey[key] = append(byKey[key], t.ID)
	}
	gateways := make(map[consul.GatewaysKey][]string)
	for _, dc := range wants.Gateways {
		gateways[consul.DatacenterGatewaysKey(dc, s.service)] = []string{dc}
	}
	peers := make(map[consul.PeerKey][]string)
	for _, name := range wants.Peers {
		peers[consul.ServicePeerKey(name, s.service)] = []string{name}
	}
	s.chains = feeds(s.chains, byChain, s.assembler.SetChain)
	s.endpoints = feeds(s.endpoints, byKey, s.assembler.SetInstances)
	s.gateways = feeds(s.gateways, gateways, s.assembler.SetGateways)
	s.peers = feeds(s.peers, peers, s.assembler.SetPeer)
	w := s.agent.watches
	w.Chains.Reconcile(s.owner, sinks(s.chains))
	w.Endpoints.Reconcile(s.owner, sinks(s.endpoints))
	w.Gateways.Reconcile(s.owner, sinks(s.gateways))
	w.Peers.Reconcile(s.owner, sinks(s.peers))
}
