// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import "net/netip"

// DefaultOutboundPort is where redirect rules send the connections of the
// application unless they are told otherwise (Consul, transparent proxy:
// outbound_listener_port).
const DefaultOutboundPort = 15001

// A Transparent is what transparent mode asks of a sidecar: the connections of
// the application are redirected to it by the system, and it finds out where
// they were meant to go (Consul, proxy mode transparent).
type Transparent struct {
	OutboundPort int // of the listener on 127.0.0.1 that they are redirected to
	// DialedDirectly says of our own instance that callers in transparent mode
	// may call its address.
	DialedDirectly bool
}

// A ServiceName names a service within its cluster.
type ServiceName struct {
	Name, Namespace, Partition string
}

// StandsFor reports whether the upstream is the service itself, in the
// datacenter and partition of local: such a one its virtual IPs lead to.
func (u Upstream) StandsFor(name ServiceName, local Service) bool {
	return u.Name == name.Name && u.near(local) && orElse(u.Namespace, local.Namespace) == name.Namespace && orElse(u.Partition, local.Partition) == name.Partition
}

// near reports whether the upstream is of our own cluster, datacenter and
// partition.
func (u Upstream) near(local Service) bool {
	return !u.Query && u.Peer == "" && (u.Datacenter == "" || u.Datacenter == local.Datacenter) && (u.Partition == "" || u.Partition == local.Partition)
}

// VirtualIPs are the addresses that lead to an upstream in transparent mode,
// those of its chain if it is near.
func (s *Snapshot) VirtualIPs(u Upstream) []netip.Addr {
	c := s.Chains[u.ID]
	if c == nil || u.Problem != "" || !u.near(s.Service) {
		return nil
	}
	return c.VirtualIPs
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
