// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package miniconsul is the embedded control plane of "outrider dev": enough of
// Consul's HTTP API for a mesh on one machine, in memory, with blocking queries
// and a CA. It must not serve anybody but this machine, must not persist
// anything, and must answer what it does not do with an error, never with a
// guess: a contract test holds it against a real Consul 1.22.
package miniconsul

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
)

// Options of a server. Zero fields take the defaults named at each.
type Options struct {
	// Datacenter is the only one there is: "dc1".
	Datacenter string
	// NodeName is the name of the only node: "mini".
	NodeName string
	// TrustDomain is the mesh's, "<uuid>.consul": a random one.
	TrustDomain string
	// DefaultAllow lets connections through that no intention speaks of. The
	// default is to deny them.
	DefaultAllow bool
	// Logger takes what the server does; nil discards it.
	Logger hclog.Logger
	// LeafTTL is how long a leaf is valid; it is renewed after three quarters:
	// 72 h, as Consul's. At least a second.
	LeafTTL time.Duration
}

// A Server is one embedded control plane. Its methods may be called from any
// goroutine, before and during Run.
type Server struct {
	opts   Options
	logger hclog.Logger
	state  *state
	mux    *http.ServeMux
}

const (
	defaultLeafTTL = 72 * time.Hour

	// maxConns is how many connections may be open at once: as many as an agent
	// of Consul allows one client (Consul, limits.http_max_conns_per_client),
	// so that who needs more finds out here.
	maxConns = 200

	readTimeout = 10 * time.Second // for a request's header or body, and to write an answer
	idleTimeout = 2 * time.Minute
	stopTimeout = 2 * time.Second // for answers under way when the server ends
)

// New returns a server with a CA of its own and nothing registered. Nothing
// runs before Run.
func New(opts Options) (*Server, error) {
	if opts.Datacenter == "" {
		opts.Datacenter = "dc1"
	}
	if opts.NodeName == "" {
		opts.NodeName = "mini"
	}
	if opts.LeafTTL == 0 {
		opts.LeafTTL = defaultLeafTTL
	}
	if opts.TrustDomain == "" {
		opts.TrustDomain = newUUID() + ".consul"
	}
	if opts.Logger == nil {
		opts.Logger = hclog.NewNullLogger()
	}
	if err := checkOptions(opts); err != nil {
		return nil, fmt.Errorf("start the embedded control plane: %w", err)
	}
	s := &Server{opts: opts, logger: opts.Logger, state: newState(opts)}
	s.mux = s.routes()
	return s, nil
}

// checkOptions refuses what would end up in certificates and names.
func checkOptions(opts Options) error {
	name := regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,62})$`)
	domain := regexp.MustCompile(`^[a-z0-9-]{1,63}\.consul$`)
	switch {
	case !name.MatchString(opts.Datacenter):
		return fmt.Errorf("datacenter %q: want lower-case letters, digits, - and _", opts.Datacenter)
	case !regexp.MustCompile(`^[A-Za-z0-9.-]{1,255}$`).MatchString(opts.NodeName):
		return fmt.Errorf("node name %q: want letters, digits, dots and -", opts.NodeName)
	case !domain.MatchString(opts.TrustDomain):
		return fmt.Errorf(`trust domain %q: want "<uuid>.consul" in lower case`, opts.TrustDomain)
	case opts.LeafTTL < time.Second:
		return fmt.Errorf("leaf TTL %s: want at least 1s", opts.LeafTTL)
	}
	return nil
}

// Run serves on l and runs the registered health checks until ctx ends, closes
// l, and returns nil when every goroutine it started has ended. Who can reach
// the listener can take the key of any service, so l must be a unix socket or
// on loopback: any other is refused with an error and closed.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	if err := checkListener(l.Addr()); err != nil {
		_ = l.Close()
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conns := &connCount{}
	server := &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnState:         conns.track,
		ErrorLog:          s.logger.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	s.logger.Info("serving the embedded control plane", "address", l.Addr().String(), "datacenter", s.opts.Datacenter)
	failed := make(chan error, 1)
	var parts sync.WaitGroup
	parts.Go(func() { s.runChecks(ctx) })
	parts.Go(func() { failed <- server.Serve(l) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve the embedded control plane at %s: %w", l.Addr(), err)
	}
	cancel()
	stop(ctx, server)
	parts.Wait()
	conns.wait.Wait()
	return err
}

// stop lets answers under way end. Blocking queries end with their context.
func stop(ctx context.Context, server *http.Server) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
}

func checkListener(addr net.Addr) error {
	switch a := addr.(type) {
	case *net.UnixAddr:
		return nil
	case *net.TCPAddr:
		if a.IP.IsLoopback() {
			return nil
		}
	}
	return fmt.Errorf("serve the embedded control plane at %s: it hands out private keys and is for this machine only: listen on 127.0.0.1 or ::1", addr)
}

// A connCount closes connections beyond maxConns, and knows when all have ended.
type connCount struct {
	wait sync.WaitGroup // adds happen on the goroutine of Serve alone
	open atomic.Int64
}

func (c *connCount) track(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		c.wait.Add(1)
		if c.open.Add(1) > maxConns {
			_ = conn.Close()
		}
	case http.StateClosed, http.StateHijacked:
		c.open.Add(-1)
		c.wait.Done()
	}
}

// SetIntention writes the L4 intention for one pair of services; either may be
// "*". action is "allow" or "deny".
func (s *Server) SetIntention(source, destination, action string) error {
	a, err := connect.ParseAction(action)
	if err != nil {
		return fmt.Errorf("set the intention %s -> %s: %w", source, destination, err)
	}
	if err := s.state.putIntention(destination, intentionSource{Name: source, Action: a.String()}); err != nil {
		return fmt.Errorf("set the intention %s -> %s: %w", source, destination, err)
	}
	return nil
}

// DeleteIntention removes the intention for one pair of services. One that is
// not there is no error.
func (s *Server) DeleteIntention(source, destination string) error {
	if err := s.state.deleteIntention(destination, source); err != nil {
		return fmt.Errorf("delete the intention %s -> %s: %w", source, destination, err)
	}
	return nil
}

// RotateCA makes a new root, cross-signed by the old one, and lets every leaf
// be issued anew. The old root stays in the trust bundle, inactive.
func (s *Server) RotateCA() error {
	if err := s.state.rotate(nil); err != nil {
		return fmt.Errorf("rotate the embedded CA: %w", err)
	}
	return nil
}

// TrustDomain returns the trust domain of the mesh.
func (s *Server) TrustDomain() string { return s.opts.TrustDomain }

var errFull = errors.New("the embedded control plane is full")

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
