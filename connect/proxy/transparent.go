// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"crypto/tls"
	"net/netip"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/mtls"
)

// transparentID names the listener of transparent mode among those of the
// upstreams, and the connections that it passes on to outside the mesh. No
// service has such a name.
const transparentID connect.UpstreamID = "transparent:"

// transparent says what becomes of connections that were redirected to us, by
// where they were meant to go. It is part of a runtime, and immutable.
type transparent struct {
	virtual map[netip.Addr]*upstream
	direct  map[netip.Addr]*direct
	retired map[netip.Addr]bool     // that were virtual IPs of upstreams, and are none any more
	behind  map[netip.AddrPort]bool // gateways that we do not go round
	only    bool                    // nothing is passed on to outside the mesh
	inbound netip.AddrPort          // our own listener
}

// direct is an instance of an upstream that is called by its own address.
type direct struct {
	upstream *upstream
	service  connect.TargetID
	tls      *tls.Config
	timeout  time.Duration
	clash    connect.TargetID // another one that claims the address, "" for none
}

// fate is what becomes of one redirected connection. why is "" unless it is
// refused.
type fate struct {
	upstream *upstream // nil for one that is passed on
	direct   *direct   // nil unless called by its own address
	why      string
}

// Why redirected connections are refused.
const (
	whyNotRedirected = "the connection was not redirected to this listener: applications call virtual IPs or addresses, never this port"
	whyNoMode        = "transparent mode has been taken away from the registration"
	whyLoopback      = "the destination is this host's loopback, which is not passed on to"
	whyNoHost        = "the destination is no address of a single host"
	whyOurselves     = "the destination is the sidecar's own inbound listener"
	whyUnknown       = "this virtual IP belongs to no service that intentions allow"
	whyOnlyMesh      = "the destination is outside the mesh, and the mesh config entry has mesh_destinations_only: register the service, or take that away"
	whyGateway       = "the address is a destination behind terminating gateways, which transparent mode does not serve: without the destination block of its service-defaults it is called directly"
	whyClash         = "instances of several services with dialed_directly are registered with this address: call their virtual IPs"
)

// maxRetired bounds the virtual IPs that are remembered after their upstream has
// gone. Nearly all are unroutable anyway, see isUnroutable.
const maxRetired = 4096

// transparent compiles what redirected connections are matched against, after
// all upstreams.
func (c *compiler) transparent(rt *runtime, s *connect.Snapshot) {
	if s.Service.Transparent == nil {
		return
	}
	at := tcpBind(transparentID, "127.0.0.1", s.Service.Transparent.OutboundPort)
	if other, taken := rt.binds[at]; taken {
		rt.problems = append(rt.problems, "transparent mode is not served: "+at.address+" is bound by "+listenerName(other.upstream)+" already; set another outbound_listener_port")
		return
	}
	rt.binds[at] = bindOptions{upstream: transparentID}
	t := &transparent{
		virtual: make(map[netip.Addr]*upstream), direct: make(map[netip.Addr]*direct), retired: make(map[netip.Addr]bool),
		behind: make(map[netip.AddrPort]bool, len(s.Destinations)), only: s.Mesh.DestinationsOnly,
	}
	for _, at := range s.Destinations {
		t.behind[at] = true
	}
	if ip, err := netip.ParseAddr(s.Service.BindAddress); err == nil {
		t.inbound = netip.AddrPortFrom(ip.Unmap(), uint16(s.Service.BindPort)) //nolint:gosec // a port
	}
	for i := range s.Upstreams {
		u := &s.Upstreams[i]
		for _, ip := range s.VirtualIPs(*u) {
			if t.virtual[ip] == nil {
				t.virtual[ip] = rt.upstreams[u.ID]
			} else if other := t.virtual[ip].id; !sameService(s, other, u.ID) {
				rt.problems = append(rt.problems, "virtual IP "+ip.String()+" belongs to "+listenerName(other)+" and to "+listenerName(u.ID)+"; it leads to the former")
			}
		}
		c.directs(t, rt, s, u)
	}
	if c.before != nil && c.before.transparent != nil {
		t.retire(c.before.transparent)
	}
	rt.transparent = t
}

// sameService: an upstream may have two listeners, each under its own ID.
func sameService(s *connect.Snapshot, a, b connect.UpstreamID) bool {
	return s.Chains[a] != nil && s.Chains[b] != nil && s.Chains[a].Service == s.Chains[b].Service
}

// directs adds the instances of an upstream that are called by their own
// addresses: over mTLS, and whatever they are asked for is bytes to us.
func (c *compiler) directs(t *transparent, rt *runtime, s *connect.Snapshot, u *connect.Upstream) {
	compiled := rt.upstreams[u.ID]
	for _, l := range compiled.everyLeg() {
		if l.through != "" || l.target.Peer != "" {
			continue
		}
		var config *tls.Config
		for _, e := range l.endpoints {
			ip, err := netip.ParseAddr(e.Address)
			if ip = ip.Unmap(); err != nil || !e.Direct || !e.Usable() || ip.IsLoopback() || ip.IsUnspecified() {
				continue
			}
			if old := t.direct[ip]; old != nil {
				if old.service != l.target.ID && old.clash == "" {
					old.clash = l.target.ID
				}
				continue
			}
			if config == nil {
				config = mtls.Client(s.Leaf, s.BundleOf(l.target), s.Mesh.Outgoing, l.target.SNI, l.target.Accepts(s.Bundle.TrustDomain))
			}
			t.direct[ip] = &direct{upstream: compiled, service: l.target.ID, tls: config, timeout: l.timeout}
		}
	}
}

// retire remembers virtual IPs that lead nowhere any more: a connection to one is
// refused rather than passed on to whoever answers there.
func (t *transparent) retire(before *transparent) {
	for ip := range before.virtual {
		if t.virtual[ip] == nil {
			t.retired[ip] = true
		}
	}
	for ip := range before.retired {
		if t.virtual[ip] == nil && len(t.retired) < maxRetired {
			t.retired[ip] = true
		}
	}
}

// destine says what becomes of a connection from an application to an address.
// It allocates nothing.
func (t *transparent) destine(from, to netip.AddrPort) fate {
	ip := to.Addr().Unmap()
	if u := t.virtual[ip]; u != nil {
		return fate{upstream: u}
	}
	if d := t.direct[ip]; d != nil {
		if d.clash != "" {
			return fate{why: whyClash}
		}
		return fate{upstream: d.upstream, direct: d}
	}
	if t.behind[netip.AddrPortFrom(ip, to.Port())] {
		return fate{why: whyGateway}
	}
	return fate{why: t.outside(from.Addr().Unmap(), ip, to.Port())}
}

// outside says why a connection to no service that we know is not passed on, ""
// when it is.
func (t *transparent) outside(from, ip netip.Addr, port uint16) string {
	switch {
	case ip.IsLoopback():
		return whyLoopback
	case ip.IsUnspecified() || ip.IsMulticast():
		return whyNoHost
	case isUnroutable(ip) || t.retired[ip]:
		return whyUnknown
	case t.inbound.Port() != 0 && port == t.inbound.Port() && (ip == from || ip == t.inbound.Addr()):
		return whyOurselves
	case t.only:
		return whyOnlyMesh
	}
	return ""
}

// forbids says why nothing at all is passed on to outside the mesh, "" when it
// is. A nil t is a runtime that is not in transparent mode.
func (t *transparent) forbids() string {
	switch {
	case t == nil:
		return whyNoMode
	case t.only:
		return whyOnlyMesh
	}
	return ""
}

// isUnroutable reports whether an address is one of 240.0.0.0/4, which no network
// routes (RFC 1112 §4) and of which Consul takes virtual IPs unless it is
// configured otherwise. No service that we know has it.
func isUnroutable(ip netip.Addr) bool { return ip.Is4() && ip.As4()[0] >= 240 }

func addressTexts(ips []netip.Addr) []string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}
