// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// everyService is the name under which defaults of all upstreams are registered.
const everyService = "*"

// convertTransparent returns nil for a sidecar that is not in transparent mode.
func convertTransparent(proxy *wireProxy, config opaque) *connect.Transparent {
	if proxy.Mode != "transparent" {
		return nil
	}
	t := connect.Transparent{
		OutboundPort:   cmp.Or(proxy.TransparentProxy.OutboundListenerPort, connect.DefaultOutboundPort),
		DialedDirectly: proxy.TransparentProxy.DialedDirectly,
	}
	if err := checkPort(t.OutboundPort); err != nil {
		config.note("outbound_listener_port: %v; %d is used", err, connect.DefaultOutboundPort)
		t.OutboundPort = connect.DefaultOutboundPort
	}
	return &t
}

// convertImplicit gathers what upstreams without a listener are given: the agent
// has merged it out of service-defaults and proxy-defaults.
func convertImplicit(proxy *wireProxy, s connect.Service, warnings *[]string) map[string]connect.Upstream {
	if s.Transparent == nil {
		return nil
	}
	implied := make(map[string]connect.Upstream)
	for _, w := range append([]wireUpstream{{DestinationName: everyService}}, proxy.Upstreams...) {
		if w.listens() || w.DestinationPeer != "" || w.DestinationName == "" || (w.Datacenter != "" && w.Datacenter != s.Datacenter) {
			continue
		}
		w.DestinationNamespace, w.DestinationPartition = "", "" // "*" of both stands for every tenancy
		u := convertUpstream(connect.UpstreamID(w.DestinationName), w, proxy, s, warnings)
		u.BindAddress, u.Implicit = "", true
		u.Balance = either(u.Balance, balanceKey(opaque{where: "proxy config", values: proxy.Config, notes: new([]string)}))
		implied[w.DestinationName] = u
	}
	return implied
}

// ImplicitUpstreams are the upstreams of a sidecar in transparent mode for the
// services that intentions let it call, sorted by ID, without those that have a
// listener of their own already: that one's settings count for both.
func (r Registration) ImplicitUpstreams(i Implicit) []connect.Upstream {
	if r.Service.Transparent == nil {
		return nil
	}
	out := make([]connect.Upstream, 0, len(i.Services))
	for _, name := range i.Services {
		if slices.ContainsFunc(r.Upstreams, func(u connect.Upstream) bool { return u.StandsFor(name, r.Service) }) {
			continue
		}
		u, named := r.Implied[name.Name]
		if !named {
			u = r.Implied[everyService]
		}
		u.ID = upstreamID(wireUpstream{DestinationName: name.Name, DestinationNamespace: name.Namespace, DestinationPartition: name.Partition}, r.Service)
		u.Name, u.Namespace, u.Partition = name.Name, name.Namespace, name.Partition
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b connect.Upstream) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// maxVirtualIPs bounds the virtual IPs of one service.
const maxVirtualIPs = 64

// virtualIPs reads those that Consul's servers have given a service, and those
// that an operator has. What instances say of themselves in tagged addresses is
// not asked: whoever may register one service could take another's traffic so.
func virtualIPs(w *wireChain) ([]netip.Addr, error) {
	texts := slices.Concat(w.AutoVirtualIPs, w.ManualVirtualIPs)
	if err := sizes("virtual IPs", len(texts), maxVirtualIPs); err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, text := range texts {
		ip, err := netip.ParseAddr(strings.TrimSpace(text))
		switch {
		case err != nil:
			return nil, fmt.Errorf("virtual IP %.40q is no IP address", text)
		case ip.IsUnspecified() || ip.IsLoopback() || ip.IsMulticast():
			return nil, fmt.Errorf("virtual IP %s can stand for no service", ip)
		}
		out = append(out, ip.Unmap().WithZone(""))
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}
