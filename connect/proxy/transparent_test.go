// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bufio"
	either "cmp"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

// virtual makes a snapshot transparent and gives an upstream, which loses its
// listener, virtual IPs.
func virtual(s *connect.Snapshot, id connect.UpstreamID, ips ...netip.Addr) *connect.Snapshot {
	s.Service.Transparent = &connect.Transparent{}
	chain := *s.Chains[id]
	chain.VirtualIPs = ips
	s.Chains[id] = &chain
	for i := range s.Upstreams {
		if u := &s.Upstreams[i]; u.ID == id {
			u.BindAddress, u.Implicit = "", true
		}
	}
	return s
}

func TestDestinationsAreMatchedInOrder(t *testing.T) {
	api, db := &upstream{id: "api"}, &upstream{id: "db"}
	table := &transparent{
		virtual: map[netip.Addr]*upstream{ip("240.0.0.5"): api, ip("10.5.0.1"): db, ip("2000::5"): api},
		direct: map[netip.Addr]*direct{
			ip("10.0.0.7"): {upstream: api}, ip("10.0.0.8"): {upstream: api, clash: "db"}, ip("240.0.0.5"): {upstream: db},
		},
		retired: map[netip.Addr]bool{ip("10.5.0.2"): true},
		behind:  map[netip.AddrPort]bool{netip.MustParseAddrPort("10.9.9.9:443"): true},
		inbound: netip.MustParseAddrPort("0.0.0.0:21000"),
	}
	only := *table
	only.only = true
	from := netip.MustParseAddrPort("10.0.0.1:40000")
	for _, tt := range []struct {
		to       string
		upstream *upstream
		direct   bool
		why      string
	}{
		{to: "240.0.0.5:80", upstream: api},
		{to: "240.0.0.5:65535", upstream: api},
		{to: "[::ffff:240.0.0.5]:80", upstream: api},
		{to: "[2000::5]:80", upstream: api},
		{to: "10.5.0.1:1", upstream: db},
		{to: "10.0.0.7:9090", upstream: api, direct: true},
		{to: "10.0.0.8:9090", why: whyClash},
		{to: "240.0.0.6:80", why: whyUnknown},
		{to: "255.255.255.255:80", why: whyUnknown},
		{to: "10.5.0.2:80", why: whyUnknown},
		{to: "127.0.0.1:8500", why: whyLoopback},
		{to: "127.9.9.9:19001", why: whyLoopback},
		{to: "[::1]:80", why: whyLoopback},
		{to: "[::ffff:127.0.0.1]:80", why: whyLoopback},
		{to: "0.0.0.0:80", why: whyNoHost},
		{to: "224.0.0.1:80", why: whyNoHost},
		{to: "10.0.0.1:21000", why: whyOurselves},
		{to: "10.0.0.1:21001"},
		{to: "93.184.216.34:443"},
		{to: "[2001:db8::1]:443"},
		{to: "10.9.9.9:443", why: whyGateway},
		{to: "[::ffff:10.9.9.9]:443", why: whyGateway},
		{to: "10.9.9.9:80"},
		{to: "169.254.169.254:80"},
	} {
		to := netip.MustParseAddrPort(tt.to)
		if f := table.destine(from, to); f.upstream != tt.upstream || (f.direct != nil) != tt.direct || f.why != tt.why {
			t.Errorf("%s: %+v", tt.to, f)
		}
		f := only.destine(from, to)
		if want := either.Or(tt.why, map[bool]string{true: whyOnlyMesh}[tt.upstream == nil]); f.why != want || f.upstream != tt.upstream {
			t.Errorf("%s, in the mesh only: %+v, want %q", tt.to, f, want)
		}
	}
}

func TestMatchingADestinationAllocatesNothing(t *testing.T) {
	table := &transparent{virtual: map[netip.Addr]*upstream{}, direct: map[netip.Addr]*direct{}, retired: map[netip.Addr]bool{}}
	for i := range 1000 {
		table.virtual[netip.AddrFrom4([4]byte{240, 0, byte(i >> 8), byte(i)})] = &upstream{}
	}
	from := netip.MustParseAddrPort("10.0.0.1:40000")
	for _, text := range []string{"240.0.1.7:80", "[::ffff:240.0.1.7]:80", "93.184.216.34:443", "240.9.9.9:80"} {
		to := netip.MustParseAddrPort(text)
		if n := testing.AllocsPerRun(100, func() { _ = table.destine(from, to) }); n != 0 {
			t.Errorf("%s: %v allocations", text, n)
		}
	}
}

// aim is where every connection is said to be meant for; the zero value says
// that none was redirected.
type aim struct {
	to atomic.Pointer[netip.AddrPort]
}

func (a *aim) at(to netip.AddrPort) *aim {
	a.to.Store(&to)
	return a
}

func (a *aim) original(net.Conn) (netip.AddrPort, error) {
	if to := a.to.Load(); to != nil {
		return *to, nil
	}
	return netip.AddrPort{}, errors.New("not redirected")
}

// transparentPair is web → api, where web is called through its listener of
// transparent mode.
func transparentPair(t *testing.T, original func(net.Conn) (netip.AddrPort, error), limits Limits) *pair {
	t.Helper()
	r := newPair(t, limits)
	r.web.original = original // before there is a listener that asks
	r.webSnap = next(r.webSnap, func(s *connect.Snapshot) {
		s.Upstreams = []connect.Upstream{s.Upstreams[0]}
		virtual(s, "api", ip("240.0.0.5"))
	})
	apply(t, r.web, r.webSnap)
	return r
}

func (r *pair) redirectedCall(t *testing.T) net.Conn {
	return dial(t, r.web.Outbound(t.Context(), transparentID))
}

func TestVirtualIPLeadsToTheMesh(t *testing.T) {
	to := netip.MustParseAddrPort("240.0.0.5:80")
	r := transparentPair(t, new(aim).at(to).original, DefaultLimits())
	if err := roundTrip(r.redirectedCall(t), "hello"); err != nil {
		t.Fatal(err)
	}
	if r.web.Outbound(t.Context(), "api") != nil {
		t.Error("an implicit upstream has a listener")
	}
	select {
	case <-r.web.Called():
	default:
		t.Error("nobody is told that it was called")
	}
	if diff := cmp.Diff([]connect.UpstreamID{"api"}, r.web.Calls()); diff != "" {
		t.Error(diff)
	}
	s := r.web.Status(t.Context())
	if s.Transparent == nil || s.Transparent.VirtualIPs != 1 || s.Transparent.Connections != 0 || !s.Upstreams[0].Implicit || s.Upstreams[0].VirtualIPs[0] != "240.0.0.5" {
		t.Errorf("status %+v, %+v", s.Transparent, s.Upstreams)
	}
}

func TestRequestsToAVirtualIPAreRoutedLikeThoseOfAListener(t *testing.T) {
	var host atomic.Value
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { host.Store(q.Host) }))
	r.web.original = new(aim).at(netip.MustParseAddrPort("240.0.0.5:80")).original // before there is a listener that asks
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { virtual(s, "api", ip("240.0.0.5")) }))
	url := "http://" + r.web.Outbound(t.Context(), transparentID).String() + "/"
	client := r.client(t)
	q := newRequest(t, http.MethodGet, url, nil)
	q.Host = "api.virtual.consul"
	if got := send(t, client, q); got.status != http.StatusOK || host.Load() != "api.virtual.consul" {
		t.Errorf("%+v, host %v", got, host.Load())
	}
	if n := r.api.Status(t.Context()).Inbound.Requests; n != 1 {
		t.Errorf("%d requests came over the mesh", n)
	}
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Upstreams = nil }))
	got := send(t, client, newRequest(t, http.MethodGet, url, nil))
	if got.status != http.StatusServiceUnavailable && got.status != http.StatusNotFound || got.header.Get("x-outrider-reason") != string(connect.NoRoute) {
		t.Errorf("on an open connection after its upstream has gone: %+v", got)
	}
}

func TestAVirtualIPThatIsTakenAwayIsRefusedAndNotPassedOn(t *testing.T) {
	// Outside of 240.0.0.0/4, as with virtual_ip_cidr_v4: somebody else may answer.
	outside := application(t, "tcp", "127.0.0.1:0", greeter("outside")).(*net.TCPAddr).AddrPort()
	to := netip.AddrPortFrom(ip("10.5.0.1"), outside.Port())
	r := transparentPair(t, new(aim).at(to).original, DefaultLimits())
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
		s.Upstreams, s.Chains = append([]connect.Upstream(nil), s.Upstreams...), map[connect.UpstreamID]*connect.Chain{"api": s.Chains["api"]}
		virtual(s, "api", to.Addr())
	}))
	if err := roundTrip(r.redirectedCall(t), "hello"); err != nil {
		t.Fatal(err)
	}
	gone := next(r.webSnap, func(s *connect.Snapshot) { s.Upstreams = nil })
	apply(t, r.web, gone)
	apply(t, r.web, next(gone, func(*connect.Snapshot) {}))
	closed(t, r.redirectedCall(t))
	recent := r.web.Status(t.Context()).Recent
	if len(recent) != 1 || recent[0].Reason != connect.NoRoute || !strings.Contains(recent[0].Text, whyUnknown) {
		t.Errorf("%+v", recent)
	}
	if n := len(r.web.Calls()); n != 0 {
		t.Errorf("%d upstreams of before are remembered as called", n)
	}
}

func TestAConnectionThatWasNotRedirectedIsRefused(t *testing.T) {
	var to aim
	r := transparentPair(t, to.original, DefaultLimits())
	closed(t, r.redirectedCall(t))
	to.at(r.web.Outbound(t.Context(), transparentID).(*net.TCPAddr).AddrPort())
	closed(t, r.redirectedCall(t))
	if n := refused(t, r.web, connect.NoRoute); n != 2 {
		t.Errorf("%d refused for want of a route", n)
	}
}

func TestAnExplicitUpstreamTakesTheVirtualIPsOfItsService(t *testing.T) {
	to := netip.MustParseAddrPort("240.0.0.5:80")
	r := transparentPair(t, new(aim).at(to).original, DefaultLimits())
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) {
		u := s.Upstreams[0]
		u.Implicit, u.BindAddress = false, "127.0.0.1"
		s.Upstreams = []connect.Upstream{u}
	}))
	for _, c := range []net.Conn{r.redirectedCall(t), r.call(t)} {
		if err := roundTrip(c, "hello"); err != nil {
			t.Error(err)
		}
	}
}

// What is direct goes to the very address, and whoever is there proves to be the
// service.
func TestAnInstanceIsCalledDirectlyWithMutualTLS(t *testing.T) {
	ca := meshca.New("root")
	api := start(t, DefaultLimits())
	s := service(ca, "api", application(t, "tcp", "127.0.0.1:0", echo))
	s.Service.BindAddress = "0.0.0.0"
	apply(t, api, s)
	at := netip.AddrPortFrom(hostAddress(t), uint16(api.Inbound(t.Context()).(*net.TCPAddr).Port))
	web := start(t, DefaultLimits())
	to := new(aim).at(at)
	web.original = to.original
	snap := virtual(calling(service(ca, "web", nil), "api", []net.Addr{net.TCPAddrFromAddrPort(at)}), "api")
	for id := range snap.Endpoints {
		snap.Endpoints[id][0].Direct = true
	}
	apply(t, web, snap)
	if err := roundTrip(dial(t, web.Outbound(t.Context(), transparentID)), "hello"); err != nil {
		t.Fatal(err)
	}
	if n := api.Status(t.Context()).Inbound.Connections; n != 1 {
		t.Errorf("%d connections reached the instance", n)
	}
	to.at(netip.AddrPortFrom(at.Addr(), uint16(listenPlain(t, at.Addr()))))
	closed(t, dial(t, web.Outbound(t.Context(), transparentID)))
	if n := refused(t, web, connect.TLSFailed); n != 1 {
		t.Errorf("%d refused for TLS: %v", n, web.Status(t.Context()).Refused)
	}
}

// listenPlain is a server that does not speak TLS.
func listenPlain(t *testing.T, at netip.Addr) int {
	t.Helper()
	return application(t, "tcp", netip.AddrPortFrom(at, 0).String(), greeter("plain")).(*net.TCPAddr).Port
}

// hostAddress is an address of this host that is not loopback: one of loopback is
// never direct.
func hostAddress(t *testing.T) netip.Addr {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
			return p.Addr()
		}
	}
	t.Fatal("this host has no address besides loopback: give it one, such as `ip address add 169.254.7.7/32 dev lo`")
	return netip.Addr{}
}

func TestConnectionsOutsideAreBoundedAndEndedWhenForbidden(t *testing.T) {
	outside := application(t, "tcp", netip.AddrPortFrom(hostAddress(t), 0).String(), greeter("outside")).(*net.TCPAddr).AddrPort()
	limits := DefaultLimits()
	limits.Passed = 1
	r := transparentPair(t, new(aim).at(outside).original, limits)
	c := r.redirectedCall(t)
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "outside\n" {
		t.Fatalf("%q, %v", line, err)
	}
	closed(t, r.redirectedCall(t))
	if n := refused(t, r.web, connect.LimitExceeded); n != 1 {
		t.Errorf("%d refused for the limit", n)
	}
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Mesh.DestinationsOnly = true }))
	closed(t, c)
	closed(t, r.redirectedCall(t))
	if n := refused(t, r.web, connect.NoRoute); n != 2 {
		t.Errorf("%d refused for want of a route, want the open one and a new one", n)
	}
}

func TestOwnConnectionsAreKnownByBothEndsAndForgotten(t *testing.T) {
	var o own
	server := application(t, "tcp", "127.0.0.1:0", echo)
	first := dial(t, server)
	o.note(first)
	at := func(c net.Conn) (from, to netip.AddrPort) {
		return c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
	}
	if from, to := at(first); o.has(from, to) {
		t.Error("remembered out of transparent mode")
	}
	o.on.Store(true)
	o.note(first)
	from, to := at(first)
	if !o.has(from, to) || o.has(from, netip.AddrPortFrom(to.Addr(), 1)) || o.has(to, from) {
		t.Error("not known by exactly its two ends")
	}
	for i := range ownRemembered {
		o.note(&fakeEnds{local: i + 1})
	}
	if o.has(from, to) || len(o.made) != ownRemembered {
		t.Errorf("%d remembered", len(o.made))
	}
	late := ends{netip.MustParseAddrPort("10.0.0.1:1"), to}
	o.made[late] = time.Now().Add(-ownFor)
	if o.has(late.local, late.remote) {
		t.Error("one of long ago counts")
	}
}

type fakeEnds struct {
	net.Conn
	local int
}

func (f *fakeEnds) LocalAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: f.local}
}
func (f *fakeEnds) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 80} }
