// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"net"
	"strconv"
)

// An Endpoint is one instance of a target, usable or not. Unusable ones are
// kept so that status can say why they are not used.
type Endpoint struct {
	ID      string // Consul's service ID of the sidecar
	Node    string
	Address string // host, an IP address or a name to resolve
	Port    uint16
	Weight  int // share of the traffic, 1 … 128; 0 when unusable
	// Unusable says why the endpoint gets no traffic, "" when it may:
	// "check \"db\" is critical", "node check …", "warning, and the subset wants only passing".
	Unusable string
	// Direct says that its address may be called as it is in transparent mode:
	// what is there is this instance, and takes mTLS on every port (Consul,
	// dialed_directly).
	Direct bool
}

// Usable reports whether the endpoint may be given traffic.
func (e Endpoint) Usable() bool { return e.Unusable == "" && e.Weight > 0 }

// HostPort is the address as a dialler takes it.
func (e Endpoint) HostPort() string {
	return net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port)))
}
