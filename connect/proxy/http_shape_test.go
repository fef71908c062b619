// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/mtls"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

func TestRateLimitsTurnRequestsAway(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP2, http.HandlerFunc(mirror))
	limits := connect.RateLimits{Rate: 1, Burst: 5, Routes: []connect.RouteLimit{
		{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/free"}},
		{Path: connect.PathMatch{Kind: connect.MatchExact, Value: "/once"}, Rate: 1},
	}}
	limited := next(r.apiSnap, func(s *connect.Snapshot) { s.Service.RateLimits = limits })
	apply(t, r.api, limited)
	client := r.client(t)
	count := func(path string, requests int) (served int) {
		for range requests {
			got := send(t, client, newRequest(t, http.MethodGet, r.url(t, path), nil))
			switch {
			case got.status == 200:
				served++
			case got.status != 429 || got.header.Get(reasonHeader) != "limit_exceeded":
				t.Fatalf("%d %v", got.status, got.header)
			}
		}
		return served
	}
	if n := count("/x", 10); n < 5 || n > 7 { // a second may pass meanwhile
		t.Errorf("%d of 10 requests were served, of a burst of 5", n)
	}
	if n := count("/free/x", 20); n != 20 {
		t.Errorf("%d of 20 were served where there is no limit", n)
	}
	if n := count("/once", 4); n < 1 || n > 3 {
		t.Errorf("%d of 4 were served where the burst is one", n)
	}
	apply(t, r.api, next(limited, func(s *connect.Snapshot) { s.Intentions = []connect.Intention{intention("web", connect.Allow)} }))
	if n := count("/x", 10); n > 3 {
		t.Errorf("news of something else filled the bucket: %d", n)
	}
}

func TestFaultsHitTheirShareOnly(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP2, http.HandlerFunc(mirror))
	match := connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/chaos"}}
	fault := func(f connect.Fault) {
		f.Match = match
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.Faults = []connect.Fault{f} }))
	}
	client := r.client(t)
	aborted := func(path string) (n int) {
		for range 400 {
			if got := send(t, client, newRequest(t, http.MethodGet, r.url(t, path), nil)); got.status == 418 {
				n++
			}
		}
		return n
	}
	fault(connect.Fault{AbortStatus: 418, AbortMillionths: million / 4})
	if n := aborted("/chaos"); n < 50 || n > 150 { // 100 ± 5.8 standard deviations
		t.Errorf("%d of 400 requests were aborted, want about 100", n)
	}
	if n := aborted("/calm"); n != 0 {
		t.Errorf("%d requests were aborted that no fault is about", n)
	}
	fault(connect.Fault{Delay: 80 * time.Millisecond, DelayMillionths: million})
	began := time.Now()
	if got := r.get(t, "/chaos"); got.status != 200 || time.Since(began) < 80*time.Millisecond {
		t.Errorf("%d after %v", got.status, time.Since(began))
	}
}

func TestLimitsOfAnUpstreamOverflowWithAWord(t *testing.T) {
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		hold, inside := make(chan struct{}), make(chan struct{}, 10)
		r := newHTTPPair(t, protocol, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			inside <- struct{}{}
			<-hold
		}))
		apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Upstreams[0].MaxRequests = 2 }))
		client := r.client(t)
		done := make(chan int, 2)
		for range 2 {
			go func() {
				resp, err := client.Get(r.url(t, "/"))
				if err != nil {
					done <- 0
					return
				}
				_ = resp.Body.Close()
				done <- resp.StatusCode
			}()
		}
		<-inside
		<-inside
		got := r.get(t, "/")
		if got.status != 503 || got.header.Get("X-Envoy-Overloaded") != "true" || got.header.Get(reasonHeader) != "limit_exceeded" {
			t.Errorf("%s: %d %v", protocol, got.status, got.header)
		}
		close(hold)
		if a, b := <-done, <-done; a != 200 || b != 200 {
			t.Errorf("%s: the requests within the limit: %d, %d", protocol, a, b)
		}
		until(t, "the limit is free again", func() bool { return r.get(t, "/").status == 200 })
	}
}

// Requests over a connection limit wait for a connection, and those over the
// limit on waiting ones are turned away.
func TestConnectionLimitMakesRequestsWait(t *testing.T) {
	hold, inside := make(chan struct{}), make(chan struct{}, 10)
	var open, most atomic.Int64
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if n := open.Add(1); n > most.Load() {
			most.Store(n)
		}
		inside <- struct{}{}
		<-hold
		open.Add(-1)
	}))
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Upstreams[0].MaxConnections, s.Upstreams[0].MaxPending = 1, 2 }))
	client, statuses := r.client(t), make(chan int, 4)
	get := func() {
		resp, err := client.Get(r.url(t, "/"))
		if err != nil {
			statuses <- 0
			return
		}
		_ = resp.Body.Close()
		statuses <- resp.StatusCode
	}
	go get()
	<-inside
	for range 3 {
		go get()
	}
	if status := <-statuses; status != 503 { // one of the three finds the queue full
		t.Errorf("status %d", status)
	}
	close(hold)
	for range 3 {
		if status := <-statuses; status != 200 {
			t.Errorf("status %d", status)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d connections were in use at once", most.Load())
	}
}

func TestExposedPathIsServedToTheLetterWithoutTLS(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(mirror))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	_ = free.Close()
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) {
		s.DefaultAction = connect.Deny
		s.Service.Expose = []connect.ExposedPath{
			{ListenerPort: port, Path: "/health", LocalPathPort: s.Service.LocalPort, Protocol: connect.HTTP},
			{ListenerPort: port, Path: "/check", LocalPathPort: s.Service.LocalPort, Protocol: connect.HTTP, LocalOnly: true},
		}
	}))
	addr := r.api.Outbound(t.Context(), exposeID(port))
	if addr == nil {
		t.Fatal("there is no listener")
	}
	for path, want := range map[string]int{
		"/health": 200, "/health?full=1": 200, "/check": 200, "/": 404, "/health/": 404, "/healthz": 404, "//health": 404, "/x/../health": 404,
		"/HEALTH": 404, "/%68ealth": 404, "/admin": 404,
	} {
		got := raw(t, addr, "GET "+path+" HTTP/1.1\r\nHost: x\r\nX-Forwarded-Client-Cert: URI=spiffe://lie\r\nConnection: close\r\n\r\n")
		if status, _, _ := strings.Cut(got, "\r\n"); !strings.Contains(status, http.StatusText(want)) || strings.Contains(got, "lie") {
			t.Errorf("%s: %q", path, got)
		}
	}
	apply(t, r.api, next(r.api.Snapshot(), func(s *connect.Snapshot) {
		s.JWTProviders = map[string]connect.JWTProvider{"okta": {Name: "okta", Forward: connect.TokenForward{Header: "x-claims"}}}
		s.Intentions = permissions(connect.Permission{Action: connect.Allow, JWT: &connect.JWTRequirement{Providers: []connect.JWTClaims{{Provider: "okta"}}}})
	}))
	if got := raw(t, addr, "GET /health HTTP/1.1\r\nHost: x\r\nX-Claims: forged\r\nConnection: close\r\n\r\n"); !strings.Contains(got, "200 OK") || strings.Contains(got, "forged") {
		t.Errorf("what only a token may say came through: %q", got)
	}
	if e := (&exposedPath{local: true}); e.admits(addr.(*net.TCPAddr).AddrPort().Addr()) == false {
		t.Error("loopback is not admitted")
	}
	apply(t, r.api, r.apiSnap)
	if r.api.Outbound(t.Context(), exposeID(port)) != nil {
		t.Error("the listener is still there")
	}
}

func TestGRPCHearsOfRefusalsInItsOwnWords(t *testing.T) {
	r := newHTTPPair(t, connect.GRPC, http.HandlerFunc(mirror))
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.DefaultAction = connect.Deny }))
	call := func() reply {
		return send(t, r.client(t), newRequest(t, http.MethodPost, r.url(t, "/pkg.Service/Method"), strings.NewReader("x"), "Content-Type", "application/grpc", "Te", "trailers"))
	}
	if got := call(); got.status != 200 || got.header.Get("Grpc-Status") != "7" || got.header.Get("Grpc-Message") != "RBAC: access denied" || got.body != "" {
		t.Errorf("denied: %+v", got)
	}
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Endpoints = nil }))
	if got := call(); got.header.Get("Grpc-Status") != "14" || got.header.Get("Grpc-Message") != "no healthy upstream" {
		t.Errorf("no endpoint: %+v", got)
	}
	old := newRequest(t, http.MethodPost, r.url(t, "/pkg.Service/Method"), strings.NewReader("x"), "Content-Type", "application/grpc")
	if got := send(t, clientOf(t, false), old); got.status != 505 || !strings.Contains(got.body, "HTTP/2") {
		t.Errorf("over HTTP/1.1: %+v", got)
	}
}

func TestHeadersLargerThanTheLimitAreRefused(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(mirror))
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.MaxRequestHeaders = 8 << 10 }))
	if got := r.get(t, "/", "X-Large", strings.Repeat("x", 6<<10)); got.status != 200 {
		t.Errorf("below the limit: %d", got.status)
	}
	if got := r.get(t, "/", "X-Large", strings.Repeat("x", 16<<10)); got.status != 431 {
		t.Errorf("above the limit of the service: %d", got.status)
	}
	got := raw(t, r.web.Outbound(t.Context(), "api"), "GET / HTTP/1.1\r\nHost: x\r\nX-Large: "+strings.Repeat("x", 80<<10)+"\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 431") {
		t.Errorf("above the limit of the upstream's listener: %q", got[:min(len(got), 80)])
	}
}

func TestBodyLargerThanTheServiceTakesIsRefused(t *testing.T) {
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		r := newHTTPPair(t, protocol, http.HandlerFunc(mirror))
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.RateLimits.MaxBody = 1000 }))
		for _, tc := range []struct {
			name string
			body io.Reader
			want int
		}{
			{"at the limit", strings.NewReader(strings.Repeat("x", 1000)), 200},
			{"at the limit, of unknown length", io.MultiReader(strings.NewReader(strings.Repeat("x", 1000))), 200},
			{"announced", strings.NewReader(strings.Repeat("x", 1001)), 413},
			{"of unknown length", io.MultiReader(strings.NewReader(strings.Repeat("x", 100_000))), 413},
		} {
			got := send(t, r.client(t), newRequest(t, http.MethodPost, r.url(t, "/"), tc.body))
			if got.status != tc.want || (tc.want == 413 && got.header.Get(reasonHeader) != "limit_exceeded") || (tc.want == 200 && len(got.body) != 1000) {
				t.Errorf("%s, %s: %d %v, %d bytes", protocol, tc.name, got.status, got.header, len(got.body))
			}
		}
	}
}

// A caller may offer any ALPN or none: the first bytes tell what it speaks.
func TestVersionIsToldByTheFirstBytesWhateverWasNegotiated(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP2, http.HandlerFunc(mirror))
	for _, offer := range [][]string{nil, {"h2"}, {"http/1.1"}, {"h2", "http/1.1"}, {"istio-peer-exchange"}} {
		for _, h2 := range []bool{true, false} {
			client := clientOf(t, h2)
			client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
				cfg := mtls.Client(r.ca.Leaf("web", nil), meshca.Bundle(r.ca), connect.TLSLimits{}, "", []string{meshca.ID("api").String()}, offer...)
				conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", r.api.Inbound(ctx).String())
				return struct{ net.Conn }{conn}, err // hides TLS from the client
			}
			got := send(t, client, newRequest(t, http.MethodGet, "http://api/", nil))
			want := map[bool]string{true: "HTTP/2.0", false: "HTTP/1.1"}[h2]
			if got.status != 200 || got.header.Get("Echo-Proto") != want {
				t.Errorf("offering %q and speaking HTTP/2 %v: %d, the application saw %q", offer, h2, got.status, got.header.Get("Echo-Proto"))
			}
		}
	}
}
