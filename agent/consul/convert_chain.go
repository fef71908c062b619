// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

type wireChain struct {
	ServiceName string
	Datacenter  string
	Protocol    string
	Default     bool
	StartNode   string
	Nodes       map[string]*wireNode
	Targets     map[string]*wireTarget

	AutoVirtualIPs, ManualVirtualIPs []string
}

type wireNode struct {
	Type     string
	Name     string
	Routes   []wireRoute
	Splits   []wireSplit
	Resolver *struct {
		ConnectTimeout any
		RequestTimeout any // nanoseconds
		Target         string
		Failover       *struct{ Targets []string }
	}
	LoadBalancer *wireLoadBalancer
}

type wireTarget struct {
	ID            string
	Service       string
	ServiceSubset string
	Namespace     string
	Partition     string
	Datacenter    string
	Peer          string
	MeshGateway   struct{ Mode string }
	Subset        struct {
		Filter      string
		OnlyPassing bool
	}
	ConnectTimeout any
	External       bool
	SNI            string
}

// Bounds of one chain. Real ones have a handful of nodes.
const (
	maxNodes   = 4096
	maxTargets = 4096
)

// convertChain makes a chain of Consul's compiled one. Every name in it must
// lead somewhere and no path may come back to where it was, so that whoever
// follows the chain needs no checks. gateway, unless empty, takes the place of
// the targets' mesh gateway mode, as the upstream's setting does with Consul's
// own proxies: for targets in the datacenter that the chain is compiled in,
// Consul says none, wherever the caller is.
func convertChain(w *wireChain, service, gateway string) (*connect.Chain, error) {
	switch {
	case w == nil:
		return nil, errors.New("the answer holds no discovery chain")
	case !strings.EqualFold(w.ServiceName, service):
		return nil, fmt.Errorf("the discovery chain is for %q", w.ServiceName)
	case len(w.Nodes) > maxNodes || len(w.Targets) > maxTargets:
		return nil, fmt.Errorf("the discovery chain has %d nodes and %d targets, at most %d and %d can be right", len(w.Nodes), len(w.Targets), maxNodes, maxTargets)
	}
	chain := &connect.Chain{
		Service:    w.ServiceName,
		Datacenter: w.Datacenter,
		Protocol:   protocol(w.Protocol),
		Default:    w.Default,
		Start:      w.StartNode,
		Nodes:      make(map[string]connect.Node, len(w.Nodes)),
		Targets:    make(map[connect.TargetID]connect.Target, len(w.Targets)),
	}
	var err error
	for id, t := range w.Targets {
		target, err := convertTarget(id, t)
		if err != nil {
			return nil, fmt.Errorf("target %q: %w", id, err)
		}
		if gateway != "" && !target.External {
			target.MeshGateway = gateway
		}
		chain.Targets[target.ID] = target
	}
	for name, n := range w.Nodes {
		node, err := convertNode(n, chain.Targets)
		if err != nil {
			return nil, fmt.Errorf("node %q: %w", name, err)
		}
		chain.Nodes[name] = node
	}
	if _, ok := chain.Nodes[chain.Start]; !ok {
		return nil, fmt.Errorf("the start node %q does not exist", chain.Start)
	}
	if chain.VirtualIPs, err = virtualIPs(w); err != nil {
		return nil, err
	}
	return chain, checkPaths(w.Nodes)
}

func convertTarget(id string, w *wireTarget) (connect.Target, error) {
	if w == nil {
		return connect.Target{}, errors.New("it is null")
	}
	timeout, err := optionalDuration(w.ConnectTimeout)
	if err != nil {
		return connect.Target{}, fmt.Errorf("ConnectTimeout: %w", err)
	}
	switch {
	case w.ID != "" && w.ID != id:
		return connect.Target{}, fmt.Errorf("its ID is %q", w.ID)
	case w.Service == "":
		return connect.Target{}, errors.New("it names no service")
	case w.Peer == "" && w.Datacenter == "":
		return connect.Target{}, errors.New("it names neither a datacenter nor a peer")
	case w.Peer == "" && w.SNI == "":
		return connect.Target{}, errors.New("it has no SNI")
	}
	return connect.Target{
		ID:             connect.TargetID(id),
		Service:        w.Service,
		Subset:         w.ServiceSubset,
		Namespace:      orDefault(w.Namespace),
		Partition:      strings.ToLower(orDefault(w.Partition)),
		Datacenter:     w.Datacenter,
		Peer:           w.Peer,
		Filter:         w.Subset.Filter,
		OnlyPassing:    w.Subset.OnlyPassing,
		MeshGateway:    w.MeshGateway.Mode,
		ConnectTimeout: timeout,
		External:       w.External,
		SNI:            w.SNI,
	}, nil
}

func convertNode(w *wireNode, targets map[connect.TargetID]connect.Target) (connect.Node, error) {
	if w == nil {
		return connect.Node{}, errors.New("it is null")
	}
	node := connect.Node{Kind: connect.NodeKind(w.Type), Name: w.Name}
	var err error
	switch node.Kind {
	case connect.RouterNode:
		node.Routes, err = convertRoutes(w.Routes)
	case connect.SplitterNode:
		if node.Splits, err = convertSplits(w.Splits); err == nil {
			// Consul repeats what the resolvers behind it say, which is what
			// counts here.
			_, err = convertBalance(w.LoadBalancer)
		}
	case connect.ResolverNode:
		node.Resolver, err = convertResolver(w, targets)
	default:
		err = fmt.Errorf("type %q is not known", w.Type)
	}
	return node, err
}

func convertResolver(w *wireNode, targets map[connect.TargetID]connect.Target) (*connect.Resolver, error) {
	if w.Resolver == nil {
		return nil, errors.New("the resolver is missing")
	}
	timeout, err := optionalDuration(w.Resolver.ConnectTimeout)
	if err != nil {
		return nil, fmt.Errorf("ConnectTimeout: %w", err)
	}
	request, err := optionalDuration(w.Resolver.RequestTimeout)
	if err != nil {
		return nil, fmt.Errorf("RequestTimeout: %w", err)
	}
	r := &connect.Resolver{Target: connect.TargetID(w.Resolver.Target), ConnectTimeout: timeout, RequestTimeout: request}
	if _, ok := targets[r.Target]; !ok {
		return nil, fmt.Errorf("target %q does not exist", r.Target)
	}
	if w.Resolver.Failover != nil {
		if err := sizes("failover targets", len(w.Resolver.Failover.Targets), maxTargets); err != nil {
			return nil, err
		}
		for _, name := range w.Resolver.Failover.Targets {
			id := connect.TargetID(name)
			if _, ok := targets[id]; !ok {
				return nil, fmt.Errorf("failover target %q does not exist", id)
			}
			r.Failover = append(r.Failover, id)
		}
	}
	r.LoadBalancer, err = convertBalance(w.LoadBalancer)
	return r, err
}

// checkPaths takes away, again and again, the nodes that nothing else leads to.
// What cannot be taken away leads to itself.
func checkPaths(nodes map[string]*wireNode) error {
	incoming := make(map[string]int, len(nodes))
	for name, n := range nodes {
		for _, next := range n.next() {
			if nodes[next] == nil {
				return fmt.Errorf("node %q leads to %q, which does not exist", name, next)
			}
			incoming[next]++
		}
	}
	var free []string
	for name := range nodes {
		if incoming[name] == 0 {
			free = append(free, name)
		}
	}
	done := 0
	for ; len(free) > 0; done++ {
		name := free[len(free)-1]
		free = free[:len(free)-1]
		for _, next := range nodes[name].next() {
			if incoming[next]--; incoming[next] == 0 {
				free = append(free, next)
			}
		}
	}
	if done < len(nodes) {
		return errors.New("the nodes of the discovery chain lead round in a circle")
	}
	return nil
}

func (n *wireNode) next() []string {
	var names []string
	for _, r := range n.Routes {
		names = append(names, r.NextNode)
	}
	for _, s := range n.Splits {
		names = append(names, s.NextNode)
	}
	return names
}

func optionalDuration(v any) (time.Duration, error) {
	if v == nil {
		return 0, nil
	}
	return parseDuration(v)
}

// protocol reads the name of a protocol; anything unknown counts as TCP, as
// with Consul's own proxies.
func protocol(name string) connect.Protocol {
	switch p := connect.Protocol(strings.ToLower(name)); p {
	case connect.HTTP, connect.HTTP2, connect.GRPC:
		return p
	}
	return connect.TCP
}

// singleChain is the chain of what has none in Consul: one target.
func singleChain(target connect.Target) *connect.Chain {
	const start = "resolver"
	return &connect.Chain{
		Service: target.Service, Datacenter: target.Datacenter, Protocol: connect.TCP, Default: true, Start: start,
		Nodes:   map[string]connect.Node{start: {Kind: connect.ResolverNode, Name: string(target.ID), Resolver: &connect.Resolver{Target: target.ID}}},
		Targets: map[connect.TargetID]connect.Target{target.ID: target},
	}
}

// peerChain leads to a service of a peer. Its routers and splitters are at work
// behind the peer's gateways (Consul, cluster peering).
func peerChain(key ChainKey) *connect.Chain {
	namespace, partition := orDefault(key.Namespace), strings.ToLower(orDefault(key.Partition))
	return singleChain(connect.Target{
		ID:      connect.TargetID(fmt.Sprintf("%s.%s.%s.external.%s", key.Service, namespace, partition, key.Peer)),
		Service: key.Service, Namespace: namespace, Partition: partition, Peer: key.Peer, MeshGateway: key.MeshGateway,
	})
}

// queryChain leads to what a prepared query finds.
func queryChain(key ChainKey) *connect.Chain {
	return singleChain(connect.Target{
		ID:      connect.TargetID("query:" + key.Service),
		Service: key.Service, Namespace: connect.DefaultName, Partition: connect.DefaultName, Datacenter: key.Datacenter, Query: true,
	})
}
