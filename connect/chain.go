// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import "time"

// A TargetID names a target in Consul's form: "[subset.]service.ns.partition.dc".
type TargetID string

// A Chain is a compiled discovery chain: where calls to an upstream go. It is
// served by Consul; nothing here is rebuilt from config entries.
type Chain struct {
	Service    string
	Datacenter string
	Protocol   Protocol
	Default    bool // no config entry of the service takes part
	Start      string
	Nodes      map[string]Node
	Targets    map[TargetID]Target
}

// A NodeKind tells what a node of a chain does.
type NodeKind string

// The kinds of Consul's compiled chains.
const (
	RouterNode   NodeKind = "router"
	SplitterNode NodeKind = "splitter"
	ResolverNode NodeKind = "resolver"
)

// A Node is one step of a chain. Resolver is set for resolver nodes only.
type Node struct {
	Kind     NodeKind
	Name     string
	Resolver *Resolver
}

// A Resolver names the target of a chain and who takes over for it.
type Resolver struct {
	Target         TargetID
	Failover       []TargetID // in order, without Target
	ConnectTimeout time.Duration
	LoadBalancer   LoadBalancer
}

// A LoadBalancer says how one endpoint of a target is chosen.
type LoadBalancer struct {
	Policy      string // "", round_robin, random, least_request, ring_hash, maglev
	ChoiceCount int    // of least_request; 0 means 2
}

// A Target is one service, subset of it or service in another datacenter.
type Target struct {
	ID             TargetID
	Service        string
	Subset         string
	Namespace      string
	Partition      string
	Datacenter     string
	Peer           string
	Filter         string // the subset's filter, evaluated by Consul's servers
	OnlyPassing    bool   // an endpoint with a warning is not used
	MeshGateway    string
	ConnectTimeout time.Duration
	External       bool
	SNI            string
}

// Identity is the SPIFFE ID that endpoints of the target must present.
func (t Target) Identity(trustDomain string) Identity {
	return Identity{TrustDomain: trustDomain, Partition: t.Partition, Namespace: t.Namespace, Datacenter: t.Datacenter, Service: t.Service}
}
