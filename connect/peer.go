// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

// A Peer is another cluster that ours is peered with: its services are of
// another trust domain, with roots of their own (Consul, cluster peering).
type Peer struct {
	Name string // as we call it; that is the name intentions use
	// Partition is the one whose services the peer exports, in lower case.
	Partition string
	Bundle    *TrustBundle // nil when there is a Problem
	// Problem says why nobody of the peer can be told from anybody else, "" when
	// they can: its callers are denied then, and its services not called.
	Problem string
}

// Proves reports whether services of the peer can be recognised.
func (p Peer) Proves() bool { return p.Problem == "" && p.Bundle != nil }

// Instances are what is known of a target at one moment.
type Instances struct {
	Endpoints []Endpoint
	// SNI, Identities and Protocol take the place of those of the target where
	// only its instances say them: services of peers, and prepared queries.
	// "" and nil leave the target's own.
	SNI        string
	Identities []string
	Protocol   Protocol
}
