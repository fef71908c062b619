// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package route turns a discovery chain into the targets of a connection or of a
// request head. It knows no endpoints, draws no random numbers and does no I/O.
package route

import (
	"fmt"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// DefaultConnectTimeout bounds a connect where neither the upstream nor the
// chain says otherwise (Consul, service-resolver: connect_timeout).
const DefaultConnectTimeout = 5 * time.Second

// A Route is where connections to an upstream go: the first leg that has a
// usable endpoint, in order.
type Route struct {
	Legs         []Leg // the chain's target, then its failover targets
	LoadBalancer connect.LoadBalancer
}

// A Leg is one target of a route.
type Leg struct {
	Target         connect.Target
	ConnectTimeout time.Duration // to one endpoint, TCP and TLS each; above 0
}

// Compile resolves the chain of an upstream for TCP connections. A chain that
// starts with a router or a splitter is an error: those decide per request, see
// [CompileHTTP].
func Compile(chain *connect.Chain, upstream connect.Upstream) (Route, error) {
	start, ok := chain.Nodes[chain.Start]
	if !ok {
		return Route{}, fmt.Errorf("discovery chain of %q has no start node %q", chain.Service, chain.Start)
	}
	if start.Kind != connect.ResolverNode || start.Resolver == nil {
		return Route{}, fmt.Errorf("discovery chain of %q starts with a %s, which decides per HTTP request and needs L7 handling; "+
			"remove the service-%s or set the upstream's protocol to one that has it", chain.Service, start.Kind, start.Kind)
	}
	return resolve(chain, upstream, start.Resolver)
}

// resolve lists the targets of a resolver, its own first.
func resolve(chain *connect.Chain, upstream connect.Upstream, resolver *connect.Resolver) (Route, error) {
	route := Route{LoadBalancer: resolver.LoadBalancer}
	for _, id := range append([]connect.TargetID{resolver.Target}, resolver.Failover...) {
		target, ok := chain.Targets[id]
		if !ok {
			return Route{}, fmt.Errorf("discovery chain of %q names target %q, which it does not hold", chain.Service, id)
		}
		route.Legs = append(route.Legs, Leg{Target: target, ConnectTimeout: connectTimeout(upstream, target, resolver)})
	}
	return route, nil
}

// connectTimeout: an upstream's own connect_timeout_ms overrides the chain's
// for every target (Consul, upstream configuration reference).
func connectTimeout(u connect.Upstream, t connect.Target, r *connect.Resolver) time.Duration {
	for _, d := range []time.Duration{u.ConnectTimeout, t.ConnectTimeout, r.ConnectTimeout} {
		if d > 0 {
			return d
		}
	}
	return DefaultConnectTimeout
}
