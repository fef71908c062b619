// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/watch"
)

// recheckAfter is how often registrations are compared with what Consul has:
// an agent may have been restarted without them.
const recheckAfter = 30 * time.Second

// A Registrar keeps services and their sidecars registered at the local agent.
// It writes only when something is missing or different. Its methods may be
// called from any goroutine.
type Registrar struct {
	client *Client
	logger hclog.Logger
	wake   chan struct{} // of capacity 1: definitions changed

	mu          sync.Mutex // guards what follows; never held during a request
	definitions []Definition
	removed     map[string]bool // IDs of services that are no longer wanted
	maintenance *string         // the reason, nil when off
	registered  map[string]bool // IDs of services that Consul has as they are to be
	progress    chan struct{}   // closed and replaced when registered grows

	busy   sync.Mutex // held while registrations are compared and written
	paused bool
	stamps map[string]uint64 // generation of the token of each registration
}

// NewRegistrar returns a registrar of definitions, which it keeps.
func (c *Client) NewRegistrar(definitions []Definition, logger hclog.Logger) *Registrar {
	return &Registrar{
		client:      c,
		logger:      orNull(logger).Named("registrar"),
		wake:        make(chan struct{}, 1),
		definitions: slices.Clone(definitions),
		removed:     make(map[string]bool),
		registered:  make(map[string]bool),
		progress:    make(chan struct{}),
		stamps:      make(map[string]uint64),
	}
}

// Wait returns nil once the service with the given ID has been registered, or
// found registered, since the registrar was made; or the error of ctx.
func (r *Registrar) Wait(ctx context.Context, serviceID string) error {
	for {
		r.mu.Lock()
		done, progress := r.registered[serviceID], r.progress
		r.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the registration of %q: %w", serviceID, ctx.Err())
		case <-progress:
		}
	}
}

func (r *Registrar) done(serviceID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.registered[serviceID] {
		r.registered[serviceID] = true
		close(r.progress)
		r.progress = make(chan struct{})
	}
}

// Set replaces the definitions. What is no longer among them is deregistered.
// It returns at once; Run does the work.
func (r *Registrar) Set(definitions []Definition) {
	r.mu.Lock()
	for _, d := range r.definitions {
		r.removed[d.ServiceID()] = true
	}
	r.definitions = slices.Clone(definitions)
	for _, d := range r.definitions {
		delete(r.removed, d.ServiceID())
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // Run will look anyway.
	}
}

// Run compares and registers until ctx ends, then returns nil: at once, after
// each Set, with each new ACL token, every 30 seconds, and after an error with
// backoff. It leaves the registrations in place; see Deregister.
func (r *Registrar) Run(ctx context.Context) error {
	failures := 0
	for {
		another := r.client.seat.changed()
		err := r.reconcile(ctx)
		if ctx.Err() != nil {
			return nil
		}
		wait := recheckAfter
		switch {
		case err != nil:
			failures++
			// The first error and every tenth, as with watches.
			if failures == 1 || failures%10 == 0 {
				r.logger.Warn("cannot bring the registration up to date, trying again", "error", err, "failures", failures)
			}
			wait = max(r.client.backoff(failures), 100*time.Millisecond)
		case failures > 0:
			r.logger.Info("registration is up to date again", "failures", failures)
			failures = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-r.wake:
		case <-another:
		}
		timer.Stop()
	}
}

// backoff is the pause after failures, at the pace of the client's watches.
func (c *Client) backoff(failures int) time.Duration {
	opts := c.pace.WithDefaults()
	return watch.Delay(failures, opts.Random(), opts.BackoffBase, opts.BackoffLimit)
}

// Pause keeps Run from writing anything until [Registrar.Resume]: the definitions
// are another process's to write. It returns when nothing is being written.
func (r *Registrar) Pause() {
	r.busy.Lock()
	defer r.busy.Unlock()
	r.paused = true
}

// Resume ends a pause. Everything is registered again, since another process may
// have registered it otherwise, and with a token of its own; strays are the IDs of
// services that it may have registered: those without a definition here are
// deregistered.
func (r *Registrar) Resume(strays []string) {
	r.busy.Lock()
	r.paused = false
	r.mu.Lock()
	for _, id := range strays {
		r.removed[id] = true
	}
	for _, d := range r.definitions {
		delete(r.removed, d.ServiceID())
		r.stamps[d.ServiceID()] = stale
	}
	r.mu.Unlock()
	r.busy.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // Run will look anyway.
	}
}

// stale is the generation of no token.
const stale = math.MaxUint64

func (r *Registrar) definitionsNow() []Definition {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.definitions
}

// Leave lets go of every service that stays, which another process has registered
// with a token of its own, and deregisters the others. It is for the end, as
// [Registrar.Deregister] is.
func (r *Registrar) Leave(ctx context.Context, stays func(serviceID string) bool) error {
	var errs []error
	for _, d := range r.definitionsNow() {
		if stays(d.ServiceID()) {
			r.client.seat.hold(d.ServiceID(), false)
			continue
		}
		errs = append(errs, r.deregister(ctx, d.ServiceID()))
	}
	return errors.Join(errs...)
}

// reconcile goes through everything even when a part fails.
func (r *Registrar) reconcile(ctx context.Context) error {
	r.busy.Lock()
	defer r.busy.Unlock()
	if r.paused {
		return nil
	}
	r.mu.Lock()
	definitions, removed := r.definitions, slices.Sorted(maps.Keys(r.removed))
	r.mu.Unlock()
	var errs []error
	for _, id := range removed {
		if err := r.deregister(ctx, id); err != nil {
			errs = append(errs, err)
			continue
		}
		r.mu.Lock()
		delete(r.removed, id)
		delete(r.registered, id)
		r.mu.Unlock()
	}
	for _, d := range definitions {
		if err := r.apply(ctx, d); err != nil {
			errs = append(errs, err)
			continue
		}
		r.done(d.ServiceID())
	}
	return errors.Join(errs...)
}

// apply registers one service if Consul has it differently.
func (r *Registrar) apply(ctx context.Context, d Definition) error {
	wanted, err := d.registration()
	if err != nil {
		return err
	}
	service, err := r.seen(ctx, d.ServiceID())
	if err != nil {
		return err
	}
	sidecar, err := r.seen(ctx, d.ProxyID())
	if err != nil {
		return err
	}
	reasons := diff(d, wanted.Meta[fingerprintKey], service, sidecar)
	// Before the request: should the token change meanwhile, we come again.
	stamp := r.stamp()
	if d.Token == "" && r.outdated(d.ServiceID(), stamp) {
		reasons = append(reasons, "the ACL token is another one")
	}
	if len(reasons) == 0 {
		return nil
	}
	opts := api.ServiceRegisterOpts{ReplaceExistingChecks: true, Token: d.Token}.WithContext(ctx)
	if err := r.client.api.Agent().ServiceRegisterOpts(wanted, opts); err != nil {
		needs := fmt.Sprintf("service:write on %q and %q", d.Name, d.Name+"-sidecar-proxy")
		return fmt.Errorf("register service %q: %w", wanted.ID, explain(err, needs, r.client.where()))
	}
	if d.Token == "" {
		r.stamps[d.ServiceID()] = stamp
		r.client.seat.hold(d.ServiceID(), true)
	}
	r.logger.Info("registered", "service", wanted.ID, "reason", strings.Join(reasons, ", "))
	// Replacing checks may take away the one that stands for maintenance.
	r.mu.Lock()
	maintenance := r.maintenance
	r.mu.Unlock()
	if maintenance != nil {
		return r.client.Maintenance(ctx, d.ProxyID(), true, *maintenance)
	}
	return nil
}

func (r *Registrar) stamp() uint64 {
	_, generation, _ := r.client.seat.get()
	return generation
}

// outdated reports whether Consul's agent has another token for a service than
// the one in use. It keeps the token of a registration and publishes the health
// of the service with it, which stops without a word when that token ends. A
// service that was there before us is taken to have the token of the
// configuration; a login gives each process another one.
func (r *Registrar) outdated(id string, stamp uint64) bool {
	before, ok := r.stamps[id]
	if !ok && r.client.cfg.Login == nil {
		r.stamps[id] = stamp
		return false
	}
	return before != stamp
}

// seen reads one service of the agent; nil without an error means it is not
// there.
func (r *Registrar) seen(ctx context.Context, id string) (*wireService, error) {
	w, _, err := r.client.service(ctx, id, watch.Cursor{})
	if errors.Is(err, errNotRegistered) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &w, nil
}

// Maintenance puts the sidecars of all definitions into maintenance, or takes
// them out: callers elsewhere stop choosing them, while what is open stays.
// reason is shown in Consul. All sidecars are tried; the error joins those that
// failed.
func (r *Registrar) Maintenance(ctx context.Context, on bool, reason string) error {
	r.mu.Lock()
	// First the flag: a registration under way looks at it when it is done.
	r.maintenance = nil
	if on {
		r.maintenance = &reason
	}
	definitions := r.definitions
	r.mu.Unlock()
	var errs []error
	for _, d := range definitions {
		errs = append(errs, r.client.Maintenance(ctx, d.ProxyID(), on, reason))
	}
	return errors.Join(errs...)
}

// Deregister removes every service there is a definition of, with its sidecar.
// What is not there counts as removed. Call it when Run has returned, or Run
// will register everything again.
func (r *Registrar) Deregister(ctx context.Context) error {
	r.mu.Lock()
	definitions := r.definitions
	r.mu.Unlock()
	var errs []error
	for _, d := range definitions {
		errs = append(errs, r.deregister(ctx, d.ServiceID()))
	}
	return errors.Join(errs...)
}

// deregister removes one service; Consul removes its sidecar with it.
func (r *Registrar) deregister(ctx context.Context, id string) error {
	err := r.client.api.Agent().ServiceDeregisterOpts(id, new(api.QueryOptions).WithContext(ctx))
	if err != nil && status(err) != http.StatusNotFound {
		return fmt.Errorf("deregister service %q: %w", id, explain(err, fmt.Sprintf("service:write on the service of %q", id), r.client.where()))
	}
	r.client.seat.hold(id, false)
	r.logger.Info("deregistered", "service", id)
	return nil
}
