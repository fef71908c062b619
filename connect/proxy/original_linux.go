// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Options of a socket by which netfilter says where a redirected connection was
// meant to go (Linux, netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h).
const (
	soOriginalDst     = 80
	ip6tSoOriginalDst = 80
)

// originalDestination asks the kernel where an accepted connection was meant to
// go. It is an error for one that was not redirected, unless the kernel tracks
// all connections: then it is the address that accepted it.
func originalDestination(socket net.Conn) (netip.AddrPort, error) {
	tcp, ok := socket.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("ask for the original destination of a %T: it is not TCP", socket)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask for the original destination: %w", err)
	}
	local, _ := tcp.LocalAddr().(*net.TCPAddr)
	var to netip.AddrPort
	err2 := raw.Control(func(fd uintptr) {
		if local != nil && local.IP.To4() == nil {
			to, err = original6(int(fd))
			return
		}
		to, err = original4(int(fd))
	})
	if err == nil {
		err = err2
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("ask for the original destination: %w", err)
	}
	return to, nil
}

func original4(fd int) (netip.AddrPort, error) {
	// The kernel writes a sockaddr_in, for which this structure has room.
	got, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := got.Multiaddr
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4])), nil
}

func original6(fd int) (netip.AddrPort, error) {
	// And here a sockaddr_in6, which is the first field of this one.
	got, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, ip6tSoOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var port [2]byte
	binary.NativeEndian.PutUint16(port[:], got.Addr.Port)
	return netip.AddrPortFrom(netip.AddrFrom16(got.Addr.Addr), binary.BigEndian.Uint16(port[:])), nil
}
