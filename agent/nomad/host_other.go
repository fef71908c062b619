// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

//go:build !linux

package nomad

import (
	"context"
	"errors"
	"net"
	"net/netip"
)

// A HostNetwork is another network namespace; there are none on this system.
type HostNetwork struct{}

// FindHost reports that there is none.
func FindHost() (host *HostNetwork, apart bool, err error) {
	return nil, false, errors.New("network namespaces are those of Linux")
}

// Close has nothing to do.
func (h *HostNetwork) Close() {}

func (h *HostNetwork) dialInside(context.Context, string, netip.AddrPort) (net.Conn, error) {
	return nil, errors.New("network namespaces are those of Linux")
}
