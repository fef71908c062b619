// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"time"

	"github.com/outrider-mesh/outrider/agent/telemetry"
	"github.com/outrider-mesh/outrider/connect/proxy"
)

// measured is the status as numbers.
func (a *Agent) measured(ctx context.Context) telemetry.State {
	s := a.Status(ctx)
	out := telemetry.State{Now: time.Now(), Draining: s.Draining}
	for i := range s.Sidecars {
		out.Sidecars = append(out.Sidecars, measuredSidecar(&s.Sidecars[i]))
	}
	for _, w := range s.Watches {
		out.Sources = append(out.Sources, telemetry.Source{Kind: w.Kind, LastSuccess: w.LastSuccess, Failures: w.Failures, Expires: w.Expires})
	}
	return out
}

func measuredSidecar(s *SidecarStatus) telemetry.Sidecar {
	out := telemetry.Sidecar{
		Service: s.Service, ProxyID: s.ProxyID, Ready: s.Ready, Problems: len(s.Proxy.Problems),
		Snapshot: s.Proxy.Snapshot, SnapshotAt: s.SnapshotAt, Probes: s.Proxy.Probes, Panics: s.Proxy.Panics,
	}
	if s.Problem != "" {
		out.Problems++
	}
	if s.Leaf != nil {
		out.LeafNotBefore, out.LeafNotAfter = s.Leaf.NotBefore, s.Leaf.NotAfter
	}
	for _, root := range s.Roots {
		out.Roots = append(out.Roots, telemetry.Root{ID: root.ID, NotAfter: root.NotAfter})
	}
	if m := s.Proxy.Memory; m != nil {
		out.MemoryHeld, out.MemoryLimit = m.Held, m.Limit
	}
	out.Listeners = append(out.Listeners, telemetry.Listener{Direction: "inbound", Held: s.Proxy.Inbound.Active, Limit: s.Proxy.Inbound.Limit})
	if t := s.Proxy.Transparent; t != nil {
		out.Listeners = append(out.Listeners, telemetry.Listener{Direction: "passed", Held: t.Active, Limit: t.Limit})
	}
	for _, u := range s.Proxy.Upstreams {
		id := string(u.ID)
		out.Listeners = append(out.Listeners, telemetry.Listener{Direction: "outbound", Upstream: id, Held: u.Active, Limit: u.Limit})
		for _, t := range u.Targets {
			out.Targets = append(out.Targets, measuredTarget(id, t))
		}
	}
	return out
}

func measuredTarget(upstream string, t proxy.TargetStatus) telemetry.Target {
	out := telemetry.Target{Upstream: upstream, Target: string(t.ID)}
	for _, e := range t.Endpoints {
		switch {
		case e.NotUsed == "":
			out.Usable++
		case e.Ejected:
			out.Ejected++
		default:
			out.Unusable++
		}
	}
	return out
}
