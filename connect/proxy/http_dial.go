// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/outrider-mesh/outrider/connect/wire"
)

// toEndpoint dials one endpoint and has it prove its identity.
func (p *Proxy) toEndpoint(address string, cfg *tls.Config, timeout time.Duration) wire.Dial {
	return func(ctx context.Context) (net.Conn, error) {
		dial, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		socket, err := p.dialOut(dial, address)
		if err != nil {
			return nil, connectFailure(fmt.Errorf("connect to %s: %w", address, err))
		}
		shake, cancelShake := context.WithTimeout(ctx, p.limits.Handshake)
		defer cancelShake()
		remote := tls.Client(socket, cfg)
		began := time.Now()
		if err := remote.HandshakeContext(shake); err != nil {
			_ = socket.Close()
			failed := handshakeFailure(fmt.Errorf("TLS with %s: %w", address, err))
			p.observers.Set.Shook(false, nil, failed.reason, time.Since(began))
			return nil, failed
		}
		state := remote.ConnectionState()
		p.observers.Set.Shook(false, &state, "", time.Since(began))
		return remote, nil
	}
}

// toApp dials the application.
func (p *Proxy) toApp(network, address string, timeout time.Duration) wire.Dial {
	return func(ctx context.Context) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		socket, err := p.dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, connectFailure(fmt.Errorf("connect to the application at %s: %w", address, err))
		}
		return socket, nil
	}
}
