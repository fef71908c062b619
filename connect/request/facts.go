// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"net/netip"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// Facts are what format commands may ask for besides the header they edit.
// Whatever is zero is not known, and its command yields nothing. A nil *Facts
// knows nothing.
type Facts struct {
	Downstream      netip.AddrPort // who connected to us; zero for a unix socket
	DownstreamLocal netip.AddrPort // our end of that connection
	Protocol        string         // HTTP/1.0, HTTP/1.1 or HTTP/2
	Start           time.Time      // of the request
	Hostname        string         // of this machine
	Peer            connect.Identity
	Request         *connect.Head  // as it is by now
	Response        connect.Header // nil before there is one
	Status          int            // of the response
	Upstream        string         // host:port of the endpoint; "" before it is chosen
}
