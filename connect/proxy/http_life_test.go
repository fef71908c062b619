// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// load sends requests until stop is called, which returns how many there were
// and the failures in words.
func load(t *testing.T, client *http.Client, url string, workers int) (stop func() (int64, []string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var sent atomic.Int64
	var mu sync.Mutex
	var failures []string
	var all sync.WaitGroup
	for i := range workers {
		all.Go(func() {
			for ctx.Err() == nil {
				method, body := http.MethodGet, io.Reader(nil)
				if i%2 == 1 {
					method, body = http.MethodPost, strings.NewReader("hello")
				}
				req, err := http.NewRequestWithContext(context.Background(), method, url, body)
				if err == nil {
					var resp *http.Response
					if resp, err = client.Do(req); err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
						if err == nil && resp.StatusCode != 200 {
							err = fmt.Errorf("status %d, %v", resp.StatusCode, resp.Header)
						}
					}
				}
				sent.Add(1)
				if err != nil {
					mu.Lock()
					failures = append(failures, method+": "+err.Error())
					mu.Unlock()
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); all.Wait() })
	return func() (int64, []string) {
		cancel()
		all.Wait()
		return sent.Load(), failures
	}
}

// The other instance goes on; what the draining one has must be finished, and
// nobody may be sent to a connection that is about to end.
func TestDrainingInstanceLosesNoRequest(t *testing.T) {
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		t.Run(string(protocol), func(t *testing.T) {
			work := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(w, r.Body)
				wait(r.Context().Done(), time.Millisecond)
			})
			r := newHTTPPair(t, protocol, work)
			leaving := start(t, DefaultLimits())
			snap := service(r.ca, "api", httpApp(t, work))
			snap.Service.Protocol = protocol
			apply(t, leaving, snap)
			both := endpointsAt(leaving.Inbound(t.Context()), r.api.Inbound(t.Context()))
			apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Endpoints = map[connect.TargetID][]connect.Endpoint{"api0": both} }))
			stop := load(t, r.client(t), r.url(t, "/"), 8)
			until(t, "both instances are used", func() bool {
				return leaving.Status(t.Context()).Inbound.Requests > 50 && r.api.Status(t.Context()).Inbound.Requests > 50
			})
			// As the agent does: out of Consul first, then the drain.
			apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Endpoints = map[connect.TargetID][]connect.Endpoint{"api0": both[1:]} }))
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if cut := leaving.Drain(ctx); cut != 0 {
				t.Errorf("the drain cut %d connections", cut)
			}
			if n, failures := stop(); len(failures) > 0 {
				t.Errorf("%d of %d requests failed: %s", len(failures), n, failures[0])
			}
		})
	}
}

// Without word from Consul, callers learn of the drain from the responses: the
// connection is closed with a word, or told to go away.
func TestDrainIsAnnouncedInTheResponses(t *testing.T) {
	hold := make(chan struct{})
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			<-hold
		}
	}))
	c, err := r.as(t, r.ca.Leaf("web", nil))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "GET /hold HTTP/1.1\r\nHost: api\r\n\r\n")
	until(t, "the request is inside", func() bool { return r.api.Status(t.Context()).Inbound.Requests == 1 })
	done := make(chan int)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		done <- r.api.Drain(ctx)
	}()
	until(t, "the listener is closed", func() bool { return r.api.Inbound(t.Context()) == nil })
	close(hold)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != 200 || !resp.Close {
		t.Errorf("%v, %v", resp, err)
	}
	if cut := <-done; cut != 0 {
		t.Errorf("%d connections were cut", cut)
	}
}

func TestStreamsSurviveARotatedLeafAndNewConnectionsShowTheNewOne(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP2, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Caller", r.Header.Get("X-Forwarded-Client-Cert"))
		_ = http.NewResponseController(w).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = fmt.Fprintln(w, lines.Text())
			_ = http.NewResponseController(w).Flush()
		}
	}))
	body, feed := io.Pipe()
	resp, err := r.client(t).Do(newRequest(t, http.MethodPost, r.url(t, "/"), body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	answers := bufio.NewReader(resp.Body)
	say := func() {
		t.Helper()
		_, _ = io.WriteString(feed, "hello\n")
		if got, err := answers.ReadString('\n'); err != nil || got != "hello\n" {
			t.Fatalf("the stream was cut: %q, %v", got, err)
		}
	}
	say()
	before := resp.Header.Get("Caller")
	for i := range 3 {
		r.webSnap = next(r.webSnap, func(s *connect.Snapshot) { s.Leaf = r.ca.Leaf("web", nil) })
		apply(t, r.web, r.webSnap)
		r.apiSnap = next(r.apiSnap, func(s *connect.Snapshot) { s.Leaf = r.ca.Leaf("api", nil) })
		apply(t, r.api, r.apiSnap)
		say()
		got := r.get(t, "/").header.Get("Caller")
		if got == before || got == "" {
			t.Errorf("rotation %d: a new request is still made with the old leaf", i+1)
		}
		before = got
	}
	_ = feed.Close()
}

func TestSnapshotsUnderLoadFailNoRequest(t *testing.T) {
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		r := newHTTPPair(t, protocol, http.HandlerFunc(mirror))
		stop := load(t, r.client(t), r.url(t, "/x"), 8)
		for i := range 60 {
			r.webSnap = next(r.webSnap, func(s *connect.Snapshot) {
				if i%2 == 0 {
					routed(s, connect.ChainRoute{PrefixRewrite: "/y", Match: connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/x"}}})
				} else {
					calling(s, "api", []net.Addr{r.api.Inbound(t.Context())})
					s.Upstreams = s.Upstreams[:1]
					s.Chains["api"].Protocol = protocol
				}
				if i%5 == 0 {
					s.Leaf = r.ca.Leaf("web", nil)
				}
			})
			apply(t, r.web, r.webSnap)
			r.apiSnap = next(r.apiSnap, func(s *connect.Snapshot) { s.Intentions = permissions(allowPrefix("/")) })
			apply(t, r.api, r.apiSnap)
			wait(t.Context().Done(), 10*time.Millisecond)
		}
		if n, failures := stop(); len(failures) > 0 || n < 20 {
			t.Errorf("%s: %d of %d requests failed: %v", protocol, len(failures), n, failures[:min(3, len(failures))])
		}
	}
}

func TestRequestsFailOverToTheNextTarget(t *testing.T) {
	other := start(t, DefaultLimits())
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(mirror))
	snap := service(r.ca, "api", httpApp(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "spare") })))
	snap.Service.Protocol = connect.HTTP
	apply(t, other, snap)
	r.webSnap = calling(service(r.ca, "web", nil), "api", []net.Addr{r.api.Inbound(t.Context())}, []net.Addr{other.Inbound(t.Context())})
	r.webSnap.Chains["api"].Protocol = connect.HTTP
	apply(t, r.web, r.webSnap)
	if got := r.get(t, "/"); got.status != 200 || got.body == "spare" {
		t.Errorf("with the first target healthy: %d %q", got.status, got.body)
	}
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
		s.Endpoints = map[connect.TargetID][]connect.Endpoint{"api1": s.Endpoints["api1"], "api0": {{ID: "x", Unusable: "check is critical"}}}
	}))
	if got := r.get(t, "/"); got.status != 200 || got.body != "spare" {
		t.Errorf("with no usable endpoint in the first: %d %q", got.status, got.body)
	}
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
		s.Endpoints = map[connect.TargetID][]connect.Endpoint{"api1": s.Endpoints["api1"], "api0": endpointsAt(deadAddress(t))}
	}))
	if got := r.get(t, "/"); got.status != 200 || got.body != "spare" {
		t.Errorf("with one that cannot be connected to: %d %q", got.status, got.body)
	}
}

// A connection is one of HTTP from its beginning: a snapshot that comes while it
// is being made must not judge it as a whole, by permissions that are about
// requests.
func TestConnectionsThatAreBeingMadeSurviveSnapshots(t *testing.T) {
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(mirror))
	r.apiSnap = next(r.apiSnap, func(s *connect.Snapshot) { s.DefaultAction, s.Intentions = connect.Deny, permissions(allowPrefix("/")) })
	apply(t, r.api, r.apiSnap)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for snap := r.apiSnap; ctx.Err() == nil; {
			snap = next(snap, func(*connect.Snapshot) {})
			_ = r.api.Apply(ctx, snap)
		}
	})
	defer all.Wait()
	defer cancel()
	leaf := r.ca.Leaf("web", nil)
	for range 150 {
		c, err := r.as(t, leaf)
		if err == nil {
			_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
		}
		if err == nil {
			_, err = io.ReadAll(c)
		}
		if err != nil {
			t.Fatalf("a connection was cut: %v", err)
		}
	}
}
