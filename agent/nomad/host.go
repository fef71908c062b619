// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// ErrNotThere is in the error of [FindHost] when every process above this one
// that may be looked at is in the same network.
var ErrNotThere = errors.New("the process that started this task is in the same network")

// Dial connects as a process of the host would where the address is a loopback
// address there, and from where this process is everywhere else. A name is
// resolved here, with the host's own resolver where that is on its loopback. It
// fits [net.Dialer.DialContext].
func (h *HostNetwork) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addrs, err := h.resolve(ctx, network, host)
	if err != nil {
		return nil, err
	}
	n, err := net.LookupPort(network, port)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, ip := range addrs {
		one, cancel := context.WithTimeout(ctx, dialWithin)
		conn, err := h.dialIP(one, network, netip.AddrPortFrom(ip, uint16(n))) //nolint:gosec // LookupPort returns a port
		cancel()
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (h *HostNetwork) resolve(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	if isLocalHost(host) {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, nil
	}
	family := "ip"
	switch network[len(network)-1] {
	case '4', '6':
		family += network[len(network)-1:]
	}
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		server, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		return h.dialIP(ctx, network, server)
	}}
	addrs, err := resolver.LookupNetIP(ctx, family, host)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("%s has no address", host)
	}
	return addrs, err
}

func (h *HostNetwork) dialIP(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	if isLocal(to.Addr()) {
		conn, err := h.dialInside(ctx, network, to)
		if err != nil {
			return nil, fmt.Errorf("dial %s in the network of the host: %w", to, err)
		}
		return conn, nil
	}
	var d net.Dialer
	return d.DialContext(ctx, network, to.String())
}
