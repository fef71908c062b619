// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// flooded is web → api with an application of net/http. Who is quiet for longer
// than patience is dropped.
type flooded struct {
	*httpPair
	inside, most atomic.Int64 // requests in the application
}

func newFlooded(t *testing.T, patience time.Duration) *flooded {
	t.Helper()
	limits, ca := DefaultLimits(), meshca.New("root")
	limits.Handshake = patience
	f := &flooded{}
	f.httpPair = &httpPair{pair{ca: ca, api: start(t, limits), web: start(t, limits)}, connect.HTTP}
	f.apiSnap = service(ca, "api", httpApp(t, http.HandlerFunc(f.serve)))
	// Longer than the caller's sidecar has, so that it is clear which one answers.
	f.apiSnap.Service.Protocol, f.apiSnap.Service.LocalIdleTimeout = connect.HTTP, 2*patience
	apply(t, f.api, f.apiSnap)
	f.webSnap = calling(service(ca, "web", nil), "api", []net.Addr{f.api.Inbound(t.Context())})
	f.webSnap.Chains["api"].Protocol = connect.HTTP
	routed(f.webSnap, connect.ChainRoute{IdleTimeout: patience})
	apply(t, f.web, f.webSnap)
	return f
}

func (f *flooded) serve(w http.ResponseWriter, r *http.Request) {
	for n := f.inside.Add(1); ; {
		if most := f.most.Load(); n <= most || f.most.CompareAndSwap(most, n) {
			break
		}
	}
	defer f.inside.Add(-1)
	switch r.URL.Path {
	case "/hold":
		<-r.Context().Done()
	case "/large":
		for block := make([]byte, 1<<20); ; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	case "/upload":
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// ways are connections that are attacked: to the outbound listener, and to the
// inbound one.
func (f *flooded) ways(t *testing.T) map[string]net.Conn {
	t.Helper()
	c, err := f.as(t, f.ca.Leaf("web", nil))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]net.Conn{"outbound": dial(t, f.web.Outbound(t.Context(), "api")), "inbound": c}
}

// underway is how many requests the proxies have, and how many connections.
func (r *pair) underway() (requests, connections int) {
	for _, p := range []*Proxy{r.api, r.web} {
		p.conns.mu.Lock()
		connections += len(p.conns.open)
		for c := range p.conns.open {
			c.requests.mu.Lock()
			requests += len(c.requests.open)
			c.requests.mu.Unlock()
		}
		p.conns.mu.Unlock()
	}
	return requests, connections
}

// heap is what is in use of it.
func heap() uint64 {
	var m goruntime.MemStats
	goruntime.GC()
	goruntime.ReadMemStats(&m)
	return m.HeapAlloc
}

// during runs a flood of both proxies beside a client that is innocent, on a
// connection of its own, and which must not notice. Afterwards nothing may be
// left.
func (f *flooded) during(t *testing.T, flood func(*testing.T, *h2peer)) {
	t.Helper()
	innocent := f.client(t)
	get := func() time.Duration {
		began := time.Now()
		if got := send(t, innocent, newRequest(t, http.MethodGet, f.url(t, "/"), nil)); got.status != 200 {
			t.Errorf("the innocent client got %d", got.status)
		}
		return time.Since(began)
	}
	get()
	_, connections := f.underway()
	goroutines, bytes := goruntime.NumGoroutine(), heap()
	var floods sync.WaitGroup
	for _, c := range f.ways(t) {
		floods.Go(func() {
			h := newH2Peer(t, c)
			_ = h.SetDeadline(time.Now().Add(20 * time.Second))
			flood(t, h)
			_ = h.Close()
		})
	}
	over, most, slowest, served := make(chan struct{}), 0, time.Duration(0), 0
	go func() {
		floods.Wait()
		close(over)
	}()
	for flooding := true; flooding; flooding = wait(over, time.Millisecond) {
		n, _ := f.underway()
		most, slowest = max(most, n), max(slowest, get())
		served++
	}
	until(t, "the flood has run off", func() bool {
		n, open := f.underway()
		return n == 0 && f.inside.Load() == 0 && open <= connections && goruntime.NumGoroutine() <= goroutines+10
	})
	left := heap()
	t.Logf("goroutines: %d before, %d after; heap: %d KiB before, %d after; at once: %d requests under way, %d in the application; %d others were served, the slowest in %v",
		goroutines, goruntime.NumGoroutine(), bytes>>10, left>>10, most, f.most.Load(), served, slowest)
	if left > bytes+16<<20 {
		t.Errorf("the heap has grown from %d to %d bytes", bytes, left)
	}
	// Of each flood 250 streams, in two proxies where it comes through both.
	if most > 4*250 || f.most.Load() > 2*250+10 {
		t.Errorf("%d requests at once in the proxies, %d in the application", most, f.most.Load())
	}
	if slowest > 15*time.Second {
		t.Errorf("a request beside the flood took %v", slowest)
	}
}

// unheard reads and forgets what the other side says until it hangs up.
func unheard(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	go func() { _, _ = io.Copy(io.Discard, c) }()
}

func TestFloodsOfHTTP2StayBounded(t *testing.T) {
	reset := func(_ *testing.T, h *h2peer) {
		unheard(h)
		for i := range uint32(10_000) {
			h.open(2*i+1, true, with(":path", "/hold")...)
			if h.WriteRSTStream(2*i+1, http2.ErrCodeCancel) != nil {
				return
			}
		}
	}
	for name, flood := range map[string]func(*testing.T, *h2peer){
		"rapid reset": reset,
		"more streams than the limit": func(t *testing.T, h *h2peer) {
			unheard(h)
			for i := range uint32(1_000) {
				h.open(2*i+1, true, with(":path", "/hold")...)
			}
			wait(t.Context().Done(), time.Second)
		},
		"continuations": func(t *testing.T, h *h2peer) {
			unheard(h)
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: h.header(good()...)})
			field := h.header("x-flood", strings.Repeat("x", 8<<10))
			for range 10_000 { // 80 MB
				if h.WriteContinuation(1, false, field) != nil {
					return
				}
			}
			t.Error("all of an endless header was taken")
		},
		"settings": func(t *testing.T, h *h2peer) {
			for range 50_000 {
				if h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) != nil {
					return
				}
			}
		},
		"pings": func(t *testing.T, h *h2peer) {
			for range 50_000 {
				if h.WritePing(false, [8]byte{}) != nil {
					return
				}
			}
		},
		"empty data": func(t *testing.T, h *h2peer) {
			unheard(h)
			h.open(1, false, with(":method", "POST", ":path", "/upload")...)
			for range 100_000 {
				if h.WriteData(1, false, nil) != nil {
					return
				}
			}
		},
		"a small header that becomes a large one": func(t *testing.T, h *h2peer) {
			unheard(h)
			fields := good()
			for range 20_000 {
				fields = append(fields, "x", strings.Repeat("x", 4000))
			}
			block := h.header(fields...) // 4 kB once, then one byte each
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:16<<10], EndStream: true})
			_ = h.WriteContinuation(1, true, block[16<<10:])
		},
		"windows of nothing": func(t *testing.T, h *h2peer) {
			_ = h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			unheard(h)
			for i := range uint32(50) {
				h.open(2*i+1, true, with(":path", "/large")...)
			}
			wait(t.Context().Done(), time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) { newFlooded(t, time.Minute).during(t, flood) })
	}
}

// Who is slow on purpose is dropped when patience is at an end, with an answer
// where there may be one.
func TestSlowClientsAreDropped(t *testing.T) {
	const patience = time.Second
	trickle := func(c net.Conn, text string) {
		for _, b := range []byte(text) {
			if _, err := c.Write([]byte{b}); err != nil || !wait(t.Context().Done(), 20*time.Millisecond) {
				return
			}
		}
	}
	f := newFlooded(t, patience)
	var all sync.WaitGroup
	const head = "POST /upload HTTP/1.1\r\nHost: api\r\n"
	for name, tc := range map[string]struct {
		attack func(net.Conn)
		answer string
	}{
		"a header byte by byte":       {func(c net.Conn) { trickle(c, head+strings.Repeat("x", 1000)) }, "400"},
		"a header that does not come": {func(c net.Conn) { _, _ = io.WriteString(c, head) }, ""},
		"a body that does not come":   {func(c net.Conn) { _, _ = io.WriteString(c, head+"Content-Length: 9\r\n\r\n") }, "408"},
		"a body that breaks off":      {func(c net.Conn) { _, _ = io.WriteString(c, head+"Content-Length: 9\r\n\r\nhell") }, "408"},
		"a chunk that does not come":  {func(c net.Conn) { _, _ = io.WriteString(c, head+"Transfer-Encoding: chunked\r\n\r\n9\r\n") }, "408"},
		"a refused body": {func(c net.Conn) {
			_, _ = io.WriteString(c, "CONNECT / HTTP/1.1\r\nHost: api\r\nContent-Length: 9\r\n\r\n")
		}, "405"},
		"half a preface": {func(c net.Conn) { _, _ = io.WriteString(c, http2.ClientPreface[:20]) }, "400"},
	} {
		for side, c := range f.ways(t) {
			all.Go(func() {
				all.Go(func() { tc.attack(c) })
				began := time.Now()
				got, err := io.ReadAll(c)
				if took := time.Since(began); timedOut(err) || took > 20*patience {
					t.Errorf("%s, %s: dropped after %v, %v", side, name, took, err)
				}
				if status, _, _ := bytes.Cut(bytes.TrimPrefix(got, []byte("HTTP/1.1 ")), []byte(" ")); string(status) != tc.answer {
					t.Errorf("%s, %s: the answer is %q, want %q", side, name, got, tc.answer)
				}
			})
		}
	}
	all.Wait()
	until(t, "nothing is left", func() bool {
		n, _ := f.underway()
		return n == 0 && f.inside.Load() == 0
	})
}

// A response that nobody reads does not keep the application busy.
func TestResponseThatNobodyReadsIsCut(t *testing.T) {
	const patience = time.Second
	f := newFlooded(t, patience)
	for _, attack := range []func(net.Conn){
		func(c net.Conn) { _, _ = io.WriteString(c, "GET /large HTTP/1.1\r\nHost: api\r\n\r\n") },
		func(c net.Conn) {
			h := newH2Peer(t, c)
			_ = h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			h.open(1, true, with(":path", "/large")...)
		},
	} {
		for side := range f.ways(t) {
			f.cutsWhatNobodyReads(t, side, attack)
		}
	}
}

func (f *flooded) cutsWhatNobodyReads(t *testing.T, side string, attack func(net.Conn)) {
	t.Helper()
	c := f.ways(t)[side]
	attack(c)
	until(t, side+": it is under way", func() bool { return f.inside.Load() == 1 })
	began := time.Now()
	until(t, side+": it is cut", func() bool {
		n, _ := f.underway()
		return n == 0 && f.inside.Load() == 0
	})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("%s: cut after %v", side, took)
	}
}

func TestIdleConnectionsAreBounded(t *testing.T) {
	f := newFlooded(t, time.Minute)
	const limit = 30
	apply(t, f.api, next(f.apiSnap, func(s *connect.Snapshot) { s.Service.MaxInboundConnections = limit }))
	var open []net.Conn
	for range 3 * limit {
		c := dial(t, f.api.Inbound(t.Context()))
		open = append(open, c)
	}
	until(t, "the rest is refused", func() bool { return refused(t, f.api, connect.LimitExceeded) == 2*limit })
	for i, c := range open {
		if i < limit {
			_ = c.Close()
		}
	}
	until(t, "there is room again", func() bool { return f.api.Status(t.Context()).Inbound.Active == 0 })
	if got := f.get(t, "/"); got.status != 200 {
		t.Error(fmt.Sprint("afterwards: ", got.status))
	}
}

// The other side gives an answer while the caller still owes a part of its
// request: where the next one would begin is not known.
func TestConnectionIsNotKeptForARequestThatWasAnsweredBeforeItsEnd(t *testing.T) {
	t.Parallel()
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalIdleTimeout = 50 * time.Millisecond }))
	c := dial(t, r.web.Outbound(t.Context(), "api"))
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 9\r\n\r\nhell"); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.HasPrefix(got, []byte("HTTP/1.1 408 ")) {
		t.Errorf("%q, %v", got, err)
	}
}
