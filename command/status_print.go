// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent"
)

// printHost writes a few lines for each sidecar.
func printHost(out io.Writer, view *hostView, now time.Time) {
	p := printer{out, now}
	ready := 0
	for _, s := range view.Sidecars {
		if s.read != nil && !s.read.Draining && allReady(s.read) {
			ready++
		}
	}
	p.line(0, "Nomad client %s: %d of %d sidecars ready", cmp.Or(view.NodeName, short(view.NodeID)), ready, len(view.Sidecars))
	if view.Note != "" {
		p.line(0, "%s", view.Note)
	}
	for _, s := range view.Sidecars {
		p.line(0, "")
		p.hosted(s)
	}
}

func allReady(s *agent.Status) bool {
	for _, sc := range s.Sidecars {
		if !sc.Ready {
			return false
		}
	}
	return len(s.Sidecars) > 0
}

func short(id string) string { return id[:min(len(id), shortID)] }

// hosted sums up one sidecar of Nomad.
func (p printer) hosted(s hostSidecar) {
	p.line(0, "%s", s.title(short(s.Alloc)))
	if s.read == nil {
		p.line(1, "%s  %s", s.Service, s.Problem)
		return
	}
	if len(s.read.Sidecars) == 0 {
		p.line(1, "%s  not ready: starting", s.Service)
	}
	for _, sc := range s.read.Sidecars {
		state := readiness(sc)
		if s.read.Draining {
			state = "draining"
		}
		// The service is the one that Nomad knows: what the task calls itself
		// must not look like the state.
		p.line(1, "%s  %s", s.Service, state)
		p.summary(sc)
	}
	for _, w := range s.read.Watches {
		if w.Error != "" {
			p.line(2, "problem     %s fails since %s: %s", w.Key, p.ago(w.LastSuccess), w.Error)
		}
	}
}

func (p printer) summary(s agent.SidecarStatus) {
	if l := s.Leaf; l != nil {
		if !l.NotAfter.IsZero() {
			p.line(2, "leaf        expires in %s", p.until(l.NotAfter))
		}
		if l.Error != "" {
			p.line(2, "leaf error  %s", l.Error)
		}
	}
	in := s.Proxy.Inbound
	p.line(2, "inbound     %s, %d open%s", cmp.Or(in.Address, "no listener"), in.Active, optional(": ", in.Problem))
	for n, u := range s.Proxy.Upstreams {
		endpoints, unused := 0, 0
		for _, t := range u.Targets {
			for _, e := range t.Endpoints {
				endpoints++
				if e.NotUsed != "" {
					unused++
				}
			}
		}
		use := fmt.Sprintf("%d endpoints", endpoints)
		if endpoints == 1 {
			use = "1 endpoint"
		}
		if unused > 0 {
			use += fmt.Sprintf(", %d not used", unused)
		}
		p.line(2, "%-11s %s at %s, %s%s", heading(n, "upstreams"), u.ID, cmp.Or(u.Address, "no listener"), use, optional(": ", u.Problem))
	}
	if s.Problem != "" {
		p.line(2, "problem     %s", s.Problem)
	}
	for _, problem := range s.Proxy.Problems {
		p.line(2, "problem     %s", problem)
	}
}

// readiness is "ready", or says what is waited for.
func readiness(s agent.SidecarStatus) string {
	switch {
	case s.Ready:
		return "ready"
	case len(s.Missing) > 0:
		return "not ready: waits for " + strings.Join(s.Missing, ", ")
	}
	return "not ready"
}
