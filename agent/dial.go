// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"net"

	"github.com/outrider-mesh/outrider/agent/nomad"
	"github.com/outrider-mesh/outrider/connect/proxy"
)

// DialAdmin connects to the admin socket at path, which may be longer than a
// socket address and must be a socket, not a link to one.
func DialAdmin(ctx context.Context, path string) (net.Conn, error) {
	return proxy.DialUnix(ctx, path)
}

// UpstreamAddresses returns the addresses at which Nomad tells a task that its
// group's upstreams are, in the task's environment, as os.Environ returns it.
func UpstreamAddresses(environ []string) []string { return nomad.UpstreamAddresses(environ) }

// ReadyAddresses returns the ready addresses that Nomad tells a task in its
// environment, as os.Environ returns it.
func ReadyAddresses(environ []string) []string { return nomad.ReadyAddresses(environ) }
