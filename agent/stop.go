// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/handover"
	"github.com/outrider-mesh/outrider/hcl"
)

// courtesy bounds what the agent tells Consul while it begins and ends.
const courtesy = 5 * time.Second

// stopTimes are the bounds of a gentle end.
type stopTimes struct {
	within      time.Duration // all of it; 0 for no bound
	courtesy    time.Duration // each word to Consul
	propagation time.Duration // from failing health to no longer accepting
	timeout     time.Duration // for connections to end by themselves
}

// planStop fits what the configuration wants into the time before the process
// is killed, less a second, or half of less than two, for everything that is
// slower than planned. 0 is no such time. A word to a Consul that is gone may
// take its whole bound, twice.
func planStop(cfg hcl.Drain, kill time.Duration) stopTimes {
	if kill <= 0 {
		return stopTimes{courtesy: courtesy, propagation: cfg.Propagation, timeout: cfg.Timeout}
	}
	t := stopTimes{within: max(kill-time.Second, kill/2)}
	t.courtesy = min(courtesy, t.within/8)
	t.propagation = min(cfg.Propagation, t.within/4)
	t.timeout = min(cfg.Timeout, t.within-t.propagation-2*t.courtesy)
	return t
}

// farewell bounds what is told to Consul after all of the plan: half of what the
// plan leaves of the time. 0 is Consul's own bound.
func farewell(kill time.Duration) time.Duration {
	if kill <= 0 {
		return 0
	}
	return (kill - planStop(hcl.Drain{}, kill).within) / 2
}

func (t stopTimes) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if t.within == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, t.within)
}

func (a *Agent) stopTimes() stopTimes {
	a.mu.Lock()
	defer a.mu.Unlock()
	return planStop(a.config.Drain, a.opts.KillTimeout)
}

// An ending is what the end of a process waits for and brings about.
type ending struct {
	stop                                         <-chan struct{}          // closes when somebody asks for it
	successor                                    chan *handover.Successor // one value: another process is in charge; nil: none will be
	registered                                   chan struct{}            // closes when nothing is registered any more
	stopRegistering, stopSpeaking, stopUpgrading context.CancelFunc
}

// end returns when the process has been asked to stop, or replaced, and has done
// so gently; or when ctx ends.
func (a *Agent) end(ctx context.Context, e ending) {
	defer e.stopSpeaking()
	defer e.stopRegistering()
	var next *handover.Successor
	select {
	case <-ctx.Done():
		e.stopUpgrading()
		return
	case next = <-e.successor:
		e.stopUpgrading()
	case <-e.stop:
		e.stopUpgrading()
		if next = <-e.successor; next != nil {
			// Who asked did not know yet that another process is in charge.
			if err := next.Stop(); err != nil {
				a.log.Error("could not pass on the stop to the process that is in charge", "pid", next.PID, "error", err)
			}
		}
	}
	if next != nil {
		e.stopSpeaking()
		a.retire(ctx, next)
		return
	}
	if ctx.Err() != nil || !a.inCharge() {
		return
	}
	times := a.stopTimes()
	ctx, cancel := times.bound(ctx)
	defer cancel()
	a.drain(ctx, times)
	// The registrar would bring back what is deregistered while it runs.
	e.stopRegistering()
	<-e.registered
	a.deregister(ctx, times)
}

// drain is the order of a gentle end. Its steps are bounded, so that a Consul
// that does not answer cannot keep the process from ending.
func (a *Agent) drain(ctx context.Context, times stopTimes) {
	all := a.beginDrain()
	a.opts.Notify(State{Stopping: true, Text: "draining"})
	a.log.Info("draining", "propagation", times.propagation, "timeout", times.timeout)
	if a.failHealth(ctx, all, times) {
		pause(ctx, times.propagation)
	}
	a.drainAll(ctx, all, times)
}

// beginDrain returns the sidecars that are to be drained.
func (a *Agent) beginDrain() []*sidecar {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.draining = true
	return slices.Collect(maps.Values(a.sidecars))
}

// drainAll returns when the connections of all sidecars have ended, by themselves
// or at the end of their time.
func (a *Agent) drainAll(ctx context.Context, all []*sidecar, times stopTimes) {
	deadline, cancel := context.WithTimeout(ctx, times.timeout)
	defer cancel()
	var drains errgroup.Group
	for _, s := range all {
		drains.Go(func() error {
			s.drain(deadline)
			return nil
		})
	}
	_ = drains.Wait()
}

// failHealth reports whether there is something that others may have to learn:
// Consul answered in time, and still knew a sidecar. Nomad deregisters the
// services of a group before it stops the tasks.
func (a *Agent) failHealth(ctx context.Context, all []*sidecar, times stopTimes) bool {
	ctx, cancel := context.WithTimeout(ctx, times.courtesy)
	defer cancel()
	const reason = "outrider is draining"
	err := a.registrar.Maintenance(ctx, true, reason)
	a.mu.Lock()
	known := len(a.config.Services) > 0
	a.mu.Unlock()
	for _, s := range all {
		id := s.id()
		if id == "" || !s.foreign {
			continue
		}
		failed := a.consul.Maintenance(ctx, id, true, reason)
		if consul.IsNotRegistered(failed) {
			s.log.Debug("its registration is gone already")
			continue
		}
		known = true
		err = errors.Join(err, failed)
	}
	if err != nil {
		a.log.Warn("could not put every sidecar into maintenance; callers learn of its end from failing connections", "error", err)
	}
	return known && ctx.Err() == nil
}

func (a *Agent) deregister(ctx context.Context, times stopTimes) {
	ctx, cancel := context.WithTimeout(ctx, times.courtesy)
	defer cancel()
	if err := a.registrar.Deregister(ctx); err != nil {
		a.log.Warn("could not deregister; Consul keeps the services, in maintenance, until somebody removes them", "error", err)
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
