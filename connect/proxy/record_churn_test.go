// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"net"
	"sync"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

// opened is the sum of the gauge of open connections, and how many there are that
// are not zero.
func opened(t *testing.T, p *Proxy) (sum float64, astray int) {
	t.Helper()
	families, err := p.observers.Set.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "outrider_connections_open" {
			continue
		}
		for _, m := range f.Metric {
			if v := m.Gauge.GetValue(); v != 0 {
				sum += v
				astray++
			}
		}
	}
	return sum, astray
}

func TestNothingStaysOpenInTheMetricsHoweverSnapshotsChange(t *testing.T) {
	t.Parallel()
	r := newPair(t, DefaultLimits())
	address := r.web.Outbound(t.Context(), "api").String()
	fixed := next(r.webSnap, func(s *connect.Snapshot) {
		s.Upstreams = append([]connect.Upstream(nil), s.Upstreams...)
		s.Upstreams[0].BindPort = portOf(t, address)
	})
	without := next(fixed, func(s *connect.Snapshot) { s.Upstreams = nil })
	var all sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				c, err := net.Dial("tcp", address)
				if err != nil {
					continue // there is no listener at the moment
				}
				_ = roundTrip(c, "hello")
				_ = c.Close()
			}
		})
	}
	for range 20 {
		apply(t, r.web, without)
		apply(t, r.web, fixed)
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Intentions = []connect.Intention{intention("web", connect.Deny)} }))
		apply(t, r.api, r.apiSnap)
	}
	close(done)
	all.Wait()
	for _, p := range []*Proxy{r.web, r.api} {
		until(t, "all have ended", func() bool { return !p.conns.any() })
		if sum, astray := opened(t, p); astray > 0 {
			t.Errorf("%d gauges say that %v connections are open", astray, sum)
		}
	}
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}
