// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package route

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/request"
)

// tableCase is a service-router in Consul's names, for the service web, and what
// must become of requests.
type tableCase struct {
	Name   string
	Routes []struct {
		Match struct {
			HTTP struct {
				PathExact, PathPrefix, PathRegex string
				CaseInsensitive                  bool
				Methods                          []string
				Header                           []wireValue
				QueryParam                       []wireValue
			}
		}
		Destination struct{ Service, ServiceSubset, PrefixRewrite string }
	}
	Requests []struct {
		Method, Path string
		Header       connect.Header
		Service      string
		Subset, Sent string
		// What Envoy does instead, where it is known to differ, stands beside these
		// as "envoy" with the reason. Integration tests read it.
	}
}

type wireValue struct {
	Name, Exact, Prefix, Suffix, Regex string
	Present, Invert                    bool
}

func (v wireValue) match() (connect.MatchKind, string) {
	for _, m := range []struct {
		kind  connect.MatchKind
		value string
	}{{connect.MatchExact, v.Exact}, {connect.MatchPrefix, v.Prefix}, {connect.MatchSuffix, v.Suffix}, {connect.MatchRegex, v.Regex}} {
		if m.value != "" {
			return m.kind, m.value
		}
	}
	return connect.MatchPresent, ""
}

func (tc tableCase) chain() *connect.Chain {
	c := &connect.Chain{Service: "web", Start: "router:web", Nodes: map[string]connect.Node{}, Targets: map[connect.TargetID]connect.Target{}}
	resolver := func(service, subset string) string {
		id := connect.TargetID(strings.TrimPrefix(subset+"."+service, "."))
		c.Targets[id] = connect.Target{ID: id, Service: service, Subset: subset}
		name := "resolver:" + string(id)
		c.Nodes[name] = connect.Node{Kind: connect.ResolverNode, Name: string(id), Resolver: &connect.Resolver{Target: id}}
		return name
	}
	var routes []connect.ChainRoute
	for _, r := range tc.Routes {
		in := r.Match.HTTP
		path := wireValue{Exact: in.PathExact, Prefix: in.PathPrefix, Regex: in.PathRegex}
		m := connect.RequestMatch{Methods: in.Methods}
		if kind, value := path.match(); value != "" {
			m.Path = connect.PathMatch{Kind: kind, Value: value, IgnoreCase: in.CaseInsensitive}
		}
		for _, h := range in.Header {
			kind, value := h.match()
			m.Headers = append(m.Headers, connect.HeaderMatch{Name: h.Name, Kind: kind, Value: value, Invert: h.Invert})
		}
		for _, q := range in.QueryParam {
			kind, value := q.match()
			m.Query = append(m.Query, connect.QueryMatch{Name: q.Name, Kind: kind, Value: value})
		}
		service := r.Destination.Service
		if service == "" {
			service = "web"
		}
		routes = append(routes, connect.ChainRoute{Match: m, Next: resolver(service, r.Destination.ServiceSubset), PrefixRewrite: r.Destination.PrefixRewrite})
	}
	all := connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/"}}
	routes = append(routes, connect.ChainRoute{Match: all, Next: resolver("web", "")})
	c.Nodes[c.Start] = connect.Node{Kind: connect.RouterNode, Routes: routes}
	return c
}

// The same table is sent through a real Envoy by the integration tests.
func TestRouteTable(t *testing.T) {
	data, err := os.ReadFile("testdata/routes.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []tableCase
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, tc := range cases {
		table, err := CompileHTTP(tc.chain(), connect.Upstream{})
		if err != nil {
			t.Fatalf("%s: %v", tc.Name, err)
		}
		if len(table.Warnings()) > 0 {
			t.Errorf("%s: %q", tc.Name, table.Warnings())
		}
		for _, r := range tc.Requests {
			count++
			h := &connect.Head{Method: "GET", Authority: "web.test", Path: r.Path, Header: r.Header}
			if r.Method != "" {
				h.Method = r.Method
			}
			choice, ok := table.Route(h, 0)
			if !ok {
				t.Errorf("%s: %s: no route", tc.Name, r.Path)
				continue
			}
			choice.EditRequest(h, &request.Facts{Request: h})
			got := table.Destinations()[choice.Destination].Legs[0].Target
			if got.Service != r.Service || got.Subset != r.Subset || h.Path != r.Sent {
				t.Errorf("%s: %s %s %v: goes to %q subset %q as %s, want %q subset %q as %s",
					tc.Name, h.Method, r.Path, r.Header, got.Service, got.Subset, h.Path, r.Service, r.Subset, r.Sent)
			}
		}
	}
	if count < 40 {
		t.Errorf("%d requests: a table this short proves little", count)
	}
}

// web is a chain with a resolver for each name; routes and splits are added by
// the tests.
func web(start string, services ...string) *connect.Chain {
	c := &connect.Chain{Service: "web", Start: start, Nodes: map[string]connect.Node{}, Targets: map[connect.TargetID]connect.Target{}}
	for _, s := range services {
		c.Targets[connect.TargetID(s)] = connect.Target{ID: connect.TargetID(s), Service: s}
		c.Nodes["resolver:"+s] = connect.Node{Kind: connect.ResolverNode, Resolver: &connect.Resolver{Target: connect.TargetID(s)}}
	}
	return c
}

func compile(t *testing.T, c *connect.Chain) *Table {
	t.Helper()
	table, err := CompileHTTP(c, connect.Upstream{})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// spread counts which target each draw leads to.
func spread(t *testing.T, table *Table) map[string]int {
	t.Helper()
	got := map[string]int{}
	for draw := range uint32(Draws) {
		choice, ok := table.Route(&connect.Head{Path: "/"}, draw)
		if !ok {
			t.Fatal("no route")
		}
		got[string(table.Destinations()[choice.Destination].Legs[0].Target.ID)]++
	}
	return got
}

func TestSplitsGetTheirWeights(t *testing.T) {
	split := func(weight int, next string) connect.Split { return connect.Split{Weight: weight, Next: next} }
	for _, tc := range []struct {
		name   string
		splits []connect.Split
		want   map[string]int
	}{
		{"canary", []connect.Split{split(9000, "resolver:a"), split(1000, "resolver:b")}, map[string]int{"a": 9000, "b": 1000}},
		{"hundredths", []connect.Split{split(1, "resolver:a"), split(9999, "resolver:b")}, map[string]int{"a": 1, "b": 9999}},
		{"no weight, no requests", []connect.Split{split(0, "resolver:a"), split(10000, "resolver:b"), split(0, "resolver:c")}, map[string]int{"b": 10000}},
		{"the rest goes to the last with a weight", []connect.Split{split(3333, "resolver:a"), split(3333, "resolver:b"), split(3333, "resolver:c"), split(0, "resolver:a")},
			map[string]int{"a": 3333, "b": 3333, "c": 3334}},
		{"more than all is scaled", []connect.Split{split(10000, "resolver:a"), split(10000, "resolver:b")}, map[string]int{"a": 5000, "b": 5000}},
		{"one target twice", []connect.Split{split(2000, "resolver:a"), split(5000, "resolver:b"), split(3000, "resolver:a")}, map[string]int{"a": 5000, "b": 5000}},
		{"a splitter behind it", []connect.Split{split(5000, "resolver:a"), split(5000, "splitter:inner")}, map[string]int{"a": 5000, "b": 1250, "c": 3750}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := web("splitter:web", "a", "b", "c")
			c.Nodes["splitter:web"] = connect.Node{Kind: connect.SplitterNode, Splits: tc.splits}
			c.Nodes["splitter:inner"] = connect.Node{Kind: connect.SplitterNode, Splits: []connect.Split{split(2500, "resolver:b"), split(7500, "resolver:c")}}
			table := compile(t, c)
			if diff := cmp.Diff(tc.want, spread(t, table)); diff != "" {
				t.Error(diff)
			}
			if len(table.Destinations()) != len(tc.want) {
				t.Errorf("%d destinations", len(table.Destinations()))
			}
			if _, ok := table.Route(&connect.Head{Path: "/"}, 1<<31); !ok {
				t.Error("a draw out of range has no route")
			}
		})
	}
}

func TestEditsOfSplitsComeBeforeThoseOfTheRouteAndBothBeforeTheRewrite(t *testing.T) {
	edits := func(by string) connect.HeaderEdits {
		return connect.HeaderEdits{
			Set:    map[string]string{"x-last": by, "x-path": "%REQ(:path)%"},
			Add:    map[string]string{"x-all": by},
			Remove: []string{"x-secret-" + by},
		}
	}
	c := web("router:web", "a")
	c.Nodes["splitter:inner"] = connect.Node{Kind: connect.SplitterNode, Splits: []connect.Split{
		{Weight: 10000, Next: "resolver:a", RequestHeaders: edits("inner"), ResponseHeaders: edits("inner")}}}
	c.Nodes["splitter:outer"] = connect.Node{Kind: connect.SplitterNode, Splits: []connect.Split{
		{Weight: 10000, Next: "splitter:inner", RequestHeaders: edits("outer"), ResponseHeaders: edits("outer")}}}
	c.Nodes["router:web"] = connect.Node{Kind: connect.RouterNode, Routes: []connect.ChainRoute{{
		Match:         connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/v1"}},
		PrefixRewrite: "/", Next: "splitter:outer", RequestHeaders: edits("route"), ResponseHeaders: edits("route"),
	}}}
	h := &connect.Head{Path: "/v1/x", Header: connect.Header{"X-Secret-Inner": {"1"}, "X-Secret-Route": {"1"}, "X-Secret-Other": {"1"}}}
	choice, ok := compile(t, c).Route(h, 0)
	if !ok {
		t.Fatal("no route")
	}
	facts := &request.Facts{Request: h}
	choice.EditRequest(h, facts)
	want := connect.Header{"X-Last": {"route"}, "X-All": {"inner", "outer", "route"}, "X-Path": {"/v1/x"}, "X-Secret-Other": {"1"}}
	if diff := cmp.Diff(want, h.Header); diff != "" {
		t.Error(diff)
	}
	if h.Path != "/x" {
		t.Errorf("path %q", h.Path)
	}
	response := connect.Header{"X-Secret-Outer": {"1"}}
	choice.EditResponse(response, facts)
	want = connect.Header{"X-Last": {"route"}, "X-All": {"inner", "outer", "route"}, "X-Path": {"/x"}}
	if diff := cmp.Diff(want, response); diff != "" {
		t.Error(diff)
	}
}

func TestEditsOfARequestWithoutHeaderMakeOne(t *testing.T) {
	c := web("splitter:web", "a")
	c.Nodes["splitter:web"] = connect.Node{Kind: connect.SplitterNode, Splits: []connect.Split{
		{Weight: 10000, Next: "resolver:a", RequestHeaders: connect.HeaderEdits{Set: map[string]string{"x-a": "1"}}}}}
	h := &connect.Head{Path: "/"}
	choice, _ := compile(t, c).Route(h, 0)
	choice.EditRequest(h, nil)
	if !slices.Equal(h.Header["X-A"], []string{"1"}) {
		t.Errorf("header %v", h.Header)
	}
}

func busyTable(t testing.TB) *Table {
	c := web("router:web", "a", "b")
	c.Nodes["splitter:web"] = connect.Node{Kind: connect.SplitterNode, Splits: []connect.Split{
		{Weight: 9000, Next: "resolver:a"}, {Weight: 1000, Next: "resolver:b"}}}
	var routes []connect.ChainRoute
	for range 20 {
		routes = append(routes, connect.ChainRoute{Next: "resolver:b", Match: connect.RequestMatch{
			Path:    connect.PathMatch{Kind: connect.MatchPrefix, Value: "/api"},
			Headers: []connect.HeaderMatch{{Name: "x-canary", Kind: connect.MatchExact, Value: "1"}},
		}})
	}
	routes = append(routes, connect.ChainRoute{Next: "splitter:web", Retry: connect.Retry{On: []string{"5xx"}, StatusCodes: []int{429}}})
	c.Nodes["router:web"] = connect.Node{Kind: connect.RouterNode, Routes: routes}
	table, err := CompileHTTP(c, connect.Upstream{})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestRoutingAllocatesNothing(t *testing.T) {
	table := busyTable(t)
	h := &connect.Head{Method: "GET", Path: "/api/x?y=z", Header: connect.Header{"X-Canary": {"0"}}}
	var choice Choice
	n := testing.AllocsPerRun(100, func() {
		choice, _ = table.Route(h, 9_500)
		choice.EditRequest(h, nil)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if choice.Rule != 21 || choice.Node != "resolver:b" {
		t.Errorf("chose %+v", choice)
	}
}

func BenchmarkRoute(b *testing.B) {
	table := busyTable(b)
	h := &connect.Head{Method: "GET", Path: "/api/x?y=z", Header: connect.Header{"X-Canary": {"0"}}}
	b.ReportAllocs()
	draw := uint32(0)
	for b.Loop() {
		draw = (draw + 7_919) % Draws
		table.Route(h, draw)
	}
}
