// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"net/netip"
	"time"
)

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
	// VirtualIPs are the addresses that stand for the service in our own
	// partition and datacenter, on any port (Consul, virtual IPs). Nil for a chain
	// of another datacenter, a peer or a prepared query.
	VirtualIPs []netip.Addr
}

// A NodeKind tells what a node of a chain does.
type NodeKind string

// The kinds of Consul's compiled chains.
const (
	RouterNode   NodeKind = "router"
	SplitterNode NodeKind = "splitter"
	ResolverNode NodeKind = "resolver"
)

// A Node is one step of a chain: Routes of a router, Splits of a splitter, or
// the Resolver of a resolver; the others are nil.
type Node struct {
	Kind     NodeKind
	Name     string
	Routes   []ChainRoute // the first that matches is taken; Consul ends the list with a catch-all
	Splits   []Split
	Resolver *Resolver
}

// A ChainRoute is one rule of a router (Consul, service-router config entry).
type ChainRoute struct {
	Match RequestMatch
	Next  string // a node: splitter or resolver
	// PrefixRewrite takes the place of the matched prefix, or of the matched
	// exact path; "" leaves the path as it is.
	PrefixRewrite   string
	RequestTimeout  time.Duration // of all tries together; 0 means 15 s, negative none
	IdleTimeout     time.Duration // without a byte either way; 0 means 5 min, negative none
	Retry           Retry
	RequestHeaders  HeaderEdits
	ResponseHeaders HeaderEdits
}

// Retry says when a request is tried again. Without a condition it never is;
// with one and Attempts 0 it is once.
type Retry struct {
	Attempts       int      // tries after the first
	On             []string // words of service-router's retry_on
	ConnectFailure bool     // retry_on_connect_failure
	StatusCodes    []int
}

// Enabled reports whether there is a condition to try again.
func (r Retry) Enabled() bool { return len(r.On) > 0 || r.ConnectFailure || len(r.StatusCodes) > 0 }

// A Split is one leg of a splitter, chosen per request by weight.
type Split struct {
	Weight          int // hundredths of a percent; all splits of a node make 10000, give or take rounding
	Next            string
	RequestHeaders  HeaderEdits
	ResponseHeaders HeaderEdits
}

// A Resolver names the target of a chain and who takes over for it.
type Resolver struct {
	Target         TargetID
	Failover       []TargetID // in order, without Target
	ConnectTimeout time.Duration
	RequestTimeout time.Duration // where the chain starts here; 0 means 15 s, negative none
	LoadBalancer   LoadBalancer
}

// A LoadBalancer says how one endpoint of a target is chosen.
type LoadBalancer struct {
	Policy      string // "", round_robin, random, least_request, ring_hash, maglev, peak_ewma
	ChoiceCount int    // of least_request; 0 means 2
	MinRingSize int    // of ring_hash; 0 means 1024
	MaxRingSize int    // of ring_hash; 0 means 8 Mi
	Hash        []HashPolicy
}

// A HashPolicy is one part of what a request is hashed on by ring_hash and
// maglev (Consul, service-resolver: load_balancer.hash_policies). Parts that
// yield nothing are left out; a request that yields nothing at all goes to a
// random endpoint.
type HashPolicy struct {
	Field    string // header, cookie, query_parameter; "" with SourceIP
	Value    string // name of the header, cookie or parameter
	SourceIP bool
	Terminal bool          // when it yields something, later parts are not looked at
	Cookie   *CookieConfig // for cookies: make one when the request has none; nil never
}

// CookieConfig describes a cookie that the proxy makes. With neither Session nor
// TTL none is made.
type CookieConfig struct {
	Session bool          // ends with the browser's session
	TTL     time.Duration // Max-Age
	Path    string
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
	Query          bool // a prepared query: Service is its name, and Consul resolves it
	// Identities are the SPIFFE IDs of which endpoints must present one, as
	// CanonicalID writes them; nil means that of the service, see Accepts.
	Identities []string
}

// Accepts returns the SPIFFE IDs of which endpoints of the target must present
// one. Without any, as of a peer's service that nothing is known of, nobody will
// do.
func (t Target) Accepts(trustDomain string) []string {
	if len(t.Identities) > 0 || t.Query || t.Peer != "" {
		return t.Identities
	}
	return []string{t.Identity(trustDomain).String()}
}

// Identity is the SPIFFE ID that endpoints of the target must present when it is
// a service of our own trust domain.
func (t Target) Identity(trustDomain string) Identity {
	return Identity{TrustDomain: trustDomain, Partition: t.Partition, Namespace: t.Namespace, Datacenter: t.Datacenter, Service: t.Service}
}
