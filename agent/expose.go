// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/connect"
)

const (
	// exposeEvery is how often Consul's agent is asked which ports it has given
	// to exposed checks: it has no blocking query for that (Consul, expose
	// checks).
	exposeEvery = 30 * time.Second
	// exposeSoon is the same while there are none yet: the agent gives them some
	// time after the registration, and its checks fail until we serve them.
	exposeSoon = 2 * time.Second
	// soonTimes is how often that is done; perhaps there is nothing to expose.
	soonTimes = 10
)

// exposeChecks serves the health checks that Consul makes through the sidecar.
// Consul says at which ports, but not what its checks ask for: that we know of
// those that we have registered ourselves.
func (s *session) exposeChecks(ctx context.Context) error {
	again := time.NewTimer(exposeEvery)
	defer again.Stop()
	for times := 0; ; times++ {
		select {
		case <-ctx.Done():
			return nil
		case <-s.exposing: // what the registration says has changed
			times = 0
		case <-again.C:
		}
		next := exposeEvery
		if !s.lookAtExposed(ctx) && times < soonTimes {
			next = exposeSoon
		}
		again.Reset(next)
	}
}

// lookAtExposed asks once and reports whether that has led to anything.
func (s *session) lookAtExposed(ctx context.Context) bool {
	if !s.exposesChecks.Load() {
		s.setExposed(nil, nil)
		return true
	}
	paths, warnings, err := s.exposedPaths(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		// What is served goes on being served.
		s.log.Warn("could not find out which checks Consul makes through the sidecar; trying again", "error", err, "in", exposeEvery)
	default:
		s.setExposed(paths, warnings)
		return len(paths)+len(warnings) > 0
	}
	return true
}

// setExposed tells the assembler and the log what is new. It is called by one
// goroutine.
func (s *session) setExposed(paths []connect.ExposedPath, warnings []string) {
	if !slices.Equal(warnings, s.exposeWarnings) {
		for _, warning := range warnings {
			s.log.Warn(warning)
		}
		s.exposeWarnings = warnings
	}
	if !slices.EqualFunc(paths, s.exposed, equalExposed) {
		s.exposed = paths
		s.assembler.SetExposed(paths)
	}
}

func equalExposed(a, b connect.ExposedPath) bool {
	return a.ListenerPort == b.ListenerPort && a.Path == b.Path && a.LocalPathPort == b.LocalPathPort &&
		a.Protocol == b.Protocol && a.LocalOnly == b.LocalOnly && slices.Equal(a.AllowFrom, b.AllowFrom)
}

// exposedPaths asks Consul's agent for what must be served for its checks.
func (s *session) exposedPaths(ctx context.Context) ([]connect.ExposedPath, []string, error) {
	d, own := s.definition()
	if !own {
		return nil, []string{"expose.checks is set, but the checks were registered by somebody else, and Consul does not say what they ask for: use expose.paths"}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, exposeEvery)
	defer cancel()
	ports, err := s.agent.consul.ExposedChecks(ctx, d.ServiceID())
	if err != nil || len(ports) == 0 {
		return nil, nil, err
	}
	var from []string
	address, err := s.agent.consul.AdvertiseAddress(ctx)
	if err != nil {
		// Most agents make their checks over loopback, which needs no entry.
		s.log.Debug("exposed checks are answered over loopback only", "error", err)
	} else {
		from = []string{address}
	}
	paths, warnings := d.ExposedPaths(ports, from)
	return paths, warnings, nil
}

// definition is what we registered the service with, if we did.
func (s *session) definition() (consul.Definition, bool) {
	if s.foreign {
		return consul.Definition{}, false
	}
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	for _, service := range s.agent.config.Services {
		if d := definition(service); d.ProxyID() == s.id() {
			return d, true
		}
	}
	return consul.Definition{}, false
}
