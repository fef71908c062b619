// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package route

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func TestTimeoutsAndWhereTheyComeFrom(t *testing.T) {
	const resolver = 3 * time.Second
	routed := func(request, idle time.Duration) *connect.Chain {
		c := web("router:web", "a")
		c.Nodes["router:web"] = connect.Node{Kind: connect.RouterNode, Routes: []connect.ChainRoute{
			{Next: "resolver:a", RequestTimeout: request, IdleTimeout: idle}}}
		c.Nodes["resolver:a"].Resolver.RequestTimeout = resolver
		return c
	}
	resolved := func(d time.Duration) *connect.Chain {
		c := web("resolver:a", "a")
		c.Nodes["resolver:a"].Resolver.RequestTimeout = d
		return c
	}
	split := web("splitter:web", "a")
	split.Nodes["splitter:web"] = connect.Node{Kind: connect.SplitterNode, Splits: []connect.Split{{Weight: 10000, Next: "resolver:a"}}}
	split.Nodes["resolver:a"].Resolver.RequestTimeout = resolver
	for _, tc := range []struct {
		name          string
		chain         *connect.Chain
		timeout, idle time.Duration
		rule          int
	}{
		{"route", routed(time.Minute, time.Hour), time.Minute, time.Hour, 1},
		{"route with defaults ignores the resolver", routed(0, 0), DefaultRequestTimeout, DefaultIdleTimeout, 1},
		{"route without", routed(-1, -1), 0, 0, 1},
		{"resolver", resolved(resolver), resolver, DefaultIdleTimeout, 0},
		{"resolver with the default", resolved(0), DefaultRequestTimeout, DefaultIdleTimeout, 0},
		{"resolver without", resolved(-1), 0, DefaultIdleTimeout, 0},
		{"splitter ignores the resolver", split, DefaultRequestTimeout, DefaultIdleTimeout, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := compile(t, tc.chain).Route(&connect.Head{Path: "/"}, 0)
			if !ok || got.Timeout != tc.timeout || got.Idle != tc.idle || got.Rule != tc.rule || got.Node != "resolver:a" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestDestinationsHaveTheLegsAndTheBalancerOfTheirResolver(t *testing.T) {
	c := web("router:web", "a", "b", "c")
	c.Nodes["resolver:a"].Resolver.Failover = []connect.TargetID{"c"}
	c.Nodes["resolver:a"].Resolver.LoadBalancer = connect.LoadBalancer{Policy: "maglev"}
	c.Nodes["router:web"] = connect.Node{Kind: connect.RouterNode, Routes: []connect.ChainRoute{
		{Next: "resolver:b"}, {Next: "resolver:a"}, {Next: "resolver:b"}}}
	table, err := CompileHTTP(c, connect.Upstream{ConnectTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	leg := func(id connect.TargetID) Leg {
		return Leg{Target: connect.Target{ID: id, Service: string(id)}, ConnectTimeout: time.Second}
	}
	want := []Route{{Legs: []Leg{leg("b")}}, {Legs: []Leg{leg("a"), leg("c")}, LoadBalancer: connect.LoadBalancer{Policy: "maglev"}}}
	if diff := cmp.Diff(want, table.Destinations()); diff != "" {
		t.Error(diff)
	}
}

func TestARequestThatNoRuleMatchesHasNoRoute(t *testing.T) {
	c := web("router:web", "a")
	c.Nodes["router:web"] = connect.Node{Kind: connect.RouterNode, Routes: []connect.ChainRoute{
		{Next: "resolver:a", Match: connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/a"}}}}}
	if got, ok := compile(t, c).Route(&connect.Head{Path: "/b"}, 0); ok {
		t.Errorf("got %+v", got)
	}
}

func TestWhatAChainDoesNotGetIsAWarningThatNamesThePlace(t *testing.T) {
	c := web("router:web", "a")
	c.Nodes["splitter:s"] = connect.Node{Kind: connect.SplitterNode, Splits: []connect.Split{
		{Weight: 10000, Next: "resolver:a", ResponseHeaders: connect.HeaderEdits{Remove: []string{":status"}}}}}
	c.Nodes["router:web"] = connect.Node{Kind: connect.RouterNode, Routes: []connect.ChainRoute{
		{Next: "resolver:a"},
		{
			Next: "splitter:s", Retry: connect.Retry{On: []string{"5xx", "sometimes"}},
			RequestHeaders: connect.HeaderEdits{Set: map[string]string{"host": "x", "x-a": "%NO_SUCH%"}},
		},
	}}
	got := strings.Join(compile(t, c).Warnings(), "\n")
	for _, want := range []string{
		`route 2: retry_on "sometimes" is not known`,
		`route 2: request headers: header field "host" is not edited`,
		`route 2: request headers: header field "x-a": format command %NO_SUCH% is not known`,
		`splitter "splitter:s": split 1: response headers: header field ":status" is not removed`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestChainsThatCannotDecideOnRequestsAreErrors(t *testing.T) {
	router := func(routes ...connect.ChainRoute) *connect.Chain {
		c := web("router:web", "a")
		c.Nodes["router:web"] = connect.Node{Kind: connect.RouterNode, Routes: routes}
		return c
	}
	splitter := func(splits ...connect.Split) *connect.Chain {
		c := web("splitter:web", "a")
		c.Nodes["splitter:web"] = connect.Node{Kind: connect.SplitterNode, Splits: splits}
		return c
	}
	regex := connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchRegex, Value: "("}}
	missing := web("resolver:a", "a")
	missing.Nodes["resolver:a"].Resolver.Failover = []connect.TargetID{"gone"}
	many := make(map[string]string, 1001)
	for i := range 1001 {
		many[fmt.Sprintf("x-%d", i)] = "1"
	}
	for _, tc := range []struct {
		name  string
		chain *connect.Chain
		want  string
	}{
		{"no start", web("resolver:b", "a"), `"web" has no start node "resolver:b"`},
		{"pattern", router(connect.ChainRoute{Next: "resolver:a"}, connect.ChainRoute{Match: regex, Next: "resolver:a"}), `"web": route 2: match path: regular expression "("`},
		{"rewrite", router(connect.ChainRoute{Next: "resolver:a", PrefixRewrite: "/x"}), `route 1: rewrite path to "/x"`},
		{"edits of the request", router(connect.ChainRoute{Next: "resolver:a", RequestHeaders: connect.HeaderEdits{Set: many}}), "route 1: request headers: edit 1001"},
		{"edits of the response", splitter(connect.Split{Weight: 1, Next: "resolver:a", ResponseHeaders: connect.HeaderEdits{Add: many}}), "split 1: response headers: edit 1001"},
		{"next node", router(connect.ChainRoute{Next: "resolver:b"}), `route 1: it names node "resolver:b"`},
		{"router behind a router", router(connect.ChainRoute{Next: "router:web"}), `node "router:web" is a router`},
		{"target", missing, `names target "gone"`},
		{"splitter without weight", splitter(connect.Split{Next: "resolver:a"}), "no split with a weight"},
		{"splitter without splits", splitter(), "no split with a weight"},
		{"negative weight", splitter(connect.Split{Weight: -1, Next: "resolver:a"}), "has the weight -1"},
		{"endless splitters", splitter(connect.Split{Weight: 10000, Next: "splitter:web"}), "more than 8 splitters"},
		{"many routes", router(make([]connect.ChainRoute, maxRules+1)...), "router has 5001 routes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := CompileHTTP(tc.chain, connect.Upstream{}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestSplittersThatMultiplyEndAtALimit(t *testing.T) {
	c := web("splitter:0", "a")
	for i := range maxDepth {
		var splits []connect.Split
		for range 10 {
			splits = append(splits, connect.Split{Weight: 1000, Next: fmt.Sprintf("splitter:%d", i+1)})
		}
		c.Nodes[fmt.Sprintf("splitter:%d", i)] = connect.Node{Kind: connect.SplitterNode, Splits: splits}
	}
	c.Nodes[fmt.Sprintf("splitter:%d", maxDepth)] = c.Nodes["resolver:a"]
	if _, err := CompileHTTP(c, connect.Upstream{}); err == nil || !strings.Contains(err.Error(), "more than 20000 ways") {
		t.Errorf("got %v", err)
	}
}

func TestRetryWords(t *testing.T) {
	limited := connect.Header{"X-Envoy-Ratelimited": {"true"}}
	type response struct {
		status int
		grpc   string
		header connect.Header
	}
	for _, tc := range []struct {
		in       connect.Retry
		yes, no  []response
		failures []Failure
	}{
		{connect.Retry{On: []string{"5xx"}}, []response{{500, "", nil}, {503, "", nil}, {599, "", nil}}, []response{{499, "", nil}, {600, "", nil}, {503, "", limited}, {200, "14", nil}}, []Failure{ConnectFailure, Reset, RefusedStream}},
		{connect.Retry{On: []string{"gateway-error"}}, []response{{502, "", nil}, {503, "", nil}, {504, "", nil}}, []response{{500, "", nil}, {501, "", nil}, {505, "", nil}}, []Failure{ConnectFailure, Reset, RefusedStream}},
		{connect.Retry{On: []string{"reset"}}, nil, []response{{503, "", nil}}, []Failure{ConnectFailure, Reset, RefusedStream}},
		{connect.Retry{On: []string{"connect-failure"}}, nil, []response{{503, "", nil}}, []Failure{ConnectFailure}},
		{connect.Retry{ConnectFailure: true}, nil, []response{{503, "", nil}}, []Failure{ConnectFailure}},
		{connect.Retry{On: []string{"refused-stream"}}, nil, []response{{503, "", nil}}, []Failure{RefusedStream}},
		{connect.Retry{On: []string{"retriable-4xx"}}, []response{{409, "", nil}}, []response{{404, "", nil}, {429, "", nil}}, nil},
		{connect.Retry{On: []string{"envoy-ratelimited"}}, []response{{429, "", limited}, {200, "", limited}}, []response{{429, "", nil}}, nil},
		{connect.Retry{On: []string{"cancelled"}}, []response{{200, "1", nil}}, []response{{200, "0", nil}, {200, "", nil}, {200, "14", nil}}, nil},
		{connect.Retry{On: []string{"deadline-exceeded"}}, []response{{200, "4", nil}}, []response{{200, "14", nil}}, nil},
		{connect.Retry{On: []string{"resource-exhausted"}}, []response{{200, "8", nil}}, []response{{200, "14", nil}}, nil},
		{connect.Retry{On: []string{"internal"}}, []response{{200, "13", nil}}, []response{{500, "", nil}, {200, "2", nil}}, nil},
		{connect.Retry{On: []string{"unavailable"}}, []response{{200, "14", nil}}, []response{{503, "", nil}, {200, "14", limited}}, nil},
		{connect.Retry{StatusCodes: []int{418, 404}}, []response{{418, "", nil}, {404, "", nil}}, []response{{503, "", nil}, {404, "", limited}}, nil},
		{connect.Retry{On: []string{"sometimes"}, Attempts: 3}, nil, []response{{503, "", nil}}, nil},
		{connect.Retry{Attempts: 3}, nil, []response{{503, "", nil}}, nil},
	} {
		r, _ := compileRetry(tc.in)
		for _, y := range tc.yes {
			if !r.OnStatus(y.status, y.grpc, y.header) {
				t.Errorf("%+v: not on %+v", tc.in, y)
			}
		}
		for _, n := range tc.no {
			if r.OnStatus(n.status, n.grpc, n.header) {
				t.Errorf("%+v: on %+v", tc.in, n)
			}
		}
		var failures []Failure
		for _, f := range []Failure{ConnectFailure, Reset, RefusedStream} {
			if r.OnFailure(f) {
				failures = append(failures, f)
			}
		}
		if diff := cmp.Diff(tc.failures, failures); diff != "" {
			t.Errorf("%+v: failures (-want +got):\n%s", tc.in, diff)
		}
		if r.OnFailure(0) {
			t.Errorf("%+v: on no failure", tc.in)
		}
	}
}

func TestRetriesNeedAConditionAndAreOneUnlessCounted(t *testing.T) {
	for _, tc := range []struct {
		in   connect.Retry
		want int
	}{
		{connect.Retry{}, 0},
		{connect.Retry{Attempts: 5}, 0},
		{connect.Retry{Attempts: 5, On: []string{"sometimes"}}, 0},
		{connect.Retry{On: []string{"5xx"}}, 1},
		{connect.Retry{On: []string{"5xx"}, Attempts: 5}, 5},
		{connect.Retry{ConnectFailure: true, Attempts: -1}, 1},
		{connect.Retry{StatusCodes: []int{503}, Attempts: 2}, 2},
	} {
		r, _ := compileRetry(tc.in)
		if r.Attempts() != tc.want || r.Enabled() != (tc.want > 0) {
			t.Errorf("%+v: %d attempts, enabled %v", tc.in, r.Attempts(), r.Enabled())
		}
	}
}

func TestBackoffDoublesToItsLimitAndIsAnythingBelow(t *testing.T) {
	almost := math.Nextafter(1, 0)
	for _, tc := range []struct {
		try   int
		limit time.Duration
	}{
		{-1, 25}, {0, 25}, {1, 25}, {2, 50}, {3, 100}, {4, 200}, {5, 250}, {6, 250}, {1 << 30, 250},
	} {
		limit := tc.limit * time.Millisecond
		for rnd, want := range map[float64]time.Duration{0: 0, 0.5: limit / 2, -1: 0, 7: limit} {
			if got := (Retry{}).Backoff(tc.try, rnd); got != want {
				t.Errorf("try %d, %v: got %v, want %v", tc.try, rnd, got, want)
			}
		}
		if got := (Retry{}).Backoff(tc.try, almost); got < limit-2 || got > limit {
			t.Errorf("try %d: got %v at most, want %v", tc.try, got, limit)
		}
		if got := (Retry{}).Backoff(tc.try, math.NaN()); got != 0 {
			t.Errorf("try %d: got %v for no number", tc.try, got)
		}
	}
}
