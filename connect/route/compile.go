// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package route

import (
	"fmt"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/request"
)

// A chain is compiled again whenever it changes, and every request walks its
// rules.
const (
	maxRules = 5_000
	maxLegs  = 20_000 // of all nodes that rules lead to
	maxDepth = 8      // splitters behind splitters; Consul serves one
)

// CompileHTTP makes the chain of an upstream ready to decide on requests. A
// chain that does not hold together, a route whose match or rewrite cannot be
// compiled and more than 5000 routes are errors, which name the route; what can
// be left out is a warning of the table.
func CompileHTTP(chain *connect.Chain, u connect.Upstream) (*Table, error) {
	c := &compiler{chain: chain, upstream: u, table: &Table{}, seen: map[string]int{}, made: map[string][]leg{}}
	start, ok := chain.Nodes[chain.Start]
	if !ok {
		return nil, fmt.Errorf("discovery chain of %q has no start node %q", chain.Service, chain.Start)
	}
	if start.Kind == connect.RouterNode {
		if err := c.router(start); err != nil {
			return nil, fmt.Errorf("discovery chain of %q: %w", chain.Service, err)
		}
		return c.table, nil
	}
	r := rule{timeout: DefaultRequestTimeout, idle: DefaultIdleTimeout}
	if start.Kind == connect.ResolverNode && start.Resolver != nil {
		// Behind a router or a splitter a resolver's timeout means nothing
		// (Consul, service-resolver: request_timeout).
		r.timeout = timeout(start.Resolver.RequestTimeout, DefaultRequestTimeout)
	}
	var err error
	if r.legs, err = c.legs(chain.Start); err != nil {
		return nil, fmt.Errorf("discovery chain of %q: %w", chain.Service, err)
	}
	c.table.rules = []rule{r}
	return c.table, nil
}

// A compiler holds what is known while a table is made.
type compiler struct {
	chain    *connect.Chain
	upstream connect.Upstream
	table    *Table
	seen     map[string]int   // resolver node to destination
	made     map[string][]leg // by node that a rule leads to; rules share them
	count    int              // of legs in made
}

func (c *compiler) warn(where string, warnings []string) {
	for _, w := range warnings {
		c.table.warnings = append(c.table.warnings, where+": "+w)
	}
}

func (c *compiler) router(node connect.Node) error {
	if len(node.Routes) > maxRules {
		return fmt.Errorf("router has %d routes, more than %d: split the service", len(node.Routes), maxRules)
	}
	for i := range node.Routes {
		where := fmt.Sprintf("route %d", i+1)
		r, err := c.route(where, &node.Routes[i])
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		r.number = i + 1
		c.table.rules = append(c.table.rules, r)
	}
	return nil
}

func (c *compiler) route(where string, in *connect.ChainRoute) (rule, error) {
	out := rule{
		timeout: timeout(in.RequestTimeout, DefaultRequestTimeout),
		idle:    timeout(in.IdleTimeout, DefaultIdleTimeout),
	}
	var err error
	if out.match, err = request.Compile(in.Match); err != nil {
		return rule{}, err
	}
	if out.rewrite, err = request.CompileRewrite(in.Match.Path, in.PrefixRewrite); err != nil {
		return rule{}, err
	}
	var warnings []string
	if out.retry, warnings = compileRetry(in.Retry); len(warnings) > 0 {
		c.warn(where, warnings)
	}
	edits, err := c.edits(where, in.RequestHeaders, in.ResponseHeaders)
	if err != nil {
		return rule{}, err
	}
	out.request, out.response = edits.request, edits.response
	out.legs, err = c.legs(in.Next)
	return out, err
}

func (c *compiler) edits(where string, req, resp connect.HeaderEdits) (splitEdits, error) {
	var out splitEdits
	var warnings []string
	var err error
	if out.request, warnings, err = request.CompileEdits(req); err != nil {
		return out, fmt.Errorf("request headers: %w", err)
	}
	c.warn(where+": request headers", warnings)
	if out.response, warnings, err = request.CompileEdits(resp); err != nil {
		return out, fmt.Errorf("response headers: %w", err)
	}
	c.warn(where+": response headers", warnings)
	return out, nil
}

// legs returns where requests go that have come to a node.
func (c *compiler) legs(node string) ([]leg, error) {
	if legs, ok := c.made[node]; ok {
		return legs, nil
	}
	legs, err := c.walk(nil, node, span{0, Draws}, nil, 0)
	if err != nil {
		return nil, err
	}
	c.made[node] = legs
	return legs, nil
}

// A span is a range of draws, without its end.
type span struct{ start, end uint32 }

// walk adds the legs below a node to out. They share the draws of s; edits are
// those of the splits above, innermost first.
func (c *compiler) walk(out []leg, name string, s span, edits []splitEdits, depth int) ([]leg, error) {
	node, ok := c.chain.Nodes[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("it names node %q, which it does not hold", name)
	case node.Kind == connect.SplitterNode && depth < maxDepth:
		return c.split(out, name, node.Splits, s, edits, depth)
	case node.Kind == connect.SplitterNode:
		return nil, fmt.Errorf("more than %d splitters lie behind each other at node %q", maxDepth, name)
	case node.Kind != connect.ResolverNode || node.Resolver == nil:
		return nil, fmt.Errorf("node %q is a %s, want a splitter or a resolver", name, node.Kind)
	}
	if c.count++; c.count > maxLegs {
		return nil, fmt.Errorf("it has more than %d ways for a request: use fewer routes or splits", maxLegs)
	}
	destination, ok := c.seen[name]
	if !ok {
		to, err := resolve(c.chain, c.upstream, node.Resolver)
		if err != nil {
			return nil, err
		}
		destination = len(c.table.destinations)
		c.seen[name] = destination
		c.table.destinations = append(c.table.destinations, to)
	}
	return append(out, leg{end: s.end, destination: destination, node: name, edits: edits}), nil
}

// split divides the draws of s by weight. Weights that make less than the whole,
// by rounding, leave the rest to the last split that has any; weights that make
// more are scaled down.
func (c *compiler) split(out []leg, name string, splits []connect.Split, s span, edits []splitEdits, depth int) ([]leg, error) {
	sum, last := int64(0), -1
	for i := range splits {
		if splits[i].Weight < 0 || splits[i].Weight > Draws {
			return nil, fmt.Errorf("splitter %q: split %d has the weight %d, want 0 to %d", name, i+1, splits[i].Weight, Draws)
		}
		if sum += int64(splits[i].Weight); splits[i].Weight > 0 {
			last = i
		}
	}
	if last < 0 {
		return nil, fmt.Errorf("splitter %q has no split with a weight", name)
	}
	whole, done, start := max(sum, Draws), int64(0), s.start
	for i := range splits {
		if splits[i].Weight == 0 {
			continue
		}
		done += int64(splits[i].Weight)
		end := s.end
		if i != last {
			end = s.start + uint32(int64(s.end-s.start)*done/whole) //nolint:gosec // done is at most whole, so this is at most s.end
		}
		where := fmt.Sprintf("splitter %q: split %d", name, i+1)
		own, err := c.edits(where, splits[i].RequestHeaders, splits[i].ResponseHeaders)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
		inner := append([]splitEdits{own}, edits...)
		if out, err = c.walk(out, splits[i].Next, span{start, end}, inner, depth+1); err != nil {
			return nil, err
		}
		start = end
	}
	return out, nil
}

// timeout applies Consul's rule for timeouts of requests: negative is none, zero
// the default.
func timeout(d, otherwise time.Duration) time.Duration {
	switch {
	case d < 0:
		return 0
	case d == 0:
		return otherwise
	}
	return d
}
