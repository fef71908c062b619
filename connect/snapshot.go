// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import "net/netip"

// A Snapshot is everything one sidecar needs to know at one moment. It is
// complete when published and is never written to afterwards, by anyone.
type Snapshot struct {
	Version       uint64 // one more at each publication; in every log line
	Service       Service
	Leaf          *Leaf
	Bundle        *TrustBundle
	Mesh          Mesh
	Intentions    []Intention            // in the order of evaluation, see SortIntentions
	DefaultAction Action                 // when no intention matches
	JWTProviders  map[string]JWTProvider // those that Intentions name, by name; one that is missing denies
	Upstreams     []Upstream             // sorted by ID
	Chains        map[UpstreamID]*Chain
	Endpoints     map[TargetID][]Endpoint // instances; see Reach for what is called
	Gateways      map[string][]Endpoint   // mesh gateways that targets need, by datacenter
	Destinations  []netip.AddrPort        // in transparent mode: outside the mesh, behind gateways that we do not go round
	Peers         map[string]Peer         // those that targets and Intentions name, by name; one that is missing denies
}
