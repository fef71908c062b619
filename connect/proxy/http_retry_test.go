// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// routed gives the upstream a router with one route in front of its resolver.
func routed(s *connect.Snapshot, r connect.ChainRoute) {
	old := s.Chains["api"]
	c := *old
	r.Next = "r"
	c.Start = "router"
	c.Nodes = map[string]connect.Node{"r": old.Nodes["r"], "router": {Kind: connect.RouterNode, Routes: []connect.ChainRoute{r}}}
	s.Chains = map[connect.UpstreamID]*connect.Chain{"api": &c}
}

func (r *httpPair) route(t *testing.T, route connect.ChainRoute) {
	t.Helper()
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { routed(s, route) }))
}

// failing answers its first n requests with a status, then echoes the body.
func failing(n int64, status int) (http.Handler, *atomic.Int64) {
	var seen atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if seen.Add(1) <= n {
			w.WriteHeader(status)
			return
		}
		_, _ = w.Write(body)
	}), &seen
}

func TestRequestIsTriedAgainAsOftenAsTheRouteSays(t *testing.T) {
	for _, tc := range []struct {
		name     string
		retry    connect.Retry
		failures int64
		status   int
		body     io.Reader
		want     int
		seen     int64
	}{
		{"no policy", connect.Retry{}, 1, 503, nil, 503, 1},
		{"attempts without a condition", connect.Retry{Attempts: 5}, 1, 503, nil, 503, 1},
		{"5xx", connect.Retry{Attempts: 3, On: []string{"5xx"}}, 3, 500, nil, 200, 4},
		{"one try too few", connect.Retry{Attempts: 2, On: []string{"5xx"}}, 3, 500, nil, 500, 3},
		{"status code", connect.Retry{Attempts: 1, StatusCodes: []int{418}}, 1, 418, nil, 200, 2},
		{"another status", connect.Retry{Attempts: 1, StatusCodes: []int{418}}, 1, 419, nil, 419, 1},
		{"body is sent again", connect.Retry{Attempts: 1, On: []string{"gateway-error"}}, 1, 503, strings.NewReader("hello"), 200, 2},
		{"body of unknown length", connect.Retry{Attempts: 1, On: []string{"gateway-error"}}, 1, 503, io.MultiReader(strings.NewReader("hello")), 200, 2},
		{"body too large to be kept", connect.Retry{Attempts: 1, On: []string{"5xx"}}, 1, 503, strings.NewReader(strings.Repeat("x", replayLimit+1)), 503, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, seen := failing(tc.failures, tc.status)
			r := newHTTPPair(t, connect.HTTP2, h)
			r.route(t, connect.ChainRoute{Retry: tc.retry})
			got := send(t, r.client(t), newRequest(t, http.MethodPost, r.url(t, "/"), tc.body))
			if got.status != tc.want || seen.Load() != tc.seen {
				t.Errorf("status %d after %d tries, want %d after %d", got.status, seen.Load(), tc.want, tc.seen)
			}
			if tc.want == 200 && tc.body != nil && got.body != "hello" {
				t.Errorf("the application got %q", got.body)
			}
		})
	}
}

// Retries are meant for an endpoint that fails, not for an outage, which they
// would multiply.
func TestRetriesOfAnOutageStayWithinTheBudget(t *testing.T) {
	var seen atomic.Int64
	hold := make(chan struct{})
	r := newHTTPPair(t, connect.HTTP2, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		seen.Add(1)
		<-hold
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	r.route(t, connect.ChainRoute{Retry: connect.Retry{Attempts: 10, On: []string{"5xx"}}, RequestTimeout: -1})
	const requests = 40
	client, statuses := r.client(t), make(chan int, requests)
	for range requests {
		go func() {
			resp, err := client.Get(r.url(t, "/"))
			if err != nil {
				statuses <- 0
				return
			}
			_ = resp.Body.Close()
			statuses <- resp.StatusCode
		}()
	}
	until(t, "all requests are at the application", func() bool { return seen.Load() == requests })
	close(hold)
	for range requests {
		if status := <-statuses; status != http.StatusServiceUnavailable {
			t.Errorf("status %d", status)
		}
	}
	// Of 40 requests at once, a fifth may retry; each of them up to ten times.
	if n := seen.Load(); n <= requests || n > requests+8*10 {
		t.Errorf("the application saw %d requests", n)
	}
}

// deadAddress is one that nobody listens at.
func deadAddress(t *testing.T) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	return l.Addr()
}

func TestEndpointThatCannotBeConnectedToIsPassedOver(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(mirror))
	alive := r.api.Inbound(t.Context())
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
		s.Endpoints = map[connect.TargetID][]connect.Endpoint{"api0": endpointsAt(deadAddress(t), alive)}
	}))
	client := r.client(t)
	for range 20 {
		if got := send(t, client, newRequest(t, http.MethodPost, r.url(t, "/"), strings.NewReader("x"))); got.status != 200 {
			t.Fatalf("%d %q", got.status, got.body)
		}
	}
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
		s.Endpoints = map[connect.TargetID][]connect.Endpoint{"api0": endpointsAt(deadAddress(t))}
	}))
	got := send(t, client, newRequest(t, http.MethodGet, r.url(t, "/"), nil))
	if got.status != 503 || !strings.HasPrefix(got.body, "upstream connect error") || got.header.Get(reasonHeader) != "connect_failed" {
		t.Errorf("%d %q %v", got.status, got.body, got.header)
	}
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Endpoints = nil }))
	if got := send(t, client, newRequest(t, http.MethodGet, r.url(t, "/"), nil)); got.status != 503 || got.body != "no healthy upstream" {
		t.Errorf("%d %q", got.status, got.body)
	}
}

func TestEndpointThatAnswers5xxIsEjected(t *testing.T) {
	bad, seenBad := failing(1<<30, 500)
	good, seenGood := failing(0, 0)
	r := newHTTPPair(t, connect.HTTP, good)
	other := start(t, DefaultLimits())
	snap := service(r.ca, "api", httpApp(t, bad))
	snap.Service.Protocol = connect.HTTP
	apply(t, other, snap)
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
		s.Upstreams[0].PassiveHealth.MaxFailures = 3
		s.Upstreams[0].Balance = "round_robin"
		s.Endpoints = map[connect.TargetID][]connect.Endpoint{"api0": endpointsAt(other.Inbound(t.Context()), r.api.Inbound(t.Context()))}
	}))
	client := r.client(t)
	for range 40 {
		send(t, client, newRequest(t, http.MethodGet, r.url(t, "/"), nil))
	}
	if seenBad.Load() != 3 || seenGood.Load() != 37 {
		t.Errorf("the failing endpoint got %d requests, the other %d", seenBad.Load(), seenGood.Load())
	}
}

func TestNothingIsTriedAgainOnceTheResponseHasBegun(t *testing.T) {
	var seen atomic.Int64
	r := newHTTPPair(t, connect.HTTP2, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		seen.Add(1)
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	r.route(t, connect.ChainRoute{Retry: connect.Retry{Attempts: 3, On: []string{"5xx", "reset"}}})
	resp, err := r.client(t).Get(r.url(t, "/"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil || string(body) != "half" || seen.Load() != 1 {
		t.Errorf("%q, %v, %d requests", body, err, seen.Load())
	}
}

func TestTimeouts(t *testing.T) {
	var inside, gone atomic.Int64 // at the application, which may not be reached in time
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stream" {
			for i := range 5 {
				_, _ = fmt.Fprintln(w, i)
				_ = http.NewResponseController(w).Flush()
				wait(r.Context().Done(), 60*time.Millisecond)
			}
			return
		}
		inside.Add(1)
		<-r.Context().Done()
		gone.Add(1)
	})
	left := func(what string) {
		t.Helper()
		until(t, "the application learns that nobody waits any more: "+what, func() bool { return inside.Load() == gone.Load() })
	}
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		r := newHTTPPair(t, protocol, slow)
		r.route(t, connect.ChainRoute{RequestTimeout: 50 * time.Millisecond})
		if got := r.get(t, "/"); got.status != 504 || got.body != "upstream request timeout" || got.header.Get(reasonHeader) != "request_timeout" {
			t.Errorf("%s: %d %q", protocol, got.status, got.body)
		}
		left("of the route")
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalRequestTimeout = 50 * time.Millisecond }))
		r.route(t, connect.ChainRoute{RequestTimeout: -1})
		if got := r.get(t, "/"); got.status != 504 {
			t.Errorf("%s: of the local application: %d %q", protocol, got.status, got.body)
		}
		left("of the local application")
		// A stream is quiet for less than its idle time, and lasts longer.
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalRequestTimeout = -1 }))
		r.route(t, connect.ChainRoute{RequestTimeout: -1, IdleTimeout: 200 * time.Millisecond})
		if got := r.get(t, "/stream"); got.body != "0\n1\n2\n3\n4\n" {
			t.Errorf("%s: a stream that goes on: %q", protocol, got.body)
		}
		if got := r.get(t, "/"); got.status != 408 {
			t.Errorf("%s: silence: %d %q", protocol, got.status, got.body)
		}
		left("silence")
	}
	if gone.Load() == 0 {
		t.Error("no request reached the application")
	}
}

func TestDeadlinesArePassedOnAndHeeded(t *testing.T) {
	var seen atomic.Int64
	left := make(chan http.Header, 1)
	r := newHTTPPair(t, connect.HTTP2, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		select {
		case left <- r.Header:
		default:
		}
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
	}))
	for _, h := range [][]string{{deadlineHeader, "0"}, {deadlineHeader, "-5"}, {grpcTimeout, "0S"}} {
		if got := r.get(t, "/", h...); got.status != 504 {
			t.Errorf("%v: %d", h, got.status)
		}
	}
	call := func(path, timeout string) reply {
		return send(t, r.client(t), newRequest(t, http.MethodPost, r.url(t, path), strings.NewReader("x"), "Content-Type", "application/grpc", grpcTimeout, timeout))
	}
	if got := call("/", "0m"); got.status != 200 || got.header.Get("Grpc-Status") != "4" {
		t.Errorf("gRPC: %+v", got)
	}
	if seen.Load() != 0 {
		t.Error("a request that nobody waits for was forwarded")
	}
	if got := call("/slow", "100m"); got.header.Get("Grpc-Status") != "4" {
		t.Errorf("gRPC, while it waits: %+v", got)
	}
	select {
	case <-left:
	default:
	}
	if got := r.get(t, "/", deadlineHeader, "60000", grpcTimeout, "70S"); got.status != 200 {
		t.Fatalf("%d", got.status)
	}
	h := <-left
	if ms := h.Get(deadlineHeader); len(ms) != 5 || ms >= "60000" || ms < "40000" {
		t.Errorf("passed on %q ms", ms)
	}
	if d, ok := parseGRPCTimeout(h.Get(grpcTimeout)); !ok || d >= time.Minute || d < 40*time.Second {
		t.Errorf("passed on %q", h.Get(grpcTimeout))
	}
	if got := r.get(t, "/slow", deadlineHeader, "50"); got.status != 504 {
		t.Errorf("%d", got.status)
	}
}

// A caller that goes away, or sends garbage, must not cost an endpoint its place.
func TestEndpointIsNotBlamedForTheCaller(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	addr := r.web.Outbound(t.Context(), "api")
	got := raw(t, addr, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 400") {
		t.Errorf("a malformed chunk: %q", got)
	}
	for range 5 {
		c := dial(t, addr)
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
		_ = c.Close()
	}
	until(t, "the requests have ended", func() bool {
		s := r.web.Status(t.Context())
		return s.Upstreams[0].Targets[0].Endpoints[0].Active == 0 && s.Upstreams[0].Active <= 1 // raw keeps its own open
	})
	e := r.web.Status(t.Context()).Upstreams[0].Targets[0].Endpoints[0]
	if e.LastFailure != "" || e.NotUsed != "" || e.Active != 0 {
		t.Errorf("the endpoint is blamed: %+v", e)
	}
}

func TestGRPCStatusInTrailersCountsAgainstTheEndpoint(t *testing.T) {
	r := newHTTPPair(t, connect.GRPC, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		_, _ = io.WriteString(w, "message")
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "14")
	}))
	got := send(t, r.client(t), newRequest(t, http.MethodPost, r.url(t, "/s/m"), strings.NewReader("x"), "Content-Type", "application/grpc", "Te", "trailers"))
	if got.trailer.Get("Grpc-Status") != "14" || got.body != "message" {
		t.Errorf("%+v", got)
	}
	until(t, "the endpoint is blamed", func() bool {
		return strings.Contains(r.web.Status(t.Context()).Upstreams[0].Targets[0].Endpoints[0].LastFailure, "gRPC status 14")
	})
}
