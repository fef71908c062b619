// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// compiled is the runtime of a snapshot after another one, nil for none.
func compiled(t *testing.T, s *connect.Snapshot, before *runtime) *runtime {
	t.Helper()
	p := New(DefaultLimits(), hclog.NewNullLogger())
	c := compiler{registry: balance.NewRegistry(), clusters: &p.clusters, dial: p, limits: DefaultLimits(), before: before}
	rt, err := c.compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

// crowd is a snapshot in transparent mode of upstreams with one instance each.
func crowd(t *testing.T, ids ...connect.UpstreamID) *connect.Snapshot {
	t.Helper()
	s := service(meshca.New("root"), "web", nil)
	for i, id := range ids {
		calling(s, id, []net.Addr{&net.TCPAddr{IP: net.IPv4(10, 0, 1, byte(i+1)), Port: 20000}})
		virtual(s, id)
	}
	return s
}

func TestAVirtualIPOfTwoServicesLeadsToTheFirstAndIsAProblem(t *testing.T) {
	shared := ip("240.0.0.5")
	s := virtual(virtual(crowd(t, "api", "db"), "api", shared), "db", shared)
	rt := compiled(t, s, nil)
	if u := rt.transparent.virtual[shared]; u == nil || u.id != "api" {
		t.Errorf("it leads to %+v, want the first", u)
	}
	if len(rt.problems) != 1 || !strings.Contains(rt.problems[0], "240.0.0.5") || !strings.Contains(rt.problems[0], "it leads to the former") {
		t.Errorf("problems %q", rt.problems)
	}
	// Two listeners for one service are not in each other's way.
	same := virtual(virtual(crowd(t, "api", "api-again"), "api", shared), "api-again", shared)
	same.Chains["api-again"].Service = "api"
	if rt := compiled(t, same, nil); len(rt.problems) != 0 || rt.transparent.virtual[shared].id != "api" {
		t.Errorf("two upstreams of one service: problems %q", rt.problems)
	}
}

func TestAPortThatIsTakenIsAProblemAndNoTransparentMode(t *testing.T) {
	s := crowd(t, "api")
	s.Service.Transparent.OutboundPort = 15001
	s.Upstreams = append(s.Upstreams, connect.Upstream{ID: "db", Name: "db", BindAddress: "127.0.0.1", BindPort: 15001})
	rt := compiled(t, s, nil)
	if rt.transparent != nil || len(rt.problems) == 0 || !strings.Contains(strings.Join(rt.problems, "\n"), "set another outbound_listener_port") {
		t.Errorf("transparent %+v, problems %q", rt.transparent, rt.problems)
	}
	for at, options := range rt.binds {
		if at.address == "127.0.0.1:15001" && options.upstream != "db" {
			t.Errorf("the port was taken from its listener by %q", options.upstream)
		}
	}
}

// Who answers at an address proves to be the service, so an address that may be
// anybody's is never called as an instance's.
func TestOnlyInstancesOfOurOwnAreCalledDirectly(t *testing.T) {
	direct := func(change func(*connect.Snapshot, *connect.Endpoint)) *transparent {
		s := crowd(t, "api")
		s.Endpoints["api0"][0].Direct = true
		change(s, &s.Endpoints["api0"][0])
		return compiled(t, s, nil).transparent
	}
	target := func(s *connect.Snapshot, change func(*connect.Target)) {
		found := s.Chains["api"].Targets["api0"]
		change(&found)
		s.Chains["api"].Targets["api0"] = found
	}
	for name, tc := range map[string]struct {
		change func(*connect.Snapshot, *connect.Endpoint)
		want   string // the one address, "" for none
	}{
		"an instance":                  {func(*connect.Snapshot, *connect.Endpoint) {}, "10.0.1.1"},
		"an instance by IPv6 for IPv4": {func(_ *connect.Snapshot, e *connect.Endpoint) { e.Address = "::ffff:10.0.1.1" }, "10.0.1.1"},
		"one that has not said so":     {func(_ *connect.Snapshot, e *connect.Endpoint) { e.Direct = false }, ""},
		"one on our loopback":          {func(_ *connect.Snapshot, e *connect.Endpoint) { e.Address = "127.0.0.1" }, ""},
		"one on every address":         {func(_ *connect.Snapshot, e *connect.Endpoint) { e.Address = "0.0.0.0" }, ""},
		"one by name":                  {func(_ *connect.Snapshot, e *connect.Endpoint) { e.Address = "api.example" }, ""},
		"one of a peer": {func(s *connect.Snapshot, _ *connect.Endpoint) {
			target(s, func(found *connect.Target) { found.Peer = "east" })
			s.Peers = map[string]connect.Peer{"east": {Bundle: s.Bundle}}
		}, ""},
		"gateways on the way to it": {func(s *connect.Snapshot, _ *connect.Endpoint) {
			target(s, func(found *connect.Target) { found.MeshGateway, found.Datacenter = connect.GatewayRemote, "dc2" })
			s.Gateways = map[string][]connect.Endpoint{"dc2": {{ID: "gw", Address: "10.0.2.1", Port: 443, Direct: true, Weight: 1}}}
		}, ""},
	} {
		got := direct(tc.change).direct
		if tc.want == "" && len(got) != 0 || tc.want != "" && (len(got) != 1 || got[ip(tc.want)] == nil) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestVirtualIPsThatHaveGoneAreRememberedToALimit(t *testing.T) {
	var many []netip.Addr
	for i := range maxRetired + 10 {
		many = append(many, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	first := compiled(t, virtual(crowd(t, "api"), "api", ip("10.5.0.1")), nil)
	second := compiled(t, virtual(crowd(t, "api"), "api", ip("10.5.0.2")), first)
	third := compiled(t, virtual(crowd(t, "api"), "api", ip("10.5.0.3")), second)
	for at, want := range map[string]bool{"10.5.0.1": true, "10.5.0.2": true, "10.5.0.3": false} {
		if third.transparent.retired[ip(at)] != want {
			t.Errorf("%s: remembered %t", at, !want)
		}
	}
	back := compiled(t, virtual(crowd(t, "api"), "api", ip("10.5.0.1")), third)
	if back.transparent.retired[ip("10.5.0.1")] {
		t.Error("one that came back is still refused")
	}
	full := compiled(t, virtual(crowd(t, "api"), "api", many...), third)
	empty := compiled(t, crowd(t, "api"), full)
	last := compiled(t, crowd(t, "api"), empty)
	if n := len(last.transparent.retired); n > maxRetired {
		t.Errorf("%d are remembered, want at most %d", n, maxRetired)
	}
}

func TestOurInboundListenerIsNobodyElsewhere(t *testing.T) {
	s := crowd(t)
	s.Service.Transparent = &connect.Transparent{}
	s.Service.BindAddress, s.Service.BindPort = "10.0.0.3", 21000
	s.Destinations = []netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:443")}
	table := compiled(t, s, nil).transparent
	from := netip.MustParseAddrPort("10.0.0.1:40000")
	for to, want := range map[string]string{
		"10.0.0.3:21000": whyOurselves, "10.0.0.1:21000": whyOurselves, "10.0.0.4:21000": "", "10.0.0.3:21001": "",
		"10.9.9.9:443": whyGateway, "10.9.9.9:80": "", "239.255.255.255:80": whyNoHost, "[ff02::1]:80": whyNoHost, "[::]:80": whyNoHost,
	} {
		if f := table.destine(from, netip.MustParseAddrPort(to)); f.why != want || f.upstream != nil {
			t.Errorf("%s: %+v, want %q", to, f, want)
		}
	}
}

func TestWithoutTransparentModeNothingIsPassedOn(t *testing.T) {
	var none *transparent
	if none.forbids() != whyNoMode || (&transparent{only: true}).forbids() != whyOnlyMesh || (&transparent{}).forbids() != "" {
		t.Errorf("%q, %q, %q", none.forbids(), (&transparent{only: true}).forbids(), (&transparent{}).forbids())
	}
}

// A connection that was accepted before transparent mode was taken away, one that
// was not redirected and one of our own go nowhere.
func TestARedirectedConnectionThatMayNotGoSaysWhy(t *testing.T) {
	server, app := application(t, "tcp", "127.0.0.1:0", echo), start(t, DefaultLimits())
	on := compiled(t, virtual(crowd(t, "api"), "api", ip("240.0.0.5")), nil)
	off := compiled(t, service(meshca.New("root"), "web", nil), nil)
	outside, mesh := netip.MustParseAddrPort("10.0.0.9:443"), netip.MustParseAddrPort("[::ffff:240.0.0.5]:80")
	here := server.(*net.TCPAddr).AddrPort()
	app.own.on.Store(true)
	app.own.note(&fakeEnds{local: 1})
	for name, tc := range map[string]struct {
		rt     *runtime
		socket net.Conn
		aim    *aim
		want   string // why, "" for none
	}{
		"to a virtual IP":        {on, dial(t, server), new(aim).at(mesh), ""},
		"to outside":             {on, dial(t, server), new(aim).at(outside), ""},
		"out of the mode":        {off, dial(t, server), new(aim).at(outside), whyNoMode},
		"not redirected":         {on, dial(t, server), new(aim), whyNotRedirected},
		"to the listener itself": {on, &reversed{dial(t, server)}, new(aim).at(netip.AddrPortFrom(netip.AddrFrom16(here.Addr().As16()), here.Port())), whyNotRedirected},
		"our own":                {on, &looped{}, new(aim).at(netip.MustParseAddrPort("10.0.0.2:80")), whyLoop},
	} {
		app.original = tc.aim.original
		before := len(app.Status(t.Context()).Recent)
		went := app.redirected(tc.rt, newConn(t.Context(), transparentID, tc.socket))
		recent := app.Status(t.Context()).Recent
		switch {
		case went != (tc.want == ""):
			t.Errorf("%s: went on %t", name, went)
		case !went && (len(recent) != before+1 || !strings.Contains(recent[len(recent)-1].Text+recent[0].Text, tc.want)):
			t.Errorf("%s: said %+v, want %q", name, recent, tc.want)
		}
	}
}

// reversed is the other end of a connection.
type reversed struct{ net.Conn }

func (r *reversed) LocalAddr() net.Addr  { return r.Conn.RemoteAddr() }
func (r *reversed) RemoteAddr() net.Addr { return r.Conn.LocalAddr() }

// looped is a connection of ours, with the ends of fakeEnds of port 1, that came
// back to the listener.
type looped struct{ net.Conn }

func (*looped) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }
func (*looped) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 15001} }

func TestAnApplicationLearnsThatNobodyAnswersOutside(t *testing.T) {
	at := hostAddress(t)
	l, err := net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().(*net.TCPAddr).AddrPort()
	_ = l.Close()
	r := transparentPair(t, new(aim).at(dead).original, DefaultLimits())
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", r.web.Outbound(t.Context(), transparentID).String())
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		_ = c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the application meets %v, want a reset", err)
	}
	if n := refused(t, r.web, connect.ConnectFailed); n != 1 {
		t.Errorf("%d refused: %v", n, r.web.Status(t.Context()).Refused)
	}
}

func TestAVirtualIPIsBoundByTheLimitOfItsUpstream(t *testing.T) {
	r := transparentPair(t, new(aim).at(netip.MustParseAddrPort("240.0.0.5:80")).original, DefaultLimits())
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
		u := s.Upstreams[0]
		u.MaxConnections = 1
		s.Upstreams = []connect.Upstream{u}
	}))
	if err := roundTrip(r.redirectedCall(t), "hello"); err != nil {
		t.Fatal(err)
	}
	closed(t, r.redirectedCall(t))
	if n := refused(t, r.web, connect.LimitExceeded); n != 1 {
		t.Errorf("%d refused for the limit of the upstream", n)
	}
}

// The second listener at a path may be another process's.
func TestAListenerThatIsClosedTwiceRemovesItsOwnSocketOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s.sock")
	first, err := ListenUnix(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	second, err := ListenUnix(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	_ = first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of the second listener: %v", err)
	}
}
