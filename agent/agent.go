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
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/handover"
	"github.com/outrider-mesh/outrider/agent/jwks"
	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/connect/proxy"
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
	// Room is what the process may use; the zero Room bounds nothing.
	Room Room
	// Notify is told of life-cycle states; nil for nobody. See [Systemd].
	Notify func(State)
	// Load reads the configuration anew, for [Agent.ReloadFiles]; nil when there is
	// none to read.
	Load func() (*hcl.Config, error)
	// StateDirectory is where what was seen outlives the process; "" for nowhere.
	StateDirectory string
	// Tracked says that somebody watches the ID of this very process, as Nomad
	// does: it is not replaced while it runs.
	Tracked bool
	// Handover holds the listening sockets, and lets another process take them
	// over; nil when that must not be.
	Handover *handover.Sockets
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
	memory    *proxy.Memory // nil: nobody counts what connections hold
	observed  *observation

	reload   chan reload
	upgrades chan upgrade
	frozen   atomic.Bool   // while there is a successor, registrations are its own
	charged  chan struct{} // closed when no predecessor is in charge

	announced atomic.Bool   // it was ready, and those who watch it know
	sessions  atomic.Uint64 // begun so far, over all sidecars

	reloading sync.Mutex // held from the look at files until what they say is in force

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
		upgrades: make(chan upgrade),
		charged:  make(chan struct{}),
		memory:   newMemory(opts),
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
	if a.observed, err = a.newObservation(); err != nil {
		return nil, err
	}
	return a, nil
}

// Run serves until it is asked to stop. When stop closes, it drains: it fails
// readiness and Consul's health check, waits for that to be known, stops
// accepting, lets connections end up to the configured deadline, deregisters
// what it registered, and returns nil. When ctx ends, it returns as soon as
// everything is closed.
func (a *Agent) Run(ctx context.Context, stop <-chan struct{}) error {
	admin, err := a.listenAdmin(ctx, a.config.Admin.Address)
	if err != nil {
		return err
	}
	if err := a.opts.Handover.Plan(a.serves()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer a.observing(ctx)()
	group, ctx := errgroup.WithContext(ctx)
	sidecars := &supervisor{agent: a, running: make(map[string]func())}
	e := ending{stop: stop, registered: make(chan struct{}), successor: make(chan *handover.Successor, 1)}
	var registering, speaking, upgrading context.Context
	registering, e.stopRegistering = context.WithCancel(ctx)
	// What speaks for this process to others ends when another one is in charge.
	speaking, e.stopSpeaking = context.WithCancel(ctx)
	upgrading, e.stopUpgrading = context.WithCancel(ctx)
	for _, part := range []func(context.Context) error{a.consul.Run, a.watches.Run, a.keys.Run, a.watchRoom, a.watchReading, a.giveBack, a.succeed, sidecars.run} {
		group.Go(func() error { return part(ctx) })
	}
	if a.vault != nil {
		group.Go(func() error { return a.vault.Run(ctx) })
	}
	group.Go(func() error {
		defer close(e.registered)
		return a.registrar.Run(registering)
	})
	group.Go(func() error { return a.serveAdmin(speaking, admin) })
	for _, part := range []func(context.Context) error{a.observed.metrics.Run, a.observed.tap.Run} {
		group.Go(func() error { return part(speaking) })
	}
	for _, l := range a.promised() {
		group.Go(func() error { return a.keepServing(speaking, l) })
	}
	group.Go(func() error { return a.announce(speaking) })
	group.Go(func() error {
		e.successor <- a.serveUpgrades(upgrading)
		return nil
	})
	group.Go(func() error {
		defer cancel()
		a.end(ctx, e)
		return nil
	})
	return group.Wait()
}

// guard runs f and turns a panic into an error, so that a fault in one sidecar
// never stops another. Where it was goes to log, for whoever mends it.
func guard(log hclog.Logger, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			log.Error("a part of this program panicked; the rest goes on", "panic", v, "stack", string(debug.Stack()))
			err = errors.Join(err, fmt.Errorf("panic: %v", v))
		}
	}()
	return f()
}
