// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package route

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func chain(resolver *connect.Resolver, targets ...connect.TargetID) *connect.Chain {
	c := &connect.Chain{
		Service: "api", Start: "resolver:api",
		Nodes:   map[string]connect.Node{"resolver:api": {Kind: connect.ResolverNode, Resolver: resolver}},
		Targets: map[connect.TargetID]connect.Target{},
	}
	for _, id := range targets {
		c.Targets[id] = connect.Target{ID: id}
	}
	return c
}

func TestLegsAreTheTargetThenItsFailoversInOrder(t *testing.T) {
	c := chain(&connect.Resolver{
		Target: "api", Failover: []connect.TargetID{"v2.api", "api.dc2"},
		LoadBalancer: connect.LoadBalancer{Policy: "random"},
	}, "api.dc2", "api", "v2.api")
	got, err := Compile(c, connect.Upstream{ID: "api"})
	if err != nil {
		t.Fatal(err)
	}
	want := Route{LoadBalancer: connect.LoadBalancer{Policy: "random"}, Legs: []Leg{
		{Target: connect.Target{ID: "api"}, ConnectTimeout: DefaultConnectTimeout},
		{Target: connect.Target{ID: "v2.api"}, ConnectTimeout: DefaultConnectTimeout},
		{Target: connect.Target{ID: "api.dc2"}, ConnectTimeout: DefaultConnectTimeout},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConnectTimeoutOfUpstreamThenTargetThenResolver(t *testing.T) {
	for _, tc := range []struct{ upstream, target, resolver, want time.Duration }{
		{1, 2, 3, 1}, {0, 2, 3, 2}, {0, 0, 3, 3}, {0, 0, 0, DefaultConnectTimeout},
	} {
		c := chain(&connect.Resolver{Target: "api", ConnectTimeout: tc.resolver})
		c.Targets["api"] = connect.Target{ID: "api", ConnectTimeout: tc.target}
		got, err := Compile(c, connect.Upstream{ConnectTimeout: tc.upstream})
		if err != nil {
			t.Fatal(err)
		}
		if got.Legs[0].ConnectTimeout != tc.want {
			t.Errorf("%+v: got %v", tc, got.Legs[0].ConnectTimeout)
		}
	}
}

func TestChainsThatCannotBeFollowedAreErrors(t *testing.T) {
	router := chain(nil, "api")
	router.Nodes["resolver:api"] = connect.Node{Kind: connect.RouterNode}
	for _, tc := range []struct {
		name  string
		chain *connect.Chain
		want  string
	}{
		{"no start node", &connect.Chain{Service: "api", Start: "x"}, `no start node "x"`},
		{"starts with a router", router, "starts with a router"},
		{"target missing", chain(&connect.Resolver{Target: "api"}), `names target "api"`},
		{"failover missing", chain(&connect.Resolver{Target: "api", Failover: []connect.TargetID{"b"}}, "api"), `names target "b"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Compile(tc.chain, connect.Upstream{}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
