// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/explain"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// explained is web, which calls api, whose chain may lead to other as well. Three
// sidecars are instances of api, two of other; each application says which it is.
type explained struct {
	ca       *meshca.CA
	web      *Proxy
	servers  []*Proxy
	services []string            // of servers
	base     []*connect.Snapshot // of servers
	address  []string            // of servers
}

func newExplained(t *testing.T) *explained {
	t.Helper()
	r := &explained{ca: meshca.New("root"), web: start(t, DefaultLimits()), services: []string{"api", "api", "api", "other", "other"}}
	for i, name := range r.services {
		p := start(t, DefaultLimits())
		s := service(r.ca, name, httpApp(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Who", fmt.Sprint(i))
			mirror(w, q)
		})))
		s.Service.Protocol = connect.HTTP
		apply(t, p, s)
		r.servers, r.base = append(r.servers, p), append(r.base, s)
		r.address = append(r.address, p.Inbound(t.Context()).String())
	}
	return r
}

// world is one random state of everything.
type world struct {
	web    *connect.Snapshot
	behind map[string]*connect.Snapshot // by service
}

// random is a source of small choices.
type random struct{ *rand.Rand }

func (r random) one(of ...string) string { return of[r.IntN(len(of))] }
func (r random) in(percent int) bool     { return r.IntN(100) < percent }

func (r random) match(routed bool) connect.RequestMatch {
	var m connect.RequestMatch
	switch r.IntN(4) {
	case 0:
		m.Path = connect.PathMatch{Kind: connect.MatchPrefix, Value: r.one("/a", "/a/", "/admin", "/")}
	case 1:
		m.Path = connect.PathMatch{Kind: connect.MatchExact, Value: r.one("/a", "/a/b", "/admin"), IgnoreCase: routed && r.in(50)}
	case 2:
		m.Path = connect.PathMatch{Kind: connect.MatchRegex, Value: r.one("/a/.*", "/[ab].*")}
	}
	if r.in(40) {
		m.Methods = []string{r.one(http.MethodGet, http.MethodPost)}
	}
	if r.in(40) {
		m.Headers = []connect.HeaderMatch{{Name: "x-user", Kind: connect.MatchKind(r.one("present", "exact", "prefix")), Value: r.one("ann", "bob"), Invert: r.in(30)}}
	}
	if routed && r.in(20) {
		m.Query = []connect.QueryMatch{{Name: "q", Kind: connect.MatchPresent}}
	}
	return m
}

func (r random) intentions(of string) []connect.Intention {
	var out []connect.Intention
	for range r.IntN(4) {
		i := intention(r.one("web", "*", "shop"), connect.Action(r.IntN(2)))
		i.Destination = r.one(of, "*")
		i.Precedence = 9
		if i.Destination == "*" {
			i.Precedence = 6
		}
		if i.Source.Name == "*" {
			i.Precedence--
		}
		for range r.IntN(4) * r.IntN(2) {
			i.Permissions = append(i.Permissions, connect.Permission{Action: connect.Action(r.IntN(2)), HTTP: r.match(false)})
		}
		if r.in(10) {
			i.JWT = &connect.JWTRequirement{Providers: []connect.JWTClaims{{Provider: "okta"}}}
		}
		out = append(out, i)
	}
	return connect.SortIntentions(out)
}

// world makes up a state. Every server is an endpoint of at most one target, so
// that whoever answers says which target was called.
func (r random) world(x *explained) world {
	w := world{behind: map[string]*connect.Snapshot{}, web: service(x.ca, "web", nil)}
	for i, name := range x.services {
		if w.behind[name] == nil {
			w.behind[name] = next(x.base[i], func(s *connect.Snapshot) {
				s.DefaultAction, s.Intentions = connect.Action(r.IntN(2)), r.intentions(name)
				s.Mesh.Normalization.MergeSlashes = r.in(50)
			})
		}
	}
	c := &connect.Chain{Service: "api", Protocol: connect.HTTP, Nodes: map[string]connect.Node{}, Targets: map[connect.TargetID]connect.Target{}}
	names := []connect.TargetID{"v1.api", "v2.api", "api", "other"}
	for _, id := range names {
		of := "api"
		if id == "other" {
			of = "other"
		}
		c.Targets[id] = connect.Target{ID: id, Service: of, Namespace: "default", Partition: "default", Datacenter: "dc1", SNI: string(id) + ".sni", Filter: "Service.Meta.version == 1"}
	}
	for i, name := range x.services {
		id := names[r.IntN(3)]
		if name == "other" {
			id = "other"
		}
		e := endpointsAt(x.servers[i].Inbound(context.Background()))[0]
		if r.in(30) {
			e.Unusable, e.Weight = `check "db" is critical`, 0
		}
		w.web.Endpoints[id] = append(w.web.Endpoints[id], e)
	}
	c.Start = r.node(c, names, 2)
	w.web.Chains["api"] = c
	w.web.Upstreams = []connect.Upstream{{ID: "api", Name: "api", BindAddress: "127.0.0.1", MaxConnections: -1, MaxPending: -1, MaxRequests: -1}}
	return w
}

// node adds a random node of at most a kind (0 resolver, 1 splitter, 2 router)
// with what lies below.
func (r random) node(c *connect.Chain, targets []connect.TargetID, kind int) string {
	name := fmt.Sprintf("n%d", len(c.Nodes))
	c.Nodes[name] = connect.Node{}
	var n connect.Node
	switch min(kind, r.IntN(kind+2)) {
	case 2:
		n = connect.Node{Kind: connect.RouterNode, Name: "api"}
		for range 1 + r.IntN(3) {
			m := r.match(true)
			rewrite := ""
			if m.Path.Kind == connect.MatchPrefix && r.in(30) {
				rewrite = r.one("/new", "/admin")
			}
			n.Routes = append(n.Routes, connect.ChainRoute{Match: m, Next: r.node(c, targets, 1), PrefixRewrite: rewrite})
		}
		if r.in(70) {
			n.Routes = append(n.Routes, connect.ChainRoute{Next: r.node(c, targets, 1)})
		}
	case 1:
		first := 1000 * (1 + r.IntN(9))
		n = connect.Node{Kind: connect.SplitterNode, Name: "api", Splits: []connect.Split{
			{Weight: first, Next: r.node(c, targets, 0), RequestHeaders: connect.HeaderEdits{Set: map[string]string{"X-User": r.one("ann", "bob")}}},
			{Weight: 10_000 - first, Next: r.node(c, targets, 0)},
		}}
	default:
		order := r.Perm(len(targets))
		res := &connect.Resolver{Target: targets[order[0]]}
		for _, i := range order[1 : 1+r.IntN(3)] {
			res.Failover = append(res.Failover, targets[i])
		}
		if r.in(30) {
			res.LoadBalancer = connect.LoadBalancer{Policy: r.one("ring_hash", "maglev"), Hash: []connect.HashPolicy{{Field: "header", Value: "x-user"}}}
		}
		n = connect.Node{Kind: connect.ResolverNode, Name: name, Resolver: res}
	}
	c.Nodes[name] = n
	return name
}

func (r random) question(t *testing.T) explain.Question {
	t.Helper()
	var header []string
	if r.in(60) {
		header = append(header, "X-User: "+r.one("ann", "bob", "eve"))
	}
	path := r.one("/", "/a", "/A", "/a/b", "/a//b", "/a/../admin", "/admin", "/b", "/a%00") + r.one("", "?q=1")
	q, err := explain.New("web", "api", r.one(http.MethodGet, http.MethodPost), path, "", header)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// apply puts a state in force. Now and then an endpoint has just failed so often
// that it is ejected.
func (x *explained) apply(t *testing.T, r random, w world) {
	t.Helper()
	for i, name := range x.services {
		apply(t, x.servers[i], next(x.base[i], func(s *connect.Snapshot) {
			from := w.behind[name]
			s.DefaultAction, s.Intentions, s.Mesh = from.DefaultAction, from.Intentions, from.Mesh
		}))
	}
	apply(t, x.web, w.web)
	u := x.web.runtime.Load().upstreams["api"]
	for _, l := range u.everyLeg() {
		if n := l.group.Len(); n > 0 && r.in(30) {
			for range defaultFailures {
				l.group.Failed(&l.group.Entries()[r.IntN(n)], time.Now(), "made to fail")
			}
		}
	}
}

const defaultFailures = 5 * 3

// live asks the proxies that run.
type live struct{ x *explained }

func (l live) Outbound(ctx context.Context, q explain.Question) *explain.Outbound {
	out := l.x.web.ExplainOutbound(ctx, q)
	return &out
}

func (l live) Inbound(ctx context.Context, a explain.Arrival) explain.Inbound {
	return l.x.servers[slices.Index(l.x.services, a.Service.Name)].ExplainInbound(ctx, a)
}

// saved asks snapshots that nobody runs, without leaf and roots.
type saved struct {
	t *testing.T
	world
}

func (s saved) asked(snapshot *connect.Snapshot) *Explained {
	bare := *snapshot
	bare.Leaf, bare.Bundle = nil, &connect.TrustBundle{TrustDomain: meshca.TrustDomain}
	e, err := Explain(&bare)
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s saved) Outbound(_ context.Context, q explain.Question) *explain.Outbound {
	out := s.asked(s.web).Outbound(q, time.Now())
	return &out
}

func (s saved) Inbound(_ context.Context, a explain.Arrival) explain.Inbound {
	return s.asked(s.behind[a.Service.Name]).Inbound(a, time.Now())
}

// differs says in what the answer to a real request is none that the explanation
// holds for possible; "" when it is one.
func (x *explained) differs(t *testing.T, e explain.Explanation, q explain.Question) string {
	t.Helper()
	req := newRequest(t, q.Method, "http://"+x.web.Outbound(t.Context(), "api").String(), nil)
	req.URL.Opaque = q.Path
	req.Host = "api"
	maps.Copy(req.Header, http.Header(q.Header))
	got := send(t, clientOf(t, false), req)
	reason := connect.Reason(got.header.Get("X-Outrider-Reason"))
	var who string
	if i := strings.Index("01234", got.header.Get("Who")); got.header.Get("Who") != "" {
		who = x.address[i]
	}
	path, _, _ := strings.Cut(got.header.Get("Echo-Path"), "?")
	for i, o := range e.Verdict.Outcomes {
		if o.Reason != reason || (o.Reason == "") != (got.status == http.StatusOK) {
			continue
		}
		if reason != "" || serves(e, i, who, path) {
			return ""
		}
	}
	return fmt.Sprintf("%s %s: %d %q by %s at %q", q.Method, q.Path, got.status, reason, who, path)
}

// serves reports whether the way of an outcome leads to who answered, with the
// path that was judged.
func serves(e explain.Explanation, outcome int, who, path string) bool {
	for _, target := range e.Outbound.Ways[outcome].Targets {
		for _, endpoint := range target.Endpoints {
			if target.Called && endpoint.Chosen && endpoint.Address == who {
				return slices.ContainsFunc(e.Inbound, func(in explain.Inbound) bool { return in.Service == target.Service && in.Path == path })
			}
		}
	}
	return false
}

// What explain says of random states is what the proxies then do: who is called,
// or for what reason nobody is.
func TestExplainSaysWhatTheProxyThenDoes(t *testing.T) {
	x := newExplained(t)
	seen := map[connect.Reason]int{}
	for seed := range uint64(80) {
		r := random{rand.New(rand.NewPCG(seed, 1))}
		w := r.world(x)
		x.apply(t, r, w)
		for range 6 {
			q := r.question(t)
			e := explain.Compose(t.Context(), live{x}, q)
			if why := x.differs(t, e, q); why != "" {
				text, _ := json.MarshalIndent(e, "", "  ")
				t.Fatalf("seed %d: what happened is not what was explained: %s\n%s", seed, why, text)
			}
			for _, o := range e.Verdict.Outcomes {
				seen[o.Reason]++
			}
		}
	}
	for _, want := range []connect.Reason{"", connect.IntentionDenied, connect.JWTInvalid, connect.NoRoute, connect.NoHealthyEndpoint, connect.RequestInvalid} {
		if seen[want] < 5 {
			t.Errorf("%q was met %d times only: the states are not random enough: %v", want, seen[want], seen)
		}
	}
}

// The comparison must be able to fail: an explanation of a state that differs in
// one thing does not pass it.
func TestExplanationOfAnotherStateIsFoundOut(t *testing.T) {
	x := newExplained(t)
	for name, change := range map[string]func(w *world){
		"a default turned round": func(w *world) {
			for _, s := range w.behind {
				s.DefaultAction = 1 - s.DefaultAction
			}
		},
		"intentions forgotten": func(w *world) {
			for _, s := range w.behind {
				s.Intentions = nil
			}
		},
		"an endpoint well that is not": func(w *world) {
			for _, list := range w.web.Endpoints {
				for i := range list {
					list[i].Unusable, list[i].Weight = "", 1
				}
			}
		},
		"a router that forgets its first route": func(w *world) {
			c := w.web.Chains["api"]
			if n := c.Nodes[c.Start]; len(n.Routes) > 1 {
				n.Routes = n.Routes[1:]
				c.Nodes[c.Start] = n
			}
		},
		"a path that is not normalised": func(w *world) {
			for _, s := range w.behind {
				s.Mesh.Normalization.KeepPath = true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			found := 0
			for seed := range uint64(60) {
				r := random{rand.New(rand.NewPCG(seed, 2))}
				w := r.world(x)
				x.apply(t, r, w)
				changed := random{rand.New(rand.NewPCG(seed, 2))}.world(x)
				change(&changed)
				q := r.question(t)
				if x.differs(t, explain.Compose(t.Context(), saved{t, changed}, q), q) != "" {
					if found++; found == 2 {
						return
					}
				}
			}
			t.Errorf("%d explanations of 60 were found out", found)
		})
	}
}

// A saved snapshot, which has no key and no certificates, is explained as the one
// in force is.
func TestSavedSnapshotIsExplainedAsTheOneInForce(t *testing.T) {
	x := newExplained(t)
	for seed := range uint64(20) {
		r := random{rand.New(rand.NewPCG(seed, 3))}
		w := r.world(x)
		x.apply(t, random{rand.New(rand.NewPCG(seed, 4))}, world{web: w.web, behind: w.behind})
		x.web.registry.Retain(nil) // what was ejected is none of the snapshot's
		apply(t, x.web, next(w.web, func(*connect.Snapshot) {}))
		q := r.question(t)
		got, want := explain.Compose(t.Context(), saved{t, w}, q), explain.Compose(t.Context(), live{x}, q)
		for _, e := range []*explain.Explanation{&got, &want} {
			e.Outbound.Listener, e.Outbound.Snapshot = "", 0
			for i := range e.Inbound {
				e.Inbound[i].Snapshot = 0
			}
		}
		if diff := cmp.Diff(mustJSON(t, want), mustJSON(t, got)); diff != "" {
			t.Fatalf("seed %d (-in force +saved):\n%s", seed, diff)
		}
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
