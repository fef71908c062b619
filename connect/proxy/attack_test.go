// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

func deadline(t testing.TB, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// deadAddr is an address where nobody listens.
func deadAddr(t testing.TB) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr()
}

func freePort(t testing.TB) int { return deadAddr(t).(*net.TCPAddr).Port }

func TestBadPeersReachNothing(t *testing.T) {
	reached := make(chan struct{}, 100)
	r := newPair(t, DefaultLimits())
	app := application(t, "tcp", "127.0.0.1:0", func(net.Conn) { reached <- struct{}{} }).(*net.TCPAddr)
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalPort = app.Port }))
	web, shop := meshca.ID("web").String(), meshca.ID("shop").String()
	foreign := "spiffe://99999999-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web"
	for _, tc := range []struct {
		name   string
		leaf   *connect.Leaf
		reason connect.Reason
	}{
		{"two URI SANs", r.ca.Leaf("web", nil, meshca.URIs(web, shop)), connect.IdentityMismatch},
		{"wrong trust domain", r.ca.Leaf("web", nil, meshca.URIs(foreign)), connect.IdentityMismatch},
		{"expired", r.ca.Leaf("web", nil, meshca.Expired), connect.TLSFailed},
		{"a CA certificate", r.ca.Leaf("web", nil, meshca.IsCA), connect.TLSFailed},
		{"unknown root", meshca.New("stranger").Leaf("web", nil), connect.TLSFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := refused(t, r.api, tc.reason)
			if c, err := r.as(t, tc.leaf); err == nil {
				closed(t, c)
			}
			until(t, "the refusal is counted", func() bool { return refused(t, r.api, tc.reason) == before+1 })
		})
	}
	t.Run("no certificate", func(t *testing.T) {
		before := refused(t, r.api, connect.TLSFailed)
		c := tls.Client(dial(t, r.api.Inbound(t.Context())), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the attack
		if err := c.HandshakeContext(t.Context()); err == nil {
			closed(t, c)
		}
		until(t, "the refusal is counted", func() bool { return refused(t, r.api, connect.TLSFailed) == before+1 })
	})
	t.Run("plain text", func(t *testing.T) {
		before := refused(t, r.api, connect.TLSFailed)
		c := dial(t, r.api.Inbound(t.Context()))
		_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: api\r\n\r\n"))
		closed(t, c)
		until(t, "the refusal is counted", func() bool { return refused(t, r.api, connect.TLSFailed) == before+1 })
	})
	select {
	case <-reached:
		t.Error("the application was reached")
	default:
	}
}

func TestPeerThatSendsNothingIsDroppedAtTheDeadline(t *testing.T) {
	limits := DefaultLimits()
	limits.Handshake = 50 * time.Millisecond
	r := newPair(t, limits)
	c := dial(t, r.api.Inbound(t.Context()))
	closed(t, c)
	until(t, "the connection is gone", func() bool { return r.api.Status(t.Context()).Inbound.Active == 0 })
	if n := refused(t, r.api, connect.TLSFailed); n != 1 {
		t.Errorf("counted %d times", n)
	}
}

// descriptors is how many files this process has open.
func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestTenThousandConnectionsAtALimitOfOneThousand(t *testing.T) {
	const all, limit = 10_000, 1_000
	r := newPair(t, DefaultLimits())
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.MaxInboundConnections = limit }))
	before := descriptors(t)
	inbound := r.api.Inbound(t.Context()).String()
	var mu sync.Mutex
	var open []net.Conn
	var dials, reads sync.WaitGroup
	for range 50 {
		dials.Go(func() {
			for range all / 50 {
				c, err := net.Dial("tcp", inbound)
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				mu.Lock()
				open = append(open, c)
				mu.Unlock()
				// What the proxy refuses it closes; this side follows at once.
				reads.Go(func() {
					_, _ = io.Copy(io.Discard, c)
					_ = c.Close()
				})
			}
		})
	}
	dials.Wait()
	until(t, "all are admitted or refused", func() bool {
		return refused(t, r.api, connect.LimitExceeded) == all-limit && r.api.Status(t.Context()).Inbound.Active == limit
	})
	for _, c := range open {
		_ = c.Close()
	}
	reads.Wait()
	until(t, "all connections are gone", func() bool { return r.api.Status(t.Context()).Inbound.Active == 0 })
	until(t, "no descriptor is left behind", func() bool { return descriptors(t) <= before })
	if err := roundTrip(r.call(t), "served again"); err != nil {
		t.Errorf("after the flood: %v", err)
	}
}

// flaky fails the first accepts as a process without descriptors would.
type flaky struct {
	net.Listener
	failures int
}

func (f *flaky) Accept() (net.Conn, error) {
	if f.failures > 0 {
		f.failures--
		return nil, &net.OpError{Op: "accept", Err: fmt.Errorf("accept4: %w", syscall.EMFILE)}
	}
	return f.Listener.Accept()
}

func TestAcceptLoopSurvivesFailures(t *testing.T) {
	r := newPair(t, DefaultLimits())
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{socket: &flaky{Listener: socket, failures: 4}, closed: make(chan struct{})}
	err = r.api.do(t.Context(), func(ctx context.Context) error {
		r.api.serve(ctx, map[bind]*listener{{network: "tcp", address: "flaky"}: l})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, socket.Addr())
	_, _ = c.Write([]byte("not TLS, but it must be answered"))
	closed(t, c)
}

func TestPanicEndsOneConnectionOnly(t *testing.T) {
	r := newPair(t, DefaultLimits())
	healthy := r.call(t)
	if err := roundTrip(healthy, "before"); err != nil {
		t.Fatal(err)
	}
	// A snapshot with a runtime hole that compile would never make.
	good := r.web.runtime.Load()
	broken := *good
	broken.upstreams = map[connect.UpstreamID]*upstream{"api": {id: "api", maxConns: 10, legs: []leg{{}}}}
	r.web.runtime.Store(&broken)
	r.callInVain(t)
	until(t, "the panic is counted", func() bool { return r.web.counts.panics.Load() == 1 })
	r.web.runtime.Store(good)
	if err := errors.Join(roundTrip(healthy, "after"), roundTrip(r.call(t), "new")); err != nil {
		t.Error(err)
	}
}

func TestHealthProbesAreNotCountedAsFailures(t *testing.T) {
	r := newPair(t, DefaultLimits())
	for range 3 {
		c, err := net.Dial("tcp", r.api.Inbound(t.Context()).String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	until(t, "the probes are counted", func() bool { return r.api.Status(t.Context()).Probes == 3 })
	if s := r.api.Status(t.Context()); len(s.Refused) != 0 {
		t.Errorf("refused %v", s.Refused)
	}
}

func TestHalfOpenHandshakesDoNotBlockOthers(t *testing.T) {
	r := newPair(t, DefaultLimits())
	for range 200 {
		c := dial(t, r.api.Inbound(t.Context()))
		_, _ = c.Write([]byte{0x16, 0x03, 0x01}) // the start of a TLS record, and no more
	}
	if err := roundTrip(r.call(t), "hello"); err != nil {
		t.Error(err)
	}
}

// A stream that is cut must not look complete to the application.
func TestCutConnectionIsResetAtTheApplicationToo(t *testing.T) {
	ended := make(chan error, 1)
	r := newPair(t, DefaultLimits())
	app := application(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		_, err := io.Copy(c, c)
		ended <- err
	}).(*net.TCPAddr)
	snap := next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalPort = app.Port })
	apply(t, r.api, snap)
	c := r.call(t)
	if err := roundTrip(c, "hello"); err != nil {
		t.Fatal(err)
	}
	apply(t, r.api, next(snap, func(s *connect.Snapshot) { s.DefaultAction = connect.Deny }))
	select {
	case err := <-ended:
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the application saw %v, want a reset", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the application still has its side of the cut connection")
	}
}
