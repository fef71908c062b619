// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package route

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

// Every draw falls on the way that says so, and the shares make the whole.
func TestWaysAreWhatTheDrawsChoose(t *testing.T) {
	resolver := func(target connect.TargetID) connect.Node {
		return connect.Node{Kind: connect.ResolverNode, Resolver: &connect.Resolver{Target: target}}
	}
	chain := &connect.Chain{
		Service: "api", Start: "router",
		Nodes: map[string]connect.Node{
			"router": {Kind: connect.RouterNode, Routes: []connect.ChainRoute{{Match: connect.RequestMatch{Methods: []string{"GET"}}, Next: "split"}}},
			"split":  {Kind: connect.SplitterNode, Splits: []connect.Split{{Weight: 1, Next: "a"}, {Weight: 0, Next: "b"}, {Weight: 2499, Next: "inner"}, {Weight: 7500, Next: "c"}}},
			"inner":  {Kind: connect.SplitterNode, Splits: []connect.Split{{Weight: 5000, Next: "a"}, {Weight: 5000, Next: "b"}}},
			"a":      resolver("a"), "b": resolver("b"), "c": resolver("c"),
		},
		Targets: map[connect.TargetID]connect.Target{"a": {ID: "a"}, "b": {ID: "b"}, "c": {ID: "c"}},
	}
	table, err := CompileHTTP(chain, connect.Upstream{})
	if err != nil {
		t.Fatal(err)
	}
	h := &connect.Head{Method: "GET", Path: "/"}
	said := map[string]int{}
	for _, w := range table.Ways(h) {
		said[w.Choice.Node] += w.Share
	}
	drawn := map[string]int{}
	for draw := range uint32(Draws) {
		c, ok := table.Route(h, draw)
		if !ok {
			t.Fatal("no route")
		}
		drawn[c.Node]++
	}
	if diff := cmp.Diff(drawn, said); diff != "" || said["c"] != 7500 {
		t.Errorf("shares (-drawn +said):\n%s", diff)
	}
	if ways := table.Ways(&connect.Head{Method: "PUT", Path: "/"}); ways != nil {
		t.Errorf("no rule matches, and there are ways: %+v", ways)
	}
}
