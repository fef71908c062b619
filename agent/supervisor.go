// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/outrider-mesh/outrider/hcl"
)

// supervisor runs one goroutine per sidecar and replaces what ended by a fault.
type supervisor struct {
	agent   *Agent
	running map[string]func() // by key: drains the sidecar and ends it
	all     sync.WaitGroup
}

// A reload asks for another configuration; the answer arrives on done.
type reload struct {
	config *hcl.Config
	done   chan error
}

// Reload makes cfg the configuration of a running agent: services that are new
// start, services that are gone are drained and deregistered, changed
// registrations are written to Consul, from where the sidecars hear of them.
// What needs a restart is an error, and nothing of cfg is applied then.
func (a *Agent) Reload(ctx context.Context, cfg *hcl.Config) error {
	r := reload{cfg, make(chan error, 1)}
	select {
	case a.reload <- r:
	case <-ctx.Done():
		return fmt.Errorf("reload: %w", ctx.Err())
	}
	return <-r.done
}

// ReloadFiles reads the configuration again and makes it that of the running
// agent, see [Agent.Reload]. After an error, that of a configuration with mistakes
// among them, the running one stays.
func (a *Agent) ReloadFiles(ctx context.Context) error {
	a.observed.logs.Reopen() // as logrotate asks, whatever else comes of it
	if a.opts.Load == nil {
		return errors.New("this process has no configuration that could be read again")
	}
	a.reloading.Lock()
	defer a.reloading.Unlock()
	if !a.inCharge() {
		return errors.New("it is not in charge yet; it has just read the configuration")
	}
	if a.announced.Load() { // the end of a reload would say that the start is over
		SystemdReloading()
		defer SystemdReloaded()
	}
	cfg, err := a.opts.Load()
	if err == nil {
		err = a.Reload(ctx, cfg)
	}
	if _, ok := errors.AsType[*hcl.Error](err); ok {
		a.log.Error("reload refused: the configuration has errors; the running one stays")
		return err
	}
	if err != nil {
		a.log.Error("reload refused", "error", err)
		return err
	}
	a.log.Info("reloaded", "services", len(cfg.Services))
	return nil
}

// needsRestart names the first block that cannot change while the agent runs.
func needsRestart(old, next *hcl.Config) error {
	for _, block := range []struct {
		name      string
		old, next any
	}{
		{"log", old.Log, next.Log},
		{"consul", old.Consul, next.Consul},
		{"vault", old.Vault, next.Vault},
		{"admin", old.Admin, next.Admin},
		{"limits", old.Limits, next.Limits},
		{"telemetry", old.Telemetry, next.Telemetry},
		{"access_log", old.AccessLog, next.AccessLog},
	} {
		if !reflect.DeepEqual(block.old, block.next) {
			return fmt.Errorf("the %s block has changed, which needs a restart: the running configuration stays", block.name)
		}
	}
	return nil
}

func (s *supervisor) run(ctx context.Context) error {
	defer s.all.Wait()
	for _, ref := range s.agent.opts.Sidecars {
		s.start(ctx, ref, true)
	}
	s.adjust(ctx, s.agent.config)
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-s.agent.reload:
			r.done <- s.apply(ctx, r.config)
		}
	}
}

func (s *supervisor) apply(ctx context.Context, cfg *hcl.Config) error {
	a := s.agent
	a.mu.Lock()
	err := needsRestart(a.config, cfg)
	if a.draining {
		err = errors.New("the agent is draining")
	}
	if a.frozen.Load() {
		err = errors.New("an upgrade is under way, which reads the configuration itself")
	}
	if err == nil {
		a.config = cfg
	}
	a.mu.Unlock()
	if err != nil {
		return err
	}
	a.registrar.Set(definitions(cfg.Services))
	s.adjust(ctx, cfg)
	return nil
}

// adjust starts and stops sidecars so that those of cfg run.
func (s *supervisor) adjust(ctx context.Context, cfg *hcl.Config) {
	wanted := make(map[string]bool)
	for _, service := range cfg.Services {
		ref := Sidecar{ServiceID: service.ID, ProxyID: proxyID(service)}
		wanted[ref.ProxyID] = true
		if s.running[ref.ProxyID] == nil {
			s.start(ctx, ref, false)
		}
	}
	for _, ref := range s.agent.opts.Sidecars {
		wanted[ref.key()] = true
	}
	for key, stop := range s.running {
		if !wanted[key] {
			delete(s.running, key)
			s.all.Go(stop)
		}
	}
}

func (r Sidecar) key() string {
	if r.ProxyID != "" {
		return r.ProxyID
	}
	return "for " + r.ServiceID
}

func (s *supervisor) start(ctx context.Context, ref Sidecar, foreign bool) {
	ctx, end := context.WithCancel(ctx)
	sc := newSidecar(s.agent, ref, foreign)
	s.running[ref.key()] = func() {
		defer end()
		sc.leaving.Store(true)
		a := s.agent
		a.mu.Lock()
		timeout := a.config.Drain.Timeout
		a.mu.Unlock()
		deadline, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		sc.drain(deadline)
	}
	s.agent.mu.Lock()
	s.agent.sidecars[ref.key()] = sc
	s.agent.mu.Unlock()
	s.all.Go(func() {
		defer end()
		defer func() {
			s.agent.mu.Lock()
			defer s.agent.mu.Unlock()
			if s.agent.sidecars[ref.key()] == sc {
				delete(s.agent.sidecars, ref.key())
			}
		}()
		s.keep(ctx, sc)
	})
}

// keep runs a sidecar until ctx ends, again and again if it faults.
func (s *supervisor) keep(ctx context.Context, sc *sidecar) {
	const again = 5 * time.Second
	for {
		err := guard(sc.log, func() error { return sc.run(ctx) })
		if ctx.Err() != nil {
			return
		}
		sc.log.Error("the sidecar ended; starting it again", "error", err, "in", again)
		pause(ctx, again)
	}
}
