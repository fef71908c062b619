// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type answered struct {
	text string
	err  error
}

// start asks in the background.
func (e *endpoint) start(ctx context.Context, path string) <-chan answered {
	done := make(chan answered, 1)
	go func() {
		text, err := e.ask(ctx, http.MethodGet, path, nil)
		done <- answered{text, err}
	}()
	return done
}

func (e *endpoint) pending(n int64) func() bool {
	return func() bool { return e.share.pending.Load() == n }
}

func TestRequestsBeyondTheLimitsWaitAndThenOverflow(t *testing.T) {
	h, release := holding()
	defer release()
	e := newEndpoint(t, false, 1, 1, h)
	first := e.start(t.Context(), "/hold")
	until(t, "the one connection is in use", func() bool { return e.dials.Load() == 1 && e.pending(0)() })
	second := e.start(t.Context(), "/")
	until(t, "another request waits for it", e.pending(1))
	if _, err := e.ask(t.Context(), http.MethodGet, "/", nil); kindOf(err) != Overflowed {
		t.Errorf("one too many: %v", err)
	}
	if !e.pending(1)() {
		t.Error("the one that overflowed has pushed out the one that waits")
	}
	release()
	for _, done := range []<-chan answered{first, second} {
		if got := <-done; got.err != nil || got.text != "ok" {
			t.Errorf("%q, %v", got.text, got.err)
		}
	}
	if e.dials.Load() != 1 || e.share.Connections() != 1 {
		t.Errorf("%d dials, %d connections", e.dials.Load(), e.share.Connections())
	}
}

// A limit bounds an endpoint's connections and must not make another one of the
// same target unreachable.
func TestPoolWithoutAConnectionMayOpenOneWhateverTheLimit(t *testing.T) {
	h, release := holding()
	defer release()
	e := newEndpoint(t, false, 1, 8, h)
	held := e.start(t.Context(), "/hold")
	until(t, "the limit is reached", func() bool { return e.share.Connections() == 1 })
	other := e.client.NewPool(&e.share, false, e.dial)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://endpoint/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := other.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	release()
	<-held
	other.Close()
}

func TestRequestThatGivesUpLeavesItsPlaceInTheQueue(t *testing.T) {
	h, release := holding()
	defer release()
	e := newEndpoint(t, false, 1, 8, h)
	held := e.start(t.Context(), "/hold")
	until(t, "the one connection is in use", func() bool { return e.dials.Load() == 1 && e.pending(0)() })
	ctx, cancel := context.WithCancel(t.Context())
	first := e.start(ctx, "/")
	until(t, "one waits", e.pending(1))
	second := e.start(t.Context(), "/")
	until(t, "two wait", e.pending(2))
	cancel()
	if got := <-first; kindOf(got.err) != Ended || !errors.Is(got.err, context.Canceled) {
		t.Errorf("the one that gave up: %v", got.err)
	}
	until(t, "one waits", e.pending(1))
	release()
	<-held
	if got := <-second; got.text != "ok" || got.err != nil {
		t.Errorf("the one behind it: %v", got.err)
	}
}

// Whoever waits for a dial is told how it went, instead of trying the dead
// address once more each.
func TestRequestsThatWaitForADialShareItsFailure(t *testing.T) {
	h, _ := holding()
	e := newEndpoint(t, true, 8, 64, h)
	fail, broken := make(chan struct{}), errors.New("nobody there")
	var dials atomic.Int64
	e.Renew(func(context.Context) (net.Conn, error) {
		dials.Add(1)
		<-fail
		return nil, broken
	}, false)
	const waiters = 20
	var all []<-chan answered
	for range waiters {
		all = append(all, e.start(t.Context(), "/"))
	}
	until(t, "all wait for one dial", e.pending(waiters))
	close(fail)
	for _, done := range all {
		if got := <-done; kindOf(got.err) != DialFailed || !errors.Is(got.err, broken) {
			t.Errorf("%v", got.err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("%d dials", n)
	}
	e.Renew(e.dial, false)
	if got, err := e.ask(t.Context(), http.MethodGet, "/", nil); got != "ok" || err != nil {
		t.Errorf("later: %q, %v", got, err)
	}
}

// The dial belongs to the request that began it; when that gives up, the others
// must not.
func TestRequestThatGivesUpItsDialDoesNotFailThoseThatWaitForIt(t *testing.T) {
	h, _ := holding()
	e := newEndpoint(t, true, 8, 64, h)
	var dials atomic.Int64
	e.Renew(func(ctx context.Context) (net.Conn, error) {
		if dials.Add(1) == 1 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return e.dial(ctx)
	}, false)
	ctx, cancel := context.WithCancel(t.Context())
	first := e.start(ctx, "/")
	until(t, "the dial is under way", func() bool { return dials.Load() == 1 })
	var rest []<-chan answered
	for range 5 {
		rest = append(rest, e.start(t.Context(), "/"))
	}
	until(t, "all wait", e.pending(6))
	cancel()
	if got := <-first; kindOf(got.err) != Ended {
		t.Errorf("the one that gave up: %v", got.err)
	}
	for _, done := range rest {
		if got := <-done; got.text != "ok" || got.err != nil {
			t.Errorf("one that waited: %v", got.err)
		}
	}
}

func TestRenewedPoolFinishesWhatItHasOnTheOldConnections(t *testing.T) {
	for name, h2 := range versions() {
		t.Run(name, func(t *testing.T) {
			h, release := holding()
			defer release()
			e := newEndpoint(t, h2, 8, 8, h)
			held := e.start(t.Context(), "/hold")
			until(t, "it is connected", func() bool { return e.Open() == 1 && e.pending(0)() })
			if _, err := e.ask(t.Context(), http.MethodGet, "/", nil); err != nil {
				t.Fatal(err)
			}
			var fresh atomic.Int64
			e.Renew(func(ctx context.Context) (net.Conn, error) {
				fresh.Add(1)
				return e.dial(ctx)
			}, true)
			if n := e.Open(); n != 1 {
				t.Errorf("%d connections are left of those that were idle and the one in use", n)
			}
			if _, err := e.ask(t.Context(), http.MethodGet, "/", nil); err != nil || fresh.Load() != 1 {
				t.Errorf("%v, dialled %d times anew", err, fresh.Load())
			}
			release()
			if got := <-held; got.text != "ok" || got.err != nil {
				t.Errorf("the request on the old connection: %v", got.err)
			}
			until(t, "the old connection has ended", func() bool { return e.Open() == 1 })
		})
	}
}

func TestSweepEndsWhatIsIdleAndWhatIsDead(t *testing.T) {
	for name, h2 := range versions() {
		t.Run(name, func(t *testing.T) {
			h, release := holding()
			defer release()
			e := newEndpoint(t, h2, 8, 8, h)
			if _, err := e.ask(t.Context(), http.MethodGet, "/", nil); err != nil {
				t.Fatal(err)
			}
			e.Sweep(time.Now().Add(-time.Minute))
			if n := e.Open(); n != 1 {
				t.Errorf("what was used just now: %d connections", n)
			}
			held := e.start(t.Context(), "/hold")
			until(t, "it is in use", func() bool {
				e.mu.Lock()
				defer e.mu.Unlock()
				for c := range e.every {
					return c.inUse == 1
				}
				return false
			})
			e.Sweep(time.Now().Add(time.Minute))
			if n := e.Open(); n != 1 {
				t.Errorf("what is in use: %d connections", n)
			}
			release()
			<-held
			e.Sweep(time.Now().Add(time.Minute))
			if n := e.Open(); n != 0 {
				t.Errorf("what is idle: %d connections", n)
			}
			if _, err := e.ask(t.Context(), http.MethodGet, "/", nil); err != nil {
				t.Fatal(err)
			}
			_ = e.server.Close()
			until(t, "the dead one is swept", func() bool {
				e.Sweep(time.Time{})
				return e.Open() == 0
			})
		})
	}
}

// A connection that was switched to another protocol counts until it is closed,
// and is never used for a request again.
func TestSwitchedConnectionIsNotUsedAgain(t *testing.T) {
	e := newEndpoint(t, false, 8, 8, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			_, _ = io.WriteString(w, "ok")
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, rw)
	}))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://endpoint/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "websocket")
	resp, err := e.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	both := resp.Body.(io.ReadWriteCloser)
	if got, err := e.ask(t.Context(), http.MethodGet, "/", nil); got != "ok" || err != nil || e.Open() != 2 {
		t.Errorf("%q, %v, %d connections", got, err, e.Open())
	}
	_, _ = io.WriteString(both, "ping")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(both, buf); err != nil || string(buf) != "ping" {
		t.Errorf("%q, %v", buf, err)
	}
	_ = both.Close()
	if n := e.Open(); n != 1 {
		t.Errorf("%d connections are left", n)
	}
}

// Whatever happens at once, the books are right in the end: no connection and no
// place in the queue is lost, and none is counted twice.
func TestBooksAreRightAfterAnything(t *testing.T) {
	for name, h2 := range versions() {
		t.Run(name, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/abort":
					panic(http.ErrAbortHandler)
				case "/long":
					_, _ = w.Write(make([]byte, 1<<20))
				}
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(w, "ok")
			})
			e := newEndpoint(t, h2, 3, 30, h)
			var all sync.WaitGroup
			for range 16 {
				all.Go(func() {
					for range 150 {
						e.mischief(t.Context())
						if n := e.share.Connections(); n < 0 || n > 16 {
							t.Errorf("%d connections", n)
						}
					}
				})
			}
			all.Go(func() {
				for range 40 {
					e.Renew(e.dial, rand.IntN(2) == 0)
					e.Sweep(time.Now())
				}
			})
			all.Wait()
			if n := e.share.pending.Load(); n != 0 {
				t.Errorf("%d requests are still pending", n)
			}
			if got, err := e.ask(t.Context(), http.MethodGet, "/", nil); got != "ok" || err != nil {
				t.Errorf("afterwards: %q, %v", got, err)
			}
			e.Retire()
			e.empty(t)
		})
	}
}

// mischief sends one request that goes well, or not.
func (e *endpoint) mischief(ctx context.Context) {
	switch rand.IntN(6) {
	case 0:
		_, _ = e.ask(ctx, http.MethodGet, "/abort", nil)
	case 1: // gives up at some point
		ctx, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(3000))*time.Microsecond)
		defer cancel()
		_, _ = e.ask(ctx, http.MethodPost, "/", strings.NewReader("hello"))
	case 2: // does not read to the end
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://endpoint/long", nil)
		if err != nil {
			return
		}
		if resp, err := e.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	default:
		_, _ = e.ask(ctx, http.MethodPost, "/", strings.NewReader("hello"))
	}
}

// A cancelled request of HTTP/2 keeps its place on the connection until the
// server has answered to that; who waits for the place gets it then.
func TestPlaceOfACancelledStreamGoesToWhoWaits(t *testing.T) {
	h, release := holding()
	defer release()
	e := newEndpoint(t, true, 1, 8, h)
	const streams = 2
	e.serveStreams(t, true, streams, h)
	for range 20 {
		if _, err := e.ask(t.Context(), http.MethodGet, "/", nil); err != nil {
			t.Fatal(err) // the server's settings have come now
		}
		ctx, cancel := context.WithCancel(t.Context())
		var held []<-chan answered
		for range streams {
			held = append(held, e.start(ctx, "/hold"))
		}
		until(t, "the connection is full", func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			for c := range e.every {
				return c.Available() == 0 && c.InFlight() == streams
			}
			return false
		})
		waits := e.start(t.Context(), "/")
		until(t, "one waits", e.pending(1))
		cancel()
		for _, done := range held {
			<-done
		}
		select {
		case got := <-waits:
			if got.err != nil || got.text != "ok" {
				t.Fatalf("%q, %v", got.text, got.err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("the one that waits was forgotten")
		}
	}
}
