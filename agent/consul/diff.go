// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"maps"
	"slices"
)

// diff compares a definition with what Consul has, and names what must be
// registered again: nothing when the two agree. service and sidecar are nil
// when Consul does not know them; fingerprint is that of the definition.
func diff(d Definition, fingerprint string, service, sidecar *wireService) []string {
	if service == nil {
		return []string{"missing"}
	}
	var reasons []string
	add := func(differs bool, reason string) {
		if differs {
			reasons = append(reasons, reason)
		}
	}
	add(service.Service != d.Name, "name differs")
	add(service.Address != d.Address, "address differs")
	add(service.Port != d.Port, "port differs")
	add(service.SocketPath != d.SocketPath, "socket path differs")
	add(service.EnableTagOverride != d.EnableTagOverride, "enable_tag_override differs")
	// With the override, whoever writes to the catalog owns the tags.
	add(!d.EnableTagOverride && !sameTags(service.Tags, d.Tags), "tags differ")
	add(d.Weights != nil && service.Weights != *d.Weights, "weights differ")
	add(!sameAddresses(service.TaggedAddresses, d.TaggedAddresses), "tagged addresses differ")
	add(!sameMeta(service.Meta, d.Meta), "meta differs")
	add(service.Meta[fingerprintKey] != fingerprint, "definition differs")
	if sidecar == nil || sidecar.Proxy == nil {
		return append(reasons, "sidecar missing")
	}
	return append(reasons, diffSidecar(d, sidecar)...)
}

// diffSidecar leaves alone what the definition leaves to Consul.
func diffSidecar(d Definition, seen *wireService) []string {
	var reasons []string
	add := func(differs bool, reason string) {
		if differs {
			reasons = append(reasons, "sidecar "+reason)
		}
	}
	want := d.Sidecar
	add(seen.Kind != kindProxy, "kind differs")
	add(seen.Proxy.DestinationServiceName != d.Name || seen.Proxy.DestinationServiceID != d.ServiceID(), "destination differs")
	add(want.Address != "" && seen.Address != want.Address, "address differs")
	add(want.Port != 0 && seen.Port != want.Port, "port differs")
	add(want.Tags != nil && !sameTags(seen.Tags, want.Tags), "tags differ")
	add(want.Meta != nil && !sameMeta(seen.Meta, want.Meta), "meta differs")
	p := want.Proxy
	add(p.LocalServiceAddress != "" && seen.Proxy.LocalServiceAddress != p.LocalServiceAddress, "local service address differs")
	add(p.LocalServicePort != 0 && seen.Proxy.LocalServicePort != p.LocalServicePort, "local service port differs")
	add(p.LocalServiceSocketPath != "" && seen.Proxy.LocalServiceSocketPath != p.LocalServiceSocketPath, "local service socket differs")
	add(!sameListeners(seen.Proxy.Upstreams, p.Upstreams), "upstreams differ")
	return reasons
}

// sameMeta compares without our own fingerprint.
func sameMeta(seen, want map[string]string) bool {
	seen, want = maps.Clone(seen), maps.Clone(want)
	delete(seen, fingerprintKey)
	delete(want, fingerprintKey)
	return maps.Equal(seen, want)
}

// sameTags compares as sets: the order of tags means nothing.
func sameTags(seen, want []string) bool {
	seen, want = slices.Sorted(slices.Values(seen)), slices.Sorted(slices.Values(want))
	return slices.Equal(seen, want)
}

// sameAddresses looks for what is wanted only: Consul adds addresses of its own,
// such as lan_ipv4 and consul-virtual. The fingerprint tells what was taken out.
func sameAddresses(seen map[string]wireAddress, want map[string]TaggedAddress) bool {
	for tag, a := range want {
		if TaggedAddress(seen[tag]) != a {
			return false
		}
	}
	return true
}

// A listener is what makes an upstream an upstream of its own.
type listener struct {
	kind, name, namespace, partition, peer, datacenter string
	address                                            string
	port                                               int
	socket, mode                                       string
}

// sameListeners compares the upstreams that listen, in any order. Their opaque
// configuration is merged with central defaults; the fingerprint covers it.
func sameListeners(seen []wireUpstream, want []Upstream) bool {
	count := make(map[listener]int)
	for _, u := range seen {
		if u.listens() {
			count[listener{
				either(u.DestinationType, "service"), u.DestinationName, u.DestinationNamespace, u.DestinationPartition, u.DestinationPeer, u.Datacenter,
				u.LocalBindAddress, u.LocalBindPort, u.LocalBindSocketPath, u.LocalBindSocketMode,
			}]++
		}
	}
	for _, u := range want {
		if u.LocalBindPort != 0 || u.LocalBindSocketPath != "" {
			count[listener{
				either(u.DestinationType, "service"), u.DestinationName, u.DestinationNamespace, u.DestinationPartition, u.DestinationPeer, u.Datacenter,
				u.LocalBindAddress, u.LocalBindPort, u.LocalBindSocketPath, u.LocalBindSocketMode,
			}]--
		}
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}
