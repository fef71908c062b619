// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/nomad"
	"github.com/outrider-mesh/outrider/hcl"
)

// A Launch is what a command line says about the one sidecar that it starts.
// Zero fields say nothing; then files, the environment and what Nomad gives the
// task decide, in this order. Only what a task of Nomad was given for itself
// comes before tokens and loopback addresses of the environment: by raw_exec it
// inherits the whole environment of the Nomad agent, whose own token may do far
// more than a sidecar has to.
type Launch struct {
	// ServiceID and ProxyID name the registration; ProxyID wins. Without them
	// the bootstrap does.
	ServiceID, ProxyID string
	// Bootstrap is the file that "consul connect envoy -bootstrap" wrote; "" for
	// that of Nomad.
	Bootstrap string
	// Configs are files with consul, vault, log, admin and drain blocks.
	Configs []string
	// Load reads Configs; nil means [hcl.Load], which asks nothing of this machine.
	Load   func(paths ...string) (*hcl.Config, error)
	Consul hcl.Consul // Address, Token, TokenFile, TLS and Login
	Vault  hcl.Vault  // Address, Auth.Mount, Auth.Role, PKI.Mount and PKI.Role
	Admin  string
	Log    hcl.Log
	// KillTimeout is after how long the process is killed that was asked to
	// stop; 0 means five seconds under Nomad, as its kill_timeout, and never
	// elsewhere.
	KillTimeout  time.Duration
	DrainTimeout time.Duration // 0 for that of the configuration
}

// ErrWhose is the error for a launch that names no sidecar.
var ErrWhose = errors.New("whose sidecar? give -sidecar-for SERVICE_ID or -proxy-id PROXY_ID, or run it as a sidecar task of Nomad")

// A Prepared launch knows its configuration, as far as that does not depend on
// what may still appear. Make it with [Launch.Prepare].
type Prepared struct {
	launch    Launch
	config    *hcl.Config
	given     given
	task      nomad.Task
	underTask bool

	// What tests replace.
	sockets  []string
	findHost func() (*nomad.HostNetwork, bool, error)
}

// given is what somebody has named, rather than a default.
type given struct {
	address, from string // of Consul
	credentials   bool   // for Consul, by flag or file
	environment   bool   // for Consul, by the environment
	vaultFile     bool   // a whole vault block
}

// Prepare reads files and the environment; it waits for nothing.
func (l Launch) Prepare() (*Prepared, error) {
	p := &Prepared{launch: l, sockets: nomad.WellKnownSockets(), findHost: nomad.FindHost}
	p.task, p.underTask = nomad.FromEnvironment(os.Environ())
	if l.ServiceID == "" && l.ProxyID == "" && l.Bootstrap == "" && !p.underTask {
		return nil, ErrWhose
	}
	cfg, err := EnvironmentConfig()
	if err != nil {
		return nil, err
	}
	p.given.address, p.given.from = os.Getenv("CONSUL_HTTP_ADDR"), "CONSUL_HTTP_ADDR"
	if p.given.address != "" {
		p.given.address = cfg.Consul.Address // with the scheme of CONSUL_HTTP_SSL
	}
	p.given.environment = cfg.Consul.Token != "" || cfg.Consul.TokenFile != ""
	if len(l.Configs) > 0 {
		if cfg, err = p.loadFiles(); err != nil {
			return nil, err
		}
	}
	p.config = cfg
	if err := p.override(); err != nil {
		return nil, err
	}
	return p, nil
}

// loadFiles reads the configuration files instead of the environment.
func (p *Prepared) loadFiles() (*hcl.Config, error) {
	load := p.launch.Load
	if load == nil {
		load = hcl.Load
	}
	cfg, err := load(p.launch.Configs...)
	if err != nil {
		return nil, err
	}
	if len(cfg.Services) > 0 {
		return nil, errors.New("sidecar: the configuration has service stanzas, which \"outrider agent\" runs and registers; give sidecar one without")
	}
	p.given = given{
		credentials: cfg.Consul.Token != "" || cfg.Consul.TokenFile != "" || cfg.Consul.Login != nil,
		vaultFile:   cfg.Vault != nil,
	}
	if cfg.Consul.Address != defaultOf("consul.address") {
		p.given.address, p.given.from = cfg.Consul.Address, "the address in the consul block"
	}
	return cfg, nil
}

func defaultOf(path string) string {
	for _, d := range hcl.Defaults() {
		if d.Path == path {
			return d.Value
		}
	}
	return ""
}

// override puts the flags over the configuration.
func (p *Prepared) override() error {
	l, cfg := p.launch, p.config
	if l.Consul.Address != "" {
		cfg.Consul.Address = l.Consul.Address
		p.given.address, p.given.from = l.Consul.Address, "-http-addr"
	}
	if l.Consul.Token != "" || l.Consul.TokenFile != "" || l.Consul.Login != nil {
		cfg.Consul.Token, cfg.Consul.TokenFile, cfg.Consul.Login = l.Consul.Token, l.Consul.TokenFile, l.Consul.Login
		p.given.credentials = true
	}
	if t := cfg.Consul.Login; t != nil && t.TokenFile == "" && !p.underTask {
		return errors.New("-login-auth-method is given, but not which JWT logs in; name its file with -login-token-file")
	}
	if t := l.Consul.TLS; t != nil {
		mine := hcl.TLS{}
		if cfg.Consul.TLS != nil {
			mine = *cfg.Consul.TLS
		}
		cfg.Consul.TLS = &hcl.TLS{
			CAFile: cmp.Or(t.CAFile, mine.CAFile), CAPath: cmp.Or(t.CAPath, mine.CAPath),
			CertFile: cmp.Or(t.CertFile, mine.CertFile), KeyFile: cmp.Or(t.KeyFile, mine.KeyFile),
			ServerName: cmp.Or(t.ServerName, mine.ServerName),
		}
	}
	cfg.Admin.Address = l.Admin
	cfg.Log.Level = cmp.Or(l.Log.Level, cfg.Log.Level)
	cfg.Log.Format = cmp.Or(l.Log.Format, cfg.Log.Format)
	cfg.Drain.Timeout = cmp.Or(l.DrainTimeout, cfg.Drain.Timeout)
	if err := p.chooseVault(); err != nil {
		return err
	}
	return p.checkAddresses()
}

// checkAddresses looks at what flags and the environment say; files are looked at
// when they are read.
func (p *Prepared) checkAddresses() error {
	const remedy = "holds a user or a password, which would end up in logs: leave them out"
	if a := p.given.address; !strings.HasPrefix(a, "unix://") && strings.Contains(a, "@") {
		return fmt.Errorf("%s %s, and set CONSUL_HTTP_AUTH for a proxy in front of Consul", p.given.from, remedy)
	}
	if v := p.config.Vault; v != nil && strings.Contains(v.Address, "@") {
		return fmt.Errorf("the address of Vault %s", remedy)
	}
	if a := p.launch.Admin; a != "" && !strings.HasPrefix(a, "unix://") && (!nomad.IsLoopback(a) || nomad.IsUnspecified(a)) {
		return fmt.Errorf("the admin address %q is open to the network, and whoever reaches it sees all that this sidecar knows: give unix:///path or a loopback host:port", a)
	}
	return nil
}

// Config is the configuration so far: log, admin and drain blocks are final,
// and warnings are those of its files. It is not to be modified.
func (p *Prepared) Config() *hcl.Config { return p.config }

// Memory is what Nomad gives the task, in bytes; 0 when it does not say.
func (p *Prepared) Memory() int64 {
	if !p.underTask {
		return 0
	}
	return p.task.MemoryMB << 20
}

// Await returns the options to run the sidecar with. Under Nomad it waits, with
// a sentence in the log each time it has looked, for what is not there: a
// process that ends would only use up the restarts of its task. It ends with ctx,
// whose error it then returns.
func (p *Prepared) Await(ctx context.Context, log hclog.Logger) (Options, error) {
	opts := Options{Config: p.config, Logger: log, KillTimeout: p.launch.KillTimeout}
	ref := Sidecar{ServiceID: p.launch.ServiceID, ProxyID: p.launch.ProxyID}
	var boot nomad.Bootstrap
	if p.launch.Bootstrap != "" || ref == (Sidecar{}) {
		err := p.retry(ctx, log, func() (err error) {
			boot, err = p.bootstrap()
			return err
		})
		if err != nil {
			return Options{}, err
		}
		if ref == (Sidecar{}) {
			ref.ProxyID = boot.ProxyID
		}
	}
	opts.Sidecars = []Sidecar{ref}
	p.config.Consul.Namespace = cmp.Or(p.config.Consul.Namespace, boot.Namespace)
	p.config.Consul.Partition = cmp.Or(p.config.Consul.Partition, boot.Partition)
	if !p.underTask {
		p.outsideNomad(&opts, boot)
		return opts, CheckVault(p.config.Vault)
	}
	opts.Tracked = true
	opts.KillTimeout = cmp.Or(opts.KillTimeout, 5*time.Second)
	log.Info("running as a task of Nomad", "alloc", p.task.AllocID, "task", p.task.Name, "sidecar", cmp.Or(ref.ProxyID, ref.ServiceID))
	if err := p.reach(ctx, log, &opts); err != nil {
		return Options{}, err
	}
	if err := p.credentials(log, boot); err != nil {
		return Options{}, err
	}
	p.hasten(&opts.Sidecars[0])
	opts.Ready = onLoopback(log, "ready", p.task.Ready)
	opts.Sockets = []string{"unix://" + p.task.Socket()}
	if admin := onLoopback(log, "admin", cmp.Or(p.task.Admin, boot.Admin)); admin != "" && admin != p.launch.Admin {
		opts.Sockets = append(opts.Sockets, admin)
	}
	return opts, nil
}

// outsideNomad takes from a bootstrap what nobody has said otherwise.
func (p *Prepared) outsideNomad(opts *Options, boot nomad.Bootstrap) {
	if admin := onLoopback(opts.Logger, "admin", boot.Admin); p.launch.Admin == "" && admin != "" {
		opts.Sockets = []string{admin}
	}
	if boot.Token != "" && !p.given.credentials && !p.given.environment {
		p.config.Consul.Token = hcl.Secret(boot.Token)
	}
}

// onLoopback returns the address if only this network can reach it: the admin
// API has no other guard.
func onLoopback(log hclog.Logger, what, address string) string {
	if address == "" || nomad.IsLoopback(address) && !nomad.IsUnspecified(address) {
		return address
	}
	log.Warn("an address is not served, as others than this host could reach it; use a loopback address", "listener", what, "address", address)
	return ""
}

// bootstrap reads the file and says what to do when it is no good.
func (p *Prepared) bootstrap() (nomad.Bootstrap, error) {
	path := cmp.Or(p.launch.Bootstrap, p.task.BootstrapFile())
	b, err := nomad.ReadBootstrap(path)
	switch {
	case err == nil:
		return b, nil
	case !p.underTask:
		return b, fmt.Errorf("%w; make it with \"consul connect envoy -bootstrap\", or name the sidecar with -proxy-id", err)
	case errors.Is(err, os.ErrNotExist):
		return b, fmt.Errorf("%w; Nomad writes it for the sidecar task of a group service with connect { sidecar_service {} }, and for a task of kind \"connect-proxy:<service>\": "+
			"is task %q of group %q one, and is the consul binary on the Nomad agent's PATH? Else name the sidecar with -proxy-id", err, p.task.Name, p.task.Group)
	case errors.Is(err, os.ErrPermission):
		return b, fmt.Errorf("%w; the task's user may not read what Nomad has written: run it as another user", err)
	}
	return b, fmt.Errorf("%w; Nomad has Consul write it when the task starts: see the events of the allocation, restart the task, or name the sidecar with -proxy-id", err)
}

// retry calls f until it succeeds. Outside Nomad nobody is going to change
// anything, and its error is the last word.
func (p *Prepared) retry(ctx context.Context, log hclog.Logger, f func() error) error {
	const first, last = 5 * time.Second, 30 * time.Second
	for wait := first; ; wait = min(2*wait, last) {
		err := f()
		if err == nil || !p.underTask {
			return err
		}
		log.Error("the sidecar cannot begin; looking again", "error", err, "in", wait)
		pause(ctx, wait)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
