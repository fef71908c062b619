// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"net/netip"

	"github.com/outrider-mesh/outrider/connect"
)

// snapshotDump is a snapshot for reading: certificates as facts, no key.
type snapshotDump struct {
	Version       uint64
	Service       connect.Service
	Leaf          LeafStatus
	TrustDomain   string
	Roots         []RootStatus
	Mesh          connect.Mesh
	DefaultAction connect.Action
	Intentions    []connect.Intention
	JWTProviders  map[string]connect.JWTProvider // their keys are public
	Upstreams     []connect.Upstream
	Chains        map[connect.UpstreamID]*connect.Chain
	Endpoints     map[connect.TargetID][]connect.Endpoint
	Gateways      map[string][]connect.Endpoint `json:",omitempty"` // by datacenter
	Destinations  []netip.AddrPort              `json:",omitempty"` // that are not passed on to
	Peers         map[string]peerDump           `json:",omitempty"`
}

// peerDump is a peer for reading.
type peerDump struct {
	TrustDomain string
	Partition   string
	Roots       []RootStatus
	Problem     string `json:",omitempty"`
}

func dumpPeer(p connect.Peer) peerDump {
	d := peerDump{Partition: p.Partition, Problem: p.Problem}
	if p.Bundle != nil {
		d.TrustDomain = p.Bundle.TrustDomain
		for _, root := range p.Bundle.Roots {
			d.Roots = append(d.Roots, rootStatus(root))
		}
	}
	return d
}

// dump returns nil for nil.
func dump(s *connect.Snapshot) *snapshotDump {
	if s == nil {
		return nil
	}
	d := &snapshotDump{
		Version: s.Version, Service: s.Service, Leaf: leafStatus(s.Leaf), TrustDomain: s.Bundle.TrustDomain, Mesh: s.Mesh,
		DefaultAction: s.DefaultAction, Intentions: s.Intentions, JWTProviders: s.JWTProviders, Upstreams: s.Upstreams, Chains: s.Chains, Endpoints: s.Endpoints,
		Gateways: s.Gateways, Destinations: s.Destinations,
	}
	for name, p := range s.Peers {
		if d.Peers == nil {
			d.Peers = make(map[string]peerDump, len(s.Peers))
		}
		d.Peers[name] = dumpPeer(p)
	}
	for _, root := range s.Bundle.Roots {
		d.Roots = append(d.Roots, rootStatus(root))
	}
	return d
}
