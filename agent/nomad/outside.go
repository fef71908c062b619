// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"
)

// dialWithin bounds one connect of a control connection, so that a server that
// is gone without a trace leaves nothing waiting for minutes.
const dialWithin = 10 * time.Second

// DialOutside connects from where this process is, for a task in a network of its
// own that cannot enter that of the host. It refuses every address of that
// network itself, whatever name led there, and asks no name server there: any
// task of the group may listen on it, and would be sent the tokens. It fits
// [net.Dialer.DialContext].
func DialOutside(ctx context.Context, network, address string) (net.Conn, error) {
	d := outside()
	d.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		server := outside()
		conn, err := server.DialContext(ctx, network, address)
		if err != nil {
			return nil, fmt.Errorf("ask the name server: %w", err)
		}
		return conn, nil
	}}
	return d.DialContext(ctx, network, address)
}

func outside() net.Dialer {
	return net.Dialer{Timeout: dialWithin, Control: func(_, address string, _ syscall.RawConn) error { return checkOutside(address) }}
}

// checkOutside reports why the address of a connection to be made is one of this
// network.
func checkOutside(address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := to.Addr().Unmap().WithZone("")
	if isLocal(ip) || slices.Contains(ownAddresses(), ip) {
		return fmt.Errorf("%s is in the network of this group, where any task of the group may listen: name an address of the host", to)
	}
	return nil
}

// ownAddresses are those of the interfaces; nil when they cannot be read.
func ownAddresses() []netip.Addr {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range all {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, prefix.Addr().Unmap().WithZone(""))
		}
	}
	return out
}
