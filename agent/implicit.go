// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"slices"
	"sync"

	"github.com/outrider-mesh/outrider/agent/consul"
)

// implicit is what a session in transparent mode knows of what intentions let it
// call.
type implicit struct {
	mu           sync.Mutex // held while the assembler is told, so that an old value never follows a newer one
	registration consul.Registration
	allowed      *consul.Implicit // nil: not heard of
	notes        []string         // that have been logged
}

// followIntentions takes a new registration: one in transparent mode has the
// services that intentions let it call for upstreams.
func (s *session) followIntentions(r consul.Registration) {
	watches := s.agent.watches.Implicit
	s.implicit.mu.Lock()
	s.implicit.registration = r
	if r.Service.Transparent == nil {
		s.implicit.allowed = nil
	}
	s.setImplicit()
	s.implicit.mu.Unlock()
	if r.Service.Transparent == nil {
		watches.Reconcile(s.owner, nil)
		return
	}
	watches.Reconcile(s.owner, map[consul.ImplicitKey]func(consul.Implicit){consul.ServiceImplicitKey(r.Service): s.setAllowed})
}

func (s *session) setAllowed(i consul.Implicit) {
	s.implicit.mu.Lock()
	defer s.implicit.mu.Unlock()
	for _, note := range i.Notes {
		if !slices.Contains(s.implicit.notes, note) {
			s.log.Warn(note)
		}
	}
	s.implicit.notes, s.implicit.allowed = i.Notes, &i
	s.setImplicit()
}

// setImplicit needs the lock.
func (s *session) setImplicit() {
	if s.implicit.allowed != nil {
		s.assembler.SetImplicit(s.implicit.registration.ImplicitUpstreams(*s.implicit.allowed), s.implicit.allowed.Destinations)
	}
}

// noteUse tells the assembler which implicit upstreams the application calls:
// of those, news must come at once.
func (s *session) noteUse(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.proxy.Called():
			s.assembler.Use(s.proxy.Calls())
		}
	}
}
