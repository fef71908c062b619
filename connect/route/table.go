// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package route

import (
	"cmp"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/request"
)

// What holds for a request where the chain says nothing (Consul, service-router:
// request_timeout, idle_timeout).
const (
	DefaultRequestTimeout = 15 * time.Second
	DefaultIdleTimeout    = 5 * time.Minute
)

// Draws is how many values a draw has: a weight of 1 is a hundredth of a percent.
const Draws = 10_000

// A Table is a discovery chain made ready to decide on requests. It never
// changes; safe for concurrent use.
type Table struct {
	rules        []rule
	destinations []Route
	warnings     []string
}

// A rule is one route of a router. A chain without a router is one rule that
// matches everything.
type rule struct {
	match             *request.Matcher
	rewrite           request.Rewrite
	timeout, idle     time.Duration
	retry             Retry
	request, response request.Edits
	number            int // 1 and up in a router; 0 without one
	legs              []leg
}

// A leg owns the draws from the end of the leg before it up to its own end.
type leg struct {
	end         uint32
	destination int
	node        string
	edits       []splitEdits // of the splits that led here, innermost first
}

type splitEdits struct{ request, response request.Edits }

// Destinations returns where requests can go, one for each resolver that any
// request reaches. Choice.Destination is an index into it. The slice must not be
// written to.
func (t *Table) Destinations() []Route { return t.destinations }

// Warnings returns what the chain asks for and does not get, for people; nil for
// nothing. The slice must not be written to.
func (t *Table) Warnings() []string { return t.warnings }

// Route decides on a request: the first rule that matches, then the split that
// draw falls on. draw should be random in [0, Draws). It reports false when no
// rule matches, which answers 404; Consul ends every router with a rule that
// matches all paths. It does not change h.
func (t *Table) Route(h *connect.Head, draw uint32) (Choice, bool) {
	for i := range t.rules {
		r := &t.rules[i]
		if !r.match.Matches(h) {
			continue
		}
		l := r.leg(draw)
		return Choice{
			Destination: l.destination, Timeout: r.timeout, Idle: r.idle, Retry: r.retry,
			Node: l.node, Rule: r.number, rule: r, leg: l,
		}, true
	}
	return Choice{}, false
}

func (r *rule) leg(draw uint32) *leg {
	if len(r.legs) == 1 {
		return &r.legs[0]
	}
	draw = min(draw, Draws-1)
	i, _ := slices.BinarySearchFunc(r.legs, draw, func(l leg, draw uint32) int {
		return cmp.Or(cmp.Compare(l.end, draw), -1) // the first end above draw
	})
	return &r.legs[i]
}

// A Choice is what a table decided for one request.
type Choice struct {
	Destination int           // in Destinations
	Timeout     time.Duration // of all tries together; 0 means none
	Idle        time.Duration // without a byte either way; 0 means none
	Retry       Retry
	Node        string // the resolver, in Consul's words: "resolver:api.default.default"
	Rule        int    // of the router, from 1; 0 when the chain has none

	rule *rule
	leg  *leg
}

// EditRequest gives the request the header and the path that the chain asks for.
// Edits of a split come first and those of the route last, so that the route has
// the last word; both see the path as it was. That is Envoy's order unless it is
// told otherwise, and Consul does not. Calling it twice edits twice. f may be
// nil.
func (c *Choice) EditRequest(h *connect.Head, f *request.Facts) {
	if h.Header == nil {
		h.Header = connect.Header{}
	}
	for i := range c.leg.edits {
		c.leg.edits[i].request.Apply(h.Header, f)
	}
	c.rule.request.Apply(h.Header, f)
	h.Path = c.rule.rewrite.Apply(h.Path)
}

// EditResponse edits the header of the response, which must not be nil, in the
// order of [Choice.EditRequest]. f may be nil.
func (c *Choice) EditResponse(h connect.Header, f *request.Facts) {
	for i := range c.leg.edits {
		c.leg.edits[i].response.Apply(h, f)
	}
	c.rule.response.Apply(h, f)
}
