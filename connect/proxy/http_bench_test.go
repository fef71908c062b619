// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/policy"
	"github.com/outrider-mesh/outrider/connect/request"
	"github.com/outrider-mesh/outrider/connect/route"
)

// kilobyte answers everything with 1 KB; to gRPC, which it tells by the content
// type, as a stream with a trailer.
func kilobyte() http.Handler {
	body := bytes.Repeat([]byte("x"), 1024)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if isGRPC(r) {
			w.Header().Set("Content-Type", "application/grpc")
			w.WriteHeader(http.StatusOK)
			_, _ = w.Write(body)
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
	})
}

// ways are the two that every benchmark of requests compares.
func ways(b *testing.B, protocol connect.Protocol, app http.Handler) map[string]string {
	r := newHTTPPair(b, protocol, app)
	return map[string]string{"direct": "http://" + httpApp(b, app).String(), "mesh": strings.TrimSuffix(r.url(b, "/"), "/")}
}

// callKilobyte makes one request as an application would, for gRPC with a body.
func callKilobyte(c *http.Client, protocol connect.Protocol, url string) error {
	var req *http.Request
	var err error
	if protocol == connect.GRPC {
		// A reader of no known length, as gRPC's is.
		req, err = http.NewRequest(http.MethodPost, url+"/pkg.Service/Method", io.MultiReader(strings.NewReader("a request of 32 bytes ..........")))
	} else {
		req, err = http.NewRequest(http.MethodGet, url+"/v1/items/42?verbose=1", nil)
	}
	if err != nil {
		return err
	}
	if protocol == connect.GRPC {
		req.Header["Content-Type"], req.Header["Te"] = []string{"application/grpc"}, []string{"trailers"}
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if err == nil && (resp.StatusCode != http.StatusOK || n != 1024) {
		err = fmt.Errorf("%s with %d bytes", resp.Status, n)
	}
	return err
}

// BenchmarkHTTPRoundTrip1KB is one request after the other on one connection,
// answered with 1 KB. mesh minus direct is what both hops together add, in time
// and in allocations; client and application are in the same process.
func BenchmarkHTTPRoundTrip1KB(b *testing.B) {
	for _, protocol := range protocols() {
		urls := ways(b, protocol, kilobyte())
		for _, via := range []string{"direct", "mesh"} {
			b.Run(string(protocol)+"/"+via, func(b *testing.B) {
				c := clientOf(b, protocol != connect.HTTP)
				b.ReportAllocs()
				for b.Loop() {
					if err := callKilobyte(c, protocol, urls[via]); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkHTTPConcurrent1KB is the same with 32 requests at a time for each
// core: on as many connections of HTTP/1.1, on one of HTTP/2.
func BenchmarkHTTPConcurrent1KB(b *testing.B) {
	for _, protocol := range protocols() {
		urls := ways(b, protocol, kilobyte())
		for _, via := range []string{"direct", "mesh"} {
			b.Run(string(protocol)+"/"+via, func(b *testing.B) {
				c := clientOf(b, protocol != connect.HTTP)
				c.Transport.(*http.Transport).MaxIdleConnsPerHost = 1024
				b.ReportAllocs()
				b.SetParallelism(32)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := callKilobyte(c, protocol, urls[via]); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkHTTPDownload is one response of 16 MiB, in bytes per second.
func BenchmarkHTTPDownload(b *testing.B) {
	const size = 16 << 20
	chunk := make([]byte, 64<<10)
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range size / len(chunk) {
			_, _ = w.Write(chunk)
		}
	})
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		urls := ways(b, protocol, app)
		for _, via := range []string{"direct", "mesh"} {
			b.Run(string(protocol)+"/"+via, func(b *testing.B) {
				c := clientOf(b, protocol != connect.HTTP)
				b.SetBytes(size)
				for b.Loop() {
					resp, err := c.Get(urls[via] + "/")
					if err != nil {
						b.Fatal(err)
					}
					n, err := io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if err != nil || n != size {
						b.Fatalf("%d bytes: %v", n, err)
					}
				}
			})
		}
	}
}

// BenchmarkHTTPUpgraded is a message of 64 KB sent and echoed over a connection
// that was upgraded, as WebSocket's are.
func BenchmarkHTTPUpgraded(b *testing.B) {
	message := make([]byte, 64<<10)
	urls := ways(b, connect.HTTP, http.HandlerFunc(upgrader))
	for _, via := range []string{"direct", "mesh"} {
		b.Run(via, func(b *testing.B) {
			c := dial(b, tcpAddr(b, urls[via]))
			_ = c.SetDeadline(time.Time{})
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			from := bufio.NewReader(c)
			if resp, err := http.ReadResponse(from, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				b.Fatal(resp, err)
			}
			b.SetBytes(int64(len(message)))
			for b.Loop() {
				if _, err := c.Write(message); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(from, message); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRequestDecisions is what is decided on one request without the wire:
// normalisation and intention on the way in, route and header edits on the way
// out, each with 20 rules of which the last but one is met.
func BenchmarkRequestDecisions(b *testing.B) {
	const rules = 20
	var permissions []connect.Permission
	router := connect.Node{Kind: connect.RouterNode}
	for i := range rules {
		match := connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: fmt.Sprintf("/v%d/", i)}, Methods: []string{"GET", "POST"}}
		match.Headers = []connect.HeaderMatch{{Name: "x-tenant", Kind: connect.MatchPresent}}
		permissions = append(permissions, connect.Permission{Action: connect.Allow, HTTP: match})
		router.Routes = append(router.Routes, connect.ChainRoute{Match: match, Next: "resolver", RequestHeaders: connect.HeaderEdits{
			Set: map[string]string{"X-Route": strconv.Itoa(i)},
		}})
	}
	rule := intention("web", connect.Deny)
	rule.Permissions = permissions
	decide := policy.Compile(policy.Settings{Intentions: []connect.Intention{rule}, Protocol: connect.HTTP, TrustDomain: "test.consul"})
	chain := &connect.Chain{
		Service: "api", Start: "router", Targets: map[connect.TargetID]connect.Target{"api": {ID: "api", Service: "api"}},
		Nodes: map[string]connect.Node{"router": router, "resolver": {Kind: connect.ResolverNode, Resolver: &connect.Resolver{Target: "api"}}},
	}
	table, err := route.CompileHTTP(chain, connect.Upstream{})
	if err != nil {
		b.Fatal(err)
	}
	caller := connect.Identity{TrustDomain: "test.consul", Partition: "default", Namespace: "default", Datacenter: "dc1", Service: "web"}
	header := connect.Header{"X-Tenant": {"blue"}, "User-Agent": {"bench"}, "Accept": {"application/json"}}
	now := time.Now()
	b.Run("inbound", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			head := connect.Head{Method: "GET", Scheme: "http", Authority: "api", Path: "/v18/items/42?verbose=1", Header: header}
			if out := request.Normalize(connect.Normalization{}, &head); out.Status != 0 {
				b.Fatal(out.Why)
			}
			if d := decide.AuthorizeRequest(caller, &head, now); !d.Allowed {
				b.Fatal(d.Why())
			}
		}
	})
	b.Run("outbound", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			head := connect.Head{Method: "GET", Scheme: "http", Authority: "api", Path: "/v18/items/42?verbose=1", Header: header}
			choice, ok := table.Route(&head, rand.Uint32N(route.Draws))
			if !ok {
				b.Fatal("no route")
			}
			choice.EditRequest(&head, &request.Facts{Start: now, Request: &head})
		}
	})
}

func tcpAddr(b *testing.B, url string) net.Addr {
	b.Helper()
	at, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		b.Fatal(err)
	}
	return at
}
