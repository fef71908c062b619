// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

//go:build !linux

package proxy

import (
	"errors"
	"net"
	"net/netip"
)

// originalDestination is known by the netfilter of Linux only.
func originalDestination(net.Conn) (netip.AddrPort, error) {
	return netip.AddrPort{}, errors.New("ask for the original destination: only Linux redirects connections so that it can be asked")
}
