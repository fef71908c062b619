// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package agent is the life cycle of an Outrider process: it connects sources,
// assemblers and proxies, and starts and stops them in order. It decides
// nothing about traffic and parses nothing that sources deliver.
package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/jwks"
	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/hcl"
)

// Options are what an agent runs on.
type Options struct {
	// Config is not modified. Its services are registered in Consul.
	Config *hcl.Config
	// Sidecars are registered by somebody else; the agent runs their proxies
	// and leaves their registration alone, maintenance mode aside.
	Sidecars []Sidecar
	Logger   hclog.Logger
	// Version is reported by the admin API.
	Version string
	// Dial makes the connections to Consul and to Vault; nil means from where the
	// process is. It is not asked for unix sockets.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Ready is host:port of a listener that answers /ready and /live only; ""
	// for none. Sockets are addresses of the whole admin API beside that of
	// Config: unix:///path, with mode 0600, or host:port. One that cannot be
	// bound is tried again, and stops nothing.
	Ready   string
	Sockets []string
	// KillTimeout is after how long whoever stops the process will kill it; 0
	// for never. The whole end then takes a second less.
	KillTimeout time.Duration
	// Notify is told of life-cycle states; nil for nobody. See [Systemd].
	Notify func(State)
}

// A Sidecar names a registration that exists in Consul: by the ID of the proxy,
// or by that of the service it stands for.
type Sidecar struct {
	ServiceID string
	ProxyID   string // wins when set

	// Hasten asks that Consul's default check of the sidecar looks as soon as it
	// listens, see [consul.Client.HastenCheck]. CheckToken names the file with the
	// token that the check was registered with; "" without ACLs.
	Hasten     bool
	CheckToken string
}

// An Agent runs the sidecars of one host. Make it with [New], then [Agent.Run].
type Agent struct {
	opts      Options
	log       hclog.Logger
	consul    *consul.Client
	watches   *consul.Watches
	registrar *consul.Registrar
	keys      *jwks.Keeper  // of JWT providers
	vault     *vault.Client // nil: leaves come from Consul
	started   time.Time

	reload   chan reload
	sessions atomic.Uint64 // begun so far, over all sidecars

	mu       sync.Mutex
	config   *hcl.Config
	sidecars map[string]*sidecar // by proxy ID
	draining bool
}

// New prepares an agent: it reads TLS files and checks what can be checked
// without talking to anybody.
func New(opts Options) (*Agent, error) {
	if opts.Notify == nil {
		opts.Notify = func(State) {}
	}
	cfg := opts.Config
	toConsul := consulConfig(cfg.Consul)
	toConsul.Dial, toConsul.Farewell = opts.Dial, farewell(opts.KillTimeout)
	client, err := consul.NewClient(toConsul, opts.Logger.Named("consul"))
	if err != nil {
		return nil, fmt.Errorf("configure Consul at %q: %w", cfg.Consul.Address, err)
	}
	a := &Agent{
		opts: opts, log: opts.Logger, consul: client, config: cfg, started: time.Now(),
		watches:  consul.NewWatches(client, opts.Logger.Named("watch")),
		keys:     jwks.New(jwks.Options{Logger: opts.Logger.Named("jwks")}),
		reload:   make(chan reload),
		sidecars: make(map[string]*sidecar),
	}
	if cfg.Vault != nil {
		toVault := vaultConfig(*cfg.Vault)
		toVault.Dial = opts.Dial
		if a.vault, err = vault.NewClient(toVault, opts.Logger.Named("vault")); err != nil {
			return nil, fmt.Errorf("configure Vault at %q: %w", cfg.Vault.Address, err)
		}
	}
	a.registrar = client.NewRegistrar(definitions(cfg.Services), opts.Logger.Named("register"))
	return a, nil
}

// Run serves until it is asked to stop. When stop closes, it drains: it fails
// readiness and Consul's health check, waits for that to be known, stops
// accepting, lets connections end up to the configured deadline, deregisters
// what it registered, and returns nil. When ctx ends, it returns as soon as
// everything is closed.
func (a *Agent) Run(ctx context.Context, stop <-chan struct{}) error {
	admin, err := listenAdmin(ctx, a.config.Admin.Address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	sidecars := &supervisor{agent: a, running: make(map[string]func())}
	group.Go(func() error { return a.consul.Run(ctx) })
	group.Go(func() error { return a.watches.Run(ctx) })
	group.Go(func() error { return a.keys.Run(ctx) })
	registering, stopRegistering := context.WithCancel(ctx)
	defer stopRegistering()
	registered := make(chan struct{})
	group.Go(func() error {
		defer close(registered)
		return a.registrar.Run(registering)
	})
	group.Go(func() error { return a.serveAdmin(ctx, admin) })
	for _, l := range a.promised() {
		group.Go(func() error { return a.keepServing(ctx, l) })
	}
	group.Go(func() error { return a.announce(ctx) })
	if a.vault != nil {
		group.Go(func() error { return a.vault.Run(ctx) })
	}
	group.Go(func() error { return sidecars.run(ctx) })
	group.Go(func() error {
		defer cancel()
		select {
		case <-ctx.Done():
			return nil
		case <-stop:
		}
		times := a.stopTimes()
		ctx, cancelStop := times.bound(ctx)
		defer cancelStop()
		a.drain(ctx, times)
		// The registrar would bring back what is deregistered while it runs.
		stopRegistering()
		<-registered
		a.deregister(ctx, times)
		return nil
	})
	return group.Wait()
}

// guard runs f and turns a panic into an error, so that a fault in one sidecar
// never stops another.
func guard(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = errors.Join(err, fmt.Errorf("panic: %v", v))
		}
	}()
	return f()
}
