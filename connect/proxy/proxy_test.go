// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

func TestCallPassesBothProxies(t *testing.T) {
	r := newPair(t, DefaultLimits())
	c := r.call(t)
	if err := roundTrip(c, "hello mesh"); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	closed(t, c)
	until(t, "both ends are counted", func() bool {
		return r.api.Status(t.Context()).Inbound.Sent == 10 && r.api.Status(t.Context()).Inbound.Received == 10
	})
}

func TestDeniedCallIsClosedWithItsReason(t *testing.T) {
	for _, tc := range []struct {
		name       string
		intentions []connect.Intention
		fallback   connect.Action
	}{
		{"by name", []connect.Intention{intention("web", connect.Deny)}, connect.Allow},
		{"by default", nil, connect.Deny},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newPair(t, DefaultLimits())
			apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Intentions, s.DefaultAction = tc.intentions, tc.fallback }))
			if err := roundTrip(r.call(t), "hello"); err == nil {
				t.Fatal("the call went through")
			}
			until(t, "the denial is counted", func() bool { return refused(t, r.api, connect.IntentionDenied) == 1 })
		})
	}
}

func TestIntentionChangeCutsOnlyWhatItDenies(t *testing.T) {
	r := newPair(t, DefaultLimits())
	web := r.call(t)
	shop, err := r.as(t, r.ca.Leaf("shop", nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{web, shop} {
		if err := roundTrip(c, "before"); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Intentions = []connect.Intention{intention("web", connect.Deny)} }))
	closed(t, web)
	if err := roundTrip(shop, "after"); err != nil {
		t.Errorf("the allowed connection was touched: %v", err)
	}
}

func TestLeafRotationCutsNothing(t *testing.T) {
	r := newPair(t, DefaultLimits())
	c := r.call(t)
	if err := roundTrip(c, "before"); err != nil {
		t.Fatal(err)
	}
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Leaf = r.ca.Leaf("api", nil) }))
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Leaf = r.ca.Leaf("web", nil) }))
	if err := roundTrip(c, "after"); err != nil {
		t.Errorf("the open connection: %v", err)
	}
	if err := roundTrip(r.call(t), "new"); err != nil {
		t.Errorf("a new connection: %v", err)
	}
}

func TestUnixSocketsOnBothEnds(t *testing.T) {
	dir := t.TempDir()
	r := newPair(t, DefaultLimits())
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) {
		s.Service.LocalSocketPath = application(t, "unix", filepath.Join(dir, "app.sock"), echo).String()
	}))
	path := filepath.Join(dir, "api.sock")
	withSocket := next(r.webSnap, func(s *connect.Snapshot) {
		u := s.Upstreams[0]
		u.BindSocketPath, u.BindSocketMode, u.BindAddress = path, 0o620, ""
		s.Upstreams = []connect.Upstream{u}
	})
	apply(t, r.web, withSocket)
	if err := roundTrip(dial(t, &net.UnixAddr{Name: path, Net: "unix"}), "hello"); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o620 {
		t.Errorf("socket mode %v, %v", info.Mode(), err)
	}
}

func TestSocketLeftBehindIsReplacedButNothingElseIs(t *testing.T) {
	dir := t.TempDir()
	r := newPair(t, DefaultLimits())
	bindTo := func(path string) error {
		return r.web.Apply(t.Context(), next(r.webSnap, func(s *connect.Snapshot) {
			u := s.Upstreams[0]
			u.BindSocketPath = path
			s.Upstreams = []connect.Upstream{u}
		}))
	}
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if err := bindTo(stale); err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("a live socket was taken over: %v", err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	if err := bindTo(stale); err != nil {
		t.Errorf("a dead socket stands in the way: %v", err)
	}
	file := filepath.Join(dir, "file")
	_ = os.WriteFile(file, []byte("precious"), 0o600)
	if err := bindTo(file); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file was taken for a socket: %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file is gone")
	}
}

func TestNextEndpointIsTriedThenEjected(t *testing.T) {
	r := newPair(t, DefaultLimits())
	dead := deadAddr(t)
	snap := calling(service(r.ca, "web", nil), "api", []net.Addr{dead, r.api.Inbound(t.Context())})
	snap.Upstreams[0].PassiveHealth = connect.PassiveHealth{MaxFailures: 2}
	apply(t, r.web, snap)
	for range 20 {
		if err := roundTrip(r.call(t), "hello"); err != nil {
			t.Fatalf("a call failed while a good endpoint exists: %v", err)
		}
	}
	status := r.web.Status(t.Context())
	if status.Ejections != 1 || status.Attempts[connect.ConnectFailed] != 2 {
		t.Errorf("%d ejections after %d failed attempts, want 1 after 2", status.Ejections, status.Attempts[connect.ConnectFailed])
	}
	if e := status.Upstreams[0].Targets[0].Endpoints[0]; !strings.Contains(e.NotUsed, "ejected until") || !strings.Contains(e.LastFailure, "refused") {
		t.Errorf("status does not explain the ejection: %+v", e)
	}
}

func TestFailoverTargetTakesOver(t *testing.T) {
	for _, tc := range []struct {
		name    string
		primary func(*testing.T) []net.Addr
	}{
		{"when the primary has no endpoint", func(*testing.T) []net.Addr { return nil }},
		{"when the primary cannot be connected to", func(t *testing.T) []net.Addr { return []net.Addr{deadAddr(t), deadAddr(t)} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newPair(t, DefaultLimits())
			apply(t, r.web, calling(service(r.ca, "web", nil), "api", tc.primary(t), []net.Addr{r.api.Inbound(t.Context())}))
			if err := roundTrip(r.call(t), "hello"); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestWrongServiceAtTheEndpointIsNotBelieved(t *testing.T) {
	r := newPair(t, DefaultLimits())
	db := start(t, DefaultLimits())
	apply(t, db, service(r.ca, "db", application(t, "tcp", "127.0.0.1:0", echo)))
	apply(t, r.web, calling(service(r.ca, "web", nil), "api", []net.Addr{db.Inbound(t.Context())}))
	if err := roundTrip(r.call(t), "hello"); err == nil {
		t.Fatal("bytes reached another service")
	}
	if n := refused(t, r.web, connect.IdentityMismatch); n != 1 {
		t.Errorf("identity_mismatch counted %d times", n)
	}
}

func TestEachFailureHasItsReason(t *testing.T) {
	gone := deadAddr(t)
	for _, tc := range []struct {
		reason connect.Reason
		change func(*testing.T, *pair) *Proxy
	}{
		{connect.AppUnreachable, func(t *testing.T, r *pair) *Proxy {
			apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalPort = gone.(*net.TCPAddr).Port }))
			return r.api
		}},
		{connect.ConnectFailed, func(t *testing.T, r *pair) *Proxy {
			apply(t, r.web, calling(service(r.ca, "web", nil), "api", []net.Addr{gone}))
			return r.web
		}},
		{connect.NoHealthyEndpoint, func(t *testing.T, r *pair) *Proxy {
			apply(t, r.web, calling(service(r.ca, "web", nil), "api", nil))
			return r.web
		}},
		{connect.NotReady, func(t *testing.T, r *pair) *Proxy {
			apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Chains = nil }))
			return r.web
		}},
		{connect.NoRoute, func(t *testing.T, r *pair) *Proxy {
			apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
				u := s.Upstreams[0]
				u.Problem = "prepared queries are not served"
				s.Upstreams = []connect.Upstream{u}
			}))
			return r.web
		}},
		{connect.LimitExceeded, func(t *testing.T, r *pair) *Proxy {
			apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
				u := s.Upstreams[0]
				u.MaxConnections = 0
				s.Upstreams = []connect.Upstream{u}
			}))
			return r.web
		}},
	} {
		t.Run(string(tc.reason), func(t *testing.T) {
			r := newPair(t, DefaultLimits())
			p := tc.change(t, r)
			r.callInVain(t)
			until(t, "the refusal is counted", func() bool { return refused(t, p, tc.reason) == 1 })
		})
	}
}

func TestSilentEndpointTimesOut(t *testing.T) {
	limits := DefaultLimits()
	limits.Handshake = 50 * time.Millisecond
	r := newPair(t, limits)
	silent := application(t, "tcp", "127.0.0.1:0", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	apply(t, r.web, calling(service(r.ca, "web", nil), "api", []net.Addr{silent}))
	r.callInVain(t)
	until(t, "the failure is counted", func() bool { return refused(t, r.web, connect.TLSFailed) == 1 })
}

func TestUpstreamsComeAndGoWithoutTouchingOthers(t *testing.T) {
	r := newPair(t, DefaultLimits())
	old := r.call(t)
	_ = roundTrip(old, "open")
	// A second port is chosen by the system for each, so give them real ports.
	free := freePort(t)
	more := next(r.webSnap, func(s *connect.Snapshot) {
		s.Upstreams = append([]connect.Upstream{{ID: "db", BindAddress: "127.0.0.1", BindPort: free, MaxConnections: -1}}, s.Upstreams...)
		s.Chains = map[connect.UpstreamID]*connect.Chain{"api": s.Chains["api"], "db": s.Chains["api"]}
	})
	apply(t, r.web, more)
	if err := roundTrip(dial(t, r.web.Outbound(t.Context(), "db")), "hello"); err != nil {
		t.Errorf("the new upstream: %v", err)
	}
	only := next(more, func(s *connect.Snapshot) { s.Upstreams = s.Upstreams[:1] })
	gone := r.web.Outbound(t.Context(), "api")
	apply(t, r.web, only)
	if c, err := net.Dial("tcp", gone.String()); err == nil {
		_ = c.Close()
		t.Error("the removed upstream still listens")
	}
	if err := roundTrip(old, "still"); err != nil {
		t.Errorf("an open connection of the removed upstream was cut: %v", err)
	}
}

// A withdrawn intention must not wait for a port that somebody else holds.
func TestPortInUseHoldsNothingElseBack(t *testing.T) {
	r := newPair(t, DefaultLimits())
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	open, err := r.as(t, r.ca.Leaf("shop", nil))
	if err != nil || roundTrip(open, "before") != nil {
		t.Fatal("no connection", err)
	}
	snap := next(r.apiSnap, func(s *connect.Snapshot) {
		s.DefaultAction = connect.Deny
		s.Upstreams = []connect.Upstream{{ID: "db", BindAddress: "127.0.0.1", BindPort: socket.Addr().(*net.TCPAddr).Port, MaxConnections: -1}}
	})
	err = r.api.Apply(t.Context(), snap)
	var bind *BindError
	if !errors.As(err, &bind) || !strings.Contains(err.Error(), `listen for upstream "db"`) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v", err)
	}
	closed(t, open)
	if u := r.api.Status(t.Context()).Upstreams[0]; u.Address != "" || !strings.Contains(u.Problem, "already in use") {
		t.Errorf("status %+v", u)
	}
	_ = socket.Close()
	apply(t, r.api, snap)
	if u := r.api.Status(t.Context()).Upstreams[0]; u.Address == "" {
		t.Errorf("the freed port is not bound at the next try: %+v", u)
	}
}

func TestListenerMovesOnlyWhenItsNewAddressIsFree(t *testing.T) {
	r := newPair(t, DefaultLimits())
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	moveTo := func(port int) error {
		return r.api.Apply(t.Context(), next(r.apiSnap, func(s *connect.Snapshot) { s.Service.BindPort = port }))
	}
	old := r.api.Inbound(t.Context())
	if err := moveTo(taken.Addr().(*net.TCPAddr).Port); err == nil {
		t.Fatal("bound a taken port")
	}
	if err := roundTrip(r.call(t), "hello"); err != nil {
		t.Errorf("the old listener is gone: %v", err)
	}
	if err := moveTo(freePort(t)); err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", old.String()); err == nil {
		_ = c.Close()
		t.Error("the old listener is still there")
	}
}

func TestSnapshotWithoutLeafKeepsWhatRan(t *testing.T) {
	r := newPair(t, DefaultLimits())
	if err := r.api.Apply(t.Context(), next(r.apiSnap, func(s *connect.Snapshot) { s.Leaf = nil })); err == nil {
		t.Error("applied")
	}
	if err := roundTrip(r.call(t), "hello"); err != nil {
		t.Error(err)
	}
}

func TestUpstreamOnATakenAddressOfOurOwnSaysSo(t *testing.T) {
	r := newPair(t, DefaultLimits())
	port := freePort(t)
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
		one := connect.Upstream{ID: "a", BindAddress: "127.0.0.1", BindPort: port, MaxConnections: -1}
		two := one
		two.ID = "b"
		s.Upstreams = []connect.Upstream{one, two}
	}))
	if u := r.web.Status(t.Context()).Upstreams[1]; !strings.Contains(u.Problem, `bound by upstream "a"`) {
		t.Errorf("problem %q", u.Problem)
	}
}

func TestDrainLetsConnectionsEndAndCutsTheRest(t *testing.T) {
	r := newPair(t, DefaultLimits())
	polite, stubborn := r.call(t), r.call(t)
	for _, c := range []net.Conn{polite, stubborn} {
		if err := roundTrip(c, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	inbound := r.api.Inbound(t.Context())
	ctx, cancel := deadline(t, 300*time.Millisecond)
	defer cancel()
	cut := make(chan int, 1)
	go func() { cut <- r.api.Drain(ctx) }()
	until(t, "it stops accepting", func() bool {
		c, err := net.Dial("tcp", inbound.String())
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	if err := roundTrip(polite, "during the drain"); err != nil {
		t.Errorf("an open connection during the drain: %v", err)
	}
	_ = polite.Close()
	if n := <-cut; n != 1 {
		t.Errorf("%d connections were cut, want the stubborn one", n)
	}
	closed(t, stubborn)
}

func TestDrainOfAnIdleProxyEndsAtOnce(t *testing.T) {
	r := newPair(t, DefaultLimits())
	ctx, cancel := deadline(t, time.Minute)
	defer cancel()
	if cut := r.api.Drain(ctx); cut != 0 || ctx.Err() != nil {
		t.Errorf("cut %d, %v", cut, ctx.Err())
	}
}
