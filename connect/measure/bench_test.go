// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package measure_test

import (
	"sync"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
)

func TestCountingAllocatesNothing(t *testing.T) {
	s := measure.NewSet("api", "api-proxy")
	rules := s.Rules([]connect.Intention{{Source: connect.Source{Name: "web"}, Destination: "api"}})
	u := s.Upstream("db")
	target := u.Target("db.default.default.dc1")
	good := request(flow.Outbound, 200, 3*time.Millisecond)
	good.Target = "db.default.default.dc1"
	bad := *good
	bad.Status, bad.Reason, bad.GRPC, bad.GRPCStatus, bad.Remote = 503, connect.LimitExceeded, true, "14", true
	gone := *good
	gone.Gone = true
	open := &flow.Record{Kind: flow.Connection, Duration: time.Second, Sent: 1, Received: 1, Target: good.Target}
	failed := &flow.Try{Took: time.Millisecond, Reason: connect.ConnectFailed}
	for name, count := range map[string]func(){
		"request of an upstream": func() { u.Done(good) },
		"failure of an upstream": func() { u.Done(&bad) },
		"caller who left":        func() { u.Done(&gone) },
		"connection":             func() { u.Opened(); u.Done(open) },
		"request of a peer":      func() { s.Peer(web).Done(good) },
		"refusal":                func() { s.Done(&bad) },
		"try":                    func() { target.Tried(failed, true) },
		"decision":               func() { rules.Decided(0, true) },
		"handshake":              func() { s.Shook(true, nil, connect.TLSFailed, time.Millisecond) },
	} {
		count()
		if n := testing.AllocsPerRun(100, count); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// Scrapes, compiles and traffic meet; the race detector looks on, and no count is
// lost.
func TestCountsAreExactWhileTheyAreRead(t *testing.T) {
	t.Parallel()
	s := measure.NewSet("api", "api-proxy")
	const workers, each = 4, 500
	var traffic, readers sync.WaitGroup
	stop := make(chan struct{})
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Gather(); err != nil {
				t.Error(err)
			}
			s.Upstream("coming").Opened()
			s.Retain(func(id connect.UpstreamID) bool { return id == "db" })
		}
	})
	for range workers {
		traffic.Go(func() {
			for n := range each {
				r := request(flow.Outbound, 200+100*(n%4), time.Duration(n)*time.Microsecond)
				r.Target = []connect.TargetID{"a.default.default.dc1", "b.default.default.dc1"}[n%2]
				s.Upstream("db").Done(r)
			}
		})
	}
	traffic.Wait()
	close(stop)
	readers.Wait()
	families, err := s.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var requests, observed float64
	for _, f := range families {
		for _, m := range f.Metric {
			switch f.GetName() {
			case "outrider_requests_total":
				requests += m.Counter.GetValue()
			case "outrider_request_duration_seconds":
				observed += float64(m.Histogram.GetSampleCount())
			}
		}
	}
	if requests != workers*each || observed != workers*each {
		t.Errorf("counted %v requests and %v durations, want %d", requests, observed, workers*each)
	}
}

func BenchmarkDonePeer(b *testing.B) {
	s := measure.NewSet("api", "api-proxy")
	p, r := s.Peer(web), request(flow.Inbound, 200, 3*time.Millisecond)
	b.ReportAllocs()
	for b.Loop() {
		p.Done(r)
	}
}

func BenchmarkDoneUpstream(b *testing.B) {
	s := measure.NewSet("api", "api-proxy")
	u, r := s.Upstream("db"), request(flow.Outbound, 200, 3*time.Millisecond)
	r.Target = "db.default.default.dc1"
	u.Target(r.Target)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			u.Done(r)
		}
	})
}

func BenchmarkGather200(b *testing.B) {
	s := measure.NewSet("api", "api-proxy")
	fill(s, 200)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}
