// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// endpoint is a real server of net/http and a pool to it.
type endpoint struct {
	*Pool
	share  Share
	server *http.Server
	addr   atomic.Pointer[net.Addr]
	dials  atomic.Int64
}

func (e *endpoint) dial(ctx context.Context) (net.Conn, error) {
	e.dials.Add(1)
	var d net.Dialer
	return d.DialContext(ctx, "tcp", (*e.addr.Load()).String())
}

// serve starts a server and makes it the one that is dialled.
func (e *endpoint) serve(t *testing.T, h2 bool, h http.Handler) *http.Server {
	t.Helper()
	return e.serveStreams(t, h2, 0, h)
}

// serveStreams bounds the streams of one connection; 0 leaves that to net/http.
func (e *endpoint) serveStreams(t *testing.T, h2 bool, streams int, h http.Handler) *http.Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: streams}}
	s.Protocols.SetHTTP1(!h2)
	s.Protocols.SetUnencryptedHTTP2(h2)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-ended
	})
	addr := l.Addr()
	e.addr.Store(&addr)
	return s
}

func newEndpoint(t *testing.T, h2 bool, connections, pending int, h http.Handler) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.server = e.serve(t, h2, h)
	e.share.Limit(connections, pending)
	e.Pool = NewClient(64<<10, nil).NewPool(&e.share, h2, e.dial)
	t.Cleanup(func() {
		e.Close()
		e.empty(t)
	})
	return e
}

// empty fails unless the pool's books say that nothing is left.
func (e *endpoint) empty(t *testing.T) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.open != 0 || len(e.every) != 0 || len(e.conns) != 0 || len(e.waiting) != 0 || e.opening != nil ||
		e.share.connections.Load() != 0 || e.share.pending.Load() != 0 {
		t.Errorf("left: %d open, %d known, %d kept, %d waiting; shared: %d connections, %d pending",
			e.open, len(e.every), len(e.conns), len(e.waiting), e.share.connections.Load(), e.share.pending.Load())
	}
}

// ask sends a request and returns the body of its response.
func (e *endpoint) ask(ctx context.Context, method, path string, body io.Reader) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://endpoint"+path, body)
	if err != nil {
		return "", err
	}
	resp, err := e.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

func kindOf(err error) Kind {
	if failed, ok := errors.AsType[*Error](err); ok {
		return failed.Kind
	}
	return -1
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("timed out waiting until %s", what)
		case <-tick.C:
		}
	}
}

func versions() map[string]bool { return map[string]bool{"HTTP/1.1": false, "HTTP/2": true} }

// holding serves /hold until released.
func holding() (http.Handler, func()) {
	held := make(chan struct{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			select {
			case <-held:
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, "ok")
	}), sync.OnceFunc(func() { close(held) })
}

func TestConnectionsAreKeptAndUsedAgain(t *testing.T) {
	for name, h2 := range versions() {
		t.Run(name, func(t *testing.T) {
			h, _ := holding()
			e := newEndpoint(t, h2, 8, 8, h)
			for range 20 {
				if got, err := e.ask(t.Context(), http.MethodPost, "/", strings.NewReader("hello")); got != "ok" || err != nil {
					t.Fatal(got, err)
				}
			}
			if n := e.dials.Load(); n != 1 {
				t.Errorf("%d connections for requests one after the other", n)
			}
		})
	}
}

// raw is a server that reads a request and then does what the test says with it.
func raw(t *testing.T, e *endpoint, answer func(n int64, c net.Conn) bool) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var requests atomic.Int64
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil || !answer(requests.Add(1), c) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		e.Close()
		_ = l.Close()
		all.Wait()
	})
	addr := l.Addr()
	e.addr.Store(&addr)
}

// A kept connection may have gone. What may be sent twice is; what may not, and
// may have been acted on, is not.
func TestRequestOnAConnectionThatHasGoneIsSentAgainIfItMayBe(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for _, tc := range []struct {
		method string
		body   string
		again  bool
	}{{http.MethodGet, "", true}, {http.MethodPut, "hello", true}, {http.MethodDelete, "", true}, {http.MethodPost, "hello", false}, {http.MethodPatch, "", false}} {
		t.Run(tc.method, func(t *testing.T) {
			h, _ := holding()
			e := newEndpoint(t, false, 8, 8, h)
			var seen atomic.Int64
			raw(t, e, func(n int64, c net.Conn) bool {
				seen.Store(n)
				if n != 2 {
					_, _ = io.WriteString(c, ok)
				}
				return n != 2 // the second request meets the end of its connection
			})
			if got, err := e.ask(t.Context(), http.MethodGet, "/", nil); got != "ok" || err != nil {
				t.Fatal(got, err)
			}
			got, err := e.ask(t.Context(), tc.method, "/", strings.NewReader(tc.body))
			if tc.again && (got != "ok" || err != nil || seen.Load() != 3) {
				t.Errorf("%q, %v after %d requests", got, err, seen.Load())
			}
			if !tc.again && (kindOf(err) != Reset || seen.Load() != 2) {
				t.Errorf("%q, %v after %d requests", got, err, seen.Load())
			}
		})
	}
}

func TestRequestOnANewConnectionThatBreaksIsNotSentAgain(t *testing.T) {
	h, _ := holding()
	e := newEndpoint(t, false, 8, 8, h)
	var seen atomic.Int64
	raw(t, e, func(n int64, _ net.Conn) bool {
		seen.Store(n)
		return false
	})
	if _, err := e.ask(t.Context(), http.MethodGet, "/", nil); kindOf(err) != Reset || seen.Load() != 1 {
		t.Errorf("%v after %d requests", err, seen.Load())
	}
}

// A server that goes away says so (GOAWAY), and requests that cross that word are
// sent elsewhere: none is lost, and those that it has are finished.
func TestServerThatGoesAwayCostsNoRequest(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	e := newEndpoint(t, true, 64, 1024, h)
	ctx, cancel := context.WithCancel(t.Context())
	var sent, failed atomic.Int64
	var why atomic.Value
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for ctx.Err() == nil {
				sent.Add(1)
				if got, err := e.ask(context.WithoutCancel(ctx), http.MethodPost, "/", nil); got != "ok" || err != nil {
					failed.Add(1)
					why.Store(err)
				}
			}
		})
	}
	old := e.server
	for range 10 {
		before := sent.Load()
		until(t, "some requests are sent", func() bool { return sent.Load() > before+50 })
		next := e.serve(t, true, h)
		if err := old.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		old = next
	}
	cancel()
	all.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d requests failed: %v", n, sent.Load(), why.Load())
	}
}
