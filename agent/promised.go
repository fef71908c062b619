// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect/proxy"
)

// A promisedListener is an address that somebody else has promised to others,
// such as Nomad for Envoy's admin listener.
type promisedListener struct {
	what    string // for logs
	address string
	handler http.Handler
}

// promised returns the listeners beside that of the admin block.
func (a *Agent) promised() []promisedListener {
	var all []promisedListener
	if a.opts.Ready != "" {
		all = append(all, promisedListener{"readiness", a.opts.Ready, a.readyMux()})
	}
	for _, address := range a.opts.Sockets {
		all = append(all, promisedListener{"the admin API", address, a.adminMux()})
	}
	return all
}

// keepServing serves l until ctx ends. Traffic must not depend on it: an address
// that is taken, or goes bad, is tried again.
func (a *Agent) keepServing(ctx context.Context, l promisedListener) error {
	const first, last = time.Second, 15 * time.Second
	failed := false
	for wait := first; ctx.Err() == nil; wait = min(2*wait, last) {
		err := a.serveOnce(ctx, l)
		if ctx.Err() != nil {
			break
		}
		if !failed {
			failed = true
			a.log.Error("cannot serve "+l.what+"; traffic is not concerned, trying again until the address is free", "address", l.address, "error", err)
		}
		pause(ctx, wait)
	}
	return nil
}

func (a *Agent) serveOnce(ctx context.Context, l promisedListener) error {
	open := func() (net.Listener, error) { return listenPromised(ctx, l.address) }
	listener, err := a.listen(l.address, 0o600, open)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", l.address, err)
	}
	a.log.Debug("serving "+l.what, "address", l.address)
	return serveLocally(ctx, listener, l.handler)
}

func listenPromised(ctx context.Context, address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return proxy.ListenUnix(ctx, path, 0o600)
	}
	var listen net.ListenConfig
	return listen.Listen(ctx, "tcp", address)
}
