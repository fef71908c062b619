// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package ledger

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

func at(second int) time.Time { return time.Unix(1_700_000_000+int64(second), 5).UTC() }

func from(service string) connect.Identity {
	return connect.Identity{TrustDomain: "t.consul", Partition: "default", Namespace: "default", Datacenter: "dc1", Service: service}
}

// request is an inbound request that intentions allowed.
func request(source, method, path string, second int) *flow.Record {
	return &flow.Record{
		Kind: flow.Request, Direction: flow.Inbound, Service: "api", Source: from(source), Method: method, Path: path,
		Judged: true, Allowed: true, Start: at(second),
	}
}

func TestCallsOfOneKindAreOneEdge(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	for i, path := range []string{"/users/1", "/users/22?token=secret", "/users/333"} {
		l.Done(request("web", "GET", path, 10*i))
	}
	denied := request("web", "GET", "/users/1", 5)
	denied.Allowed = false
	l.Done(denied)
	peered := request("web", "POST", "/users", 7)
	peered.Source.Peer, peered.Source.Namespace = "east", "team"
	l.Done(peered)
	l.Done(&flow.Record{Kind: flow.Connection, Direction: flow.Inbound, Service: "db", Source: from("web"), Judged: true, Allowed: true, Start: at(1)})
	l.Done(&flow.Record{Kind: flow.Request, Direction: flow.Outbound, Source: from("api"), Upstream: "db-local", Target: "v2.db.default.default.dc1",
		Endpoint: "10.0.0.1:1", Method: "GET", Path: "/", Start: at(2)})
	l.Done(&flow.Record{Kind: flow.Connection, Direction: flow.Outbound, Source: from("api"), Upstream: "query:geo", Endpoint: "10.0.0.1:1",
		Remote: true, Reason: connect.IntentionDenied, Start: at(3)})
	seen := func(first, last int) (time.Time, time.Time) {
		return at(first).Truncate(time.Second), at(last).Truncate(time.Second)
	}
	edge := func(e Edge, first, last int) Edge {
		e.First, e.Last = seen(first, last)
		return e
	}
	want := Edges{Version: 1, Edges: []Edge{
		edge(Edge{Direction: "inbound", Source: "web", Destination: "api", Method: "GET", Path: "/users/{id}", Sample: "/users/1", Allowed: true, Count: 3}, 0, 20),
		edge(Edge{Direction: "inbound", Source: "web", Destination: "api", Method: "GET", Path: "/users/{id}", Sample: "/users/1", Count: 1}, 5, 5),
		edge(Edge{Direction: "inbound", Source: "web", Peer: "east", Namespace: "team", Destination: "api", Method: "POST", Path: "/users", Allowed: true, Count: 1}, 7, 7),
		edge(Edge{Direction: "inbound", Source: "web", Destination: "db", Allowed: true, Count: 1}, 1, 1),
		edge(Edge{Direction: "outbound", Source: "api", Destination: "db", Method: "GET", Path: "/", Allowed: true, Count: 1}, 2, 2),
		edge(Edge{Direction: "outbound", Source: "api", Destination: "query:geo", Count: 1}, 3, 3),
	}}
	if diff := cmp.Diff(want, l.Edges()); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
}

func TestWhatNobodyJudgedIsNoEdge(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	unjudged := request("web", "GET", "/", 0)
	unjudged.Judged = false
	nobody := request("", "GET", "/", 0)
	long := request(strings.Repeat("x", 400), "GET", "/", 0)
	for _, r := range []*flow.Record{
		unjudged, nobody, long,
		{Kind: flow.Request, Direction: flow.Exposed, Service: "api", Method: "GET", Path: "/health"},
		{Kind: flow.Connection, Direction: flow.Passed, Source: from("api"), Endpoint: "1.1.1.1:1"},
		{Kind: flow.Request, Direction: flow.Outbound, Source: from("api"), Upstream: "db", Method: "GET", Path: "/", Reason: connect.NoHealthyEndpoint},
		{Kind: flow.Connection, Direction: flow.Inbound, Service: "api", Source: from("web"), Judged: true, Allowed: true, Requests: 3},
	} {
		l.Done(r)
	}
	if got := l.Edges(); len(got.Edges) != 0 {
		t.Errorf("edges %v", got.Edges)
	}
}

func TestFormOfAPathHoldsNoID(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/":          "/",
		"":           "",
		"*":          "*",
		"/v1/users":  "/v1/users",
		"/users/42":  "/users/{id}",
		"/users/42/": "/users/{id}/",
		"//a":        "//a",
		"/a/0b5f0c4e-8a61-4a3c-9f0e-2f1b6b1f4a7d/b":       "/a/{id}/b",
		"/blobs/deadbeef01":                               "/blobs/{id}",
		"/c/9F86D081884C7D65":                             "/c/{id}",
		"/reset/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc": "/reset/{id}",
		"/invite/AbCdEfGhIjKlMnOp":                        "/invite/{id}",
		"/mail/anna@example.com":                          "/mail/{id}",
		"/q/%E2%82%AC%E2%82%AC":                           "/q/{id}",
		"/order-20251118-0042/x":                          "/{id}/x",
		"/get-all-customer-accounts":                      "/get-all-customer-accounts",
		"/pkg.v1.Service/GetThing":                        "/pkg.v1.Service/GetThing",
		"/oauth2/authorize":                               "/oauth2/authorize",
		"/" + strings.Repeat("name-", 20):                 "/{id}",
		strings.Repeat("/a", 30):                          strings.Repeat("/a", 12) + "/**",
		strings.Repeat("/abcdefghijklmnopqrstuvwxyz", 8):  strings.Repeat("/abcdefghijklmnopqrstuvwxyz", 5) + "/**",
		"/{id}": "/{id}",
		"/**":   "/{id}",
	} {
		if got := string(appendForm(nil, path)); got != want {
			t.Errorf("%s: form %s, want %s", path, got, want)
		}
	}
}

func TestSampleHasTheFormAndNothingOfThePath(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	l.Done(request("web", "GET", "/u/4711/r/eyJhbGciOiJIUzI1NiJ9_Secret-9", 0))
	e := l.Edges().Edges[0]
	if e.Sample != "/u/1111/r/aaAaaAaaAaAAAaA1AaA1_Aaaaaa-1" {
		t.Errorf("sample %s", e.Sample)
	}
	if got := string(appendForm(nil, e.Sample)); got != e.Path {
		t.Errorf("the sample has the form %s, want %s", got, e.Path)
	}
}

// A caller chooses paths and methods, so none of them may fill the memory or
// push out what others did.
func TestOneCallerCannotFillTheLedger(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	for i := range 10_000 {
		r := request("evil", fmt.Sprintf("M%c%c%c", 'A'+i%26, 'A'+i/26%26, 'A'+i/676%26), "/p"+strings.Repeat("x", i%40)+string(rune('a'+i%26)), i)
		r.Allowed = false
		l.Done(r)
	}
	l.Done(request("evil", "GET", "/fine", 1))
	l.Done(request("web", "GET", "/fine", 1))
	e := l.Edges()
	if len(e.Edges) > maxPaths+12 || e.Forgotten != 0 {
		t.Errorf("%d edges, %d forgotten", len(e.Edges), e.Forgotten)
	}
	var calls uint64
	found := map[string]bool{}
	for _, one := range e.Edges {
		if one.Source == "evil" && !one.Allowed {
			calls += one.Count
		}
		found[fmt.Sprintf("%s %v", one, one.Allowed)] = true
	}
	if calls != 10_000 {
		t.Errorf("%d calls are counted", calls)
	}
	for _, want := range []string{"web → api GET /fine true", "evil → api GET /fine true", "evil → api * /** false"} {
		if !found[want] {
			t.Errorf("%s is not there", want)
		}
	}
}

func TestWhatIsTooMuchIsCounted(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	connection := func(name string, i int) *flow.Record {
		return &flow.Record{Kind: flow.Connection, Direction: flow.Inbound, Service: "db", Source: from(name), Judged: true, Allowed: true, Start: at(i)}
	}
	for i := range maxEdges + 100 {
		l.Done(connection(fmt.Sprintf("s%d", i), i))
	}
	e := l.Edges()
	if len(e.Edges) != maxEdges || e.Forgotten != 100 {
		t.Errorf("%d edges, %d forgotten", len(e.Edges), e.Forgotten)
	}
	l = New(Options{})
	for i := range maxEdges {
		l.Done(connection(strings.Repeat("s", 250)+fmt.Sprint(i), i))
	}
	if e := l.Edges(); len(e.Edges) >= maxEdges || e.Forgotten == 0 || l.bytes[0] > maxBytes {
		t.Errorf("%d edges of %d bytes, %d forgotten", len(e.Edges), l.bytes[0], e.Forgotten)
	}
}

// A peer signs its own certificates, and names as many services as it likes.
func TestGuestsLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	for i := range 2 * maxEdges {
		r := request(fmt.Sprintf("s%d", i), "GET", "/", i)
		if i%2 == 0 {
			r.Source.Peer = "east"
		} else {
			r.Allowed = false
		}
		l.Done(r)
	}
	for i := range maxEdges / 2 {
		l.Done(request(fmt.Sprintf("w%d", i), "GET", "/", i))
	}
	e := l.Edges()
	ours := 0
	for _, one := range e.Edges {
		if one.Allowed && one.Peer == "" {
			ours++
		}
	}
	if ours != maxEdges/2 || len(e.Edges) != maxEdges || e.Forgotten != 3*maxEdges/2 {
		t.Errorf("%d edges of ours among %d, %d forgotten", ours, len(e.Edges), e.Forgotten)
	}
}

// One name that a file cannot hold must not cost the file.
func TestWhatCannotBeWrittenIsNoEdge(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	l.Done(request("a\x1b[2J", "GET", "/", 0))
	l.Done(request("a\xff", "GET", "/", 0))
	l.Done(request("web", "GET", `/"quoted"/{x}`, 0))
	text, err := json.Marshal(l.Edges())
	if err != nil {
		t.Fatal(err)
	}
	e, err := Parse(text)
	if err != nil || len(e.Edges) != 1 || e.Forgotten != 2 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestCallsAreCountedWhoeverServesThem(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	const workers, calls = 8, 2000
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(w), 1))
			for i := range calls {
				l.Done(request(fmt.Sprintf("s%d", random.IntN(20)), "GET", fmt.Sprintf("/%c/%d/%d", 'a'+rune(random.IntN(26)), random.IntN(4), i), i))
				if i%500 == 0 {
					l.Edges()
				}
			}
		})
	}
	group.Wait()
	var sum uint64
	for _, e := range l.Edges().Edges {
		sum += e.Count
	}
	if sum != workers*calls {
		t.Errorf("%d calls are counted, want %d", sum, workers*calls)
	}
}

func TestKnownEdgeCostsNoAllocation(t *testing.T) {
	l := New(Options{})
	r := request("web", "GET", "/api/v1/users/4711/orders/0b5f0c4e-8a61-4a3c-9f0e-2f1b6b1f4a7d?x=y", 1)
	l.Done(r)
	if n := testing.AllocsPerRun(100, func() { l.Done(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkKnownEdge(b *testing.B) {
	l := New(Options{})
	r := request("web", "GET", "/api/v1/users/4711/orders", 1)
	l.Done(r)
	b.ReportAllocs()
	for b.Loop() {
		l.Done(r)
	}
}

func BenchmarkKnownEdgeParallel(b *testing.B) {
	l := New(Options{})
	r := request("web", "GET", "/api/v1/users/4711/orders", 1)
	l.Done(r)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Done(r)
		}
	})
}

func FuzzForm(f *testing.F) {
	f.Add("/a/1/b")
	f.Add("/" + strings.Repeat("x/", 40))
	f.Add("/%2e/a@b/{id}/**")
	f.Fuzz(func(t *testing.T, path string) {
		form := appendForm(nil, path)
		if len(form) > maxForm+len(anyPath) {
			t.Fatalf("form of %d bytes", len(form))
		}
		if len(path) > 0 && path[0] == '/' && (len(form) == 0 || form[0] != '/') {
			t.Fatalf("form %q of %q", form, path)
		}
		if strings.Contains(string(form), idForm) {
			if got := string(appendForm(nil, sample(path, string(form)))); strings.Count(got, "/") < strings.Count(strings.TrimSuffix(string(form), anyPath), "/") {
				t.Fatalf("sample %q of %q has the form %q", sample(path, string(form)), form, got)
			}
		}
	})
}
