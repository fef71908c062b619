// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

type routeView struct {
	Definition route
	NextNode   string
}

type splitView struct {
	Definition split
	Weight     float32 `json:",omitempty"`
	NextNode   string
}

// speaksHTTP reports whether requests of a protocol can be told apart.
func speaksHTTP(protocol string) bool {
	return slices.Contains([]string{"http", "http2", "grpc"}, protocol)
}

// start adds the node that a chain begins with, and all behind it: a router, if
// the service has one, else a splitter, else a resolver. A chain that is asked
// for with another protocol than HTTP has neither of the first two.
func (c *compiler) start(service string) (string, error) {
	protocol := c.chain.Protocol
	if !speaksHTTP(protocol) {
		if c.opts.overrides.OverrideProtocol == "" && (c.entries.router(service) != nil || c.entries.splitter(service) != nil) {
			return "", fmt.Errorf("discovery chain %q uses a protocol %q that does not permit advanced routing or splitting behavior", service, protocol)
		}
		return c.resolverNode(place{service: service, datacenter: c.opts.datacenter})
	}
	entry := c.entries.router(service)
	if entry == nil {
		return c.next(service, "")
	}
	node := nodeView{Type: "router", Name: service + ".default.default"}
	everything := route{
		Match:       &routeMatch{HTTP: &httpMatch{PathPrefix: "/"}},
		Destination: &routeDestination{Service: service, Namespace: "default", Partition: "default"},
	}
	for _, r := range slices.Concat(entry.Routes, []route{everything}) {
		to, subset := service, ""
		if d := r.Destination; d != nil {
			to, subset = first(d.Service, service), d.ServiceSubset
		}
		next, err := c.next(to, subset)
		if err != nil {
			return "", err
		}
		node.Routes = append(node.Routes, routeView{Definition: r, NextNode: next})
	}
	key := "router:" + node.Name
	c.chain.Nodes[key] = node
	return key, nil
}

// next adds the node that a route leads to, and all behind it.
func (c *compiler) next(service, subset string) (string, error) {
	if subset != "" || c.entries.splitter(service) == nil {
		return c.resolverNode(place{service: service, subset: subset, datacenter: c.opts.datacenter})
	}
	node := nodeView{Type: "splitter", Name: service + ".default.default"}
	key := "splitter:" + node.Name
	if _, has := c.chain.Nodes[key]; has {
		return key, nil
	}
	var err error
	node.Splits, node.LoadBalancer, err = c.splits(service, nil)
	if err != nil {
		return "", err
	}
	c.chain.Nodes[key] = node
	return key, nil
}

// splits are the legs of a service's splitter. A leg that leads to another
// splitter is replaced by the legs of that one. The load balancer is the first
// of the legs' that hashes, which the legs of a splitter have to share.
func (c *compiler) splits(service string, path []string) (out []splitView, lb *loadBalancer, err error) {
	name := "splitter:" + service + ".default.default"
	circular := slices.Contains(path, name)
	if path = append(slices.Clone(path), name); circular {
		return nil, nil, fmt.Errorf("detected circular reference: [%s]", strings.Join(path, " -> "))
	}
	for _, s := range c.entries.splitter(service).Splits {
		to := first(s.Service, service)
		if to != service && s.ServiceSubset == "" && c.entries.splitter(to) != nil {
			inner, _, err := c.splits(to, path)
			if err != nil {
				return nil, nil, err
			}
			for _, leg := range inner {
				leg.Weight = float32(hundredths(s.Weight*leg.Weight/100)) / 100
				leg.Definition.RequestHeaders = leg.Definition.RequestHeaders.within(s.RequestHeaders)
				leg.Definition.ResponseHeaders = leg.Definition.ResponseHeaders.within(s.ResponseHeaders)
				out = append(out, leg)
			}
		} else {
			next, err := c.resolverNode(place{service: to, subset: s.ServiceSubset, datacenter: c.opts.datacenter})
			if err != nil {
				return nil, nil, err
			}
			if balance := c.chain.Nodes[next].LoadBalancer; lb == nil && balance.hashes() {
				lb = balance
			}
			out = append(out, splitView{Definition: s, Weight: s.Weight, NextNode: next})
		}
		if len(out) > maxLegs {
			return nil, nil, fmt.Errorf("discovery chain %q: %w: at most %d legs of one splitter", c.chain.ServiceName, errFull, maxLegs)
		}
	}
	return out, lb, nil
}

func (lb *loadBalancer) hashes() bool {
	return lb != nil && (lb.Policy == "ring_hash" || lb.Policy == "maglev")
}

// within returns the edits of a leg that is reached through another one: both
// are made, and where both speak of a field, those of the inner leg count.
func (e *headerEdits) within(outer *headerEdits) *headerEdits {
	switch {
	case outer == nil:
		return e
	case e == nil:
		return outer
	}
	over := func(outer, inner map[string]string) map[string]string {
		out := maps.Clone(outer)
		if out == nil {
			return inner
		}
		maps.Copy(out, inner)
		return out
	}
	return &headerEdits{Add: over(outer.Add, e.Add), Set: over(outer.Set, e.Set), Remove: slices.Concat(outer.Remove, e.Remove)}
}
