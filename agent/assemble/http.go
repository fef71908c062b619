// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package assemble

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// Providers returns the names of the JWT providers that intentions ask for,
// sorted, each once; nil when none does.
func Providers(rules []connect.Intention) []string {
	named := make(map[string]bool)
	add := func(r *connect.JWTRequirement) {
		if r == nil {
			return
		}
		for _, p := range r.Providers {
			named[p.Provider] = true
		}
	}
	for _, rule := range rules {
		add(rule.JWT)
		for _, p := range rule.Permissions {
			add(p.JWT)
		}
	}
	return slices.Sorted(maps.Keys(named))
}

// unheard is what has not been heard of that transparent mode and HTTP need. A
// service that does not speak HTTP has no use for the latter.
func (d *draft) unheard() []string {
	if d.service == nil || d.intentions == nil {
		return nil
	}
	out := d.unheardImplicit()
	if !d.service.Protocol.Speaks() {
		return out
	}
	if d.defaults == nil {
		out = append(out, "the service's defaults")
	}
	for _, name := range d.intentions.providers {
		if _, heard := d.providers[name]; !heard {
			out = append(out, fmt.Sprintf("the keys of JWT provider %q", name))
		}
	}
	return out
}

// ageOptional bounds the wait of the first snapshot for what it can do without:
// requests that need it are denied then, or not limited. It returns how long the
// wait still lasts, 0 when there is none.
func (d *draft) ageOptional(now time.Time, patience time.Duration) time.Duration {
	if d.published || d.impatient || len(d.required()) > 0 {
		return 0
	}
	if d.completed.IsZero() {
		d.completed = now
	}
	left := d.completed.Add(patience).Sub(now)
	d.impatient = left <= 0
	return max(0, left)
}

// addHTTP puts into a snapshot what only HTTP needs.
func (d *draft) addHTTP(s *connect.Snapshot) {
	if len(d.exposed) > 0 {
		s.Service.Expose = slices.Concat(s.Service.Expose, d.exposed)
	}
	if !s.Service.Protocol.Speaks() {
		return
	}
	if d.defaults != nil {
		s.Service.RateLimits, s.Service.Faults = d.defaults.limits, d.defaults.faults
	}
	for _, name := range d.intentions.providers {
		if p, heard := d.providers[name]; heard {
			if s.JWTProviders == nil {
				s.JWTProviders = make(map[string]connect.JWTProvider)
			}
			s.JWTProviders[name] = p
		}
	}
}
