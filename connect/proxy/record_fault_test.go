// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
	"github.com/outrider-mesh/outrider/connect/wire"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// faulty is a sink that has a mistake.
type faulty struct{}

func (faulty) Done(*flow.Record) { panic("a mistake") }

func TestASinkThatFaultsEndsNothingAndKeepsNobodyFromHearing(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]int{"let in": -1, "turned away": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, heard := start(t, DefaultLimits()), &tape{}
			p.Observe(Observers{Sinks: []flow.Sink{faulty{}, heard}})
			s := calling(service(meshca.New("one"), "web", &net.TCPAddr{}), "api", nil)
			s.Upstreams[0].MaxConnections = limit
			apply(t, p, s)
			for n := range 2 {
				c, err := net.Dial("tcp", p.Outbound(t.Context(), "api").String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close() })
				until(t, "the other sink is told", func() bool { return len(heard.of(flow.Connection)) == n+1 })
			}
			until(t, "the faults are counted", func() bool { return p.counts.panics.Load() == 2 })
		})
	}
}

// alone is an exchange that no server runs.
func alone(t *testing.T, p *Proxy) *exchange {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	c := newConn(t.Context(), "", ours)
	t.Cleanup(c.cancel)
	c.server = wire.NewServer(wire.Options{Log: hclog.NewNullLogger()})
	x := &exchange{p: p, c: c, w: httptest.NewRecorder(), r: httptest.NewRequest(http.MethodGet, "/", http.NoBody), began: time.Now()}
	x.ctx, x.cancel = context.WithCancelCause(t.Context())
	x.record.Kind = flow.Request
	return x
}

func TestWhoeverEndsARequestIsBlamedHoweverLateItWas(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		cause  error
		status int
		want   gist
	}{
		"time is up":        {cause: errRequestTimeout, want: gist{Reason: connect.RequestTimeout}},
		"caller's deadline": {cause: errCallerDeadline, want: gist{Reason: connect.RequestTimeout}},
		"withdrawn":         {cause: &withdrawal{reason: connect.JWTInvalid, why: "expired"}, want: gist{Reason: connect.JWTInvalid}},
		"large body":        {cause: errLargeBody, status: 200, want: gist{Reason: connect.LimitExceeded, Status: 200}},
		"caller left":       {cause: context.Canceled, status: 200, want: gist{Gone: true, Status: 200}},
		"caller broke off":  {cause: errBadBody, want: gist{Gone: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, heard := New(DefaultLimits(), hclog.NewNullLogger()), &tape{}
			p.Observe(Observers{Sinks: []flow.Sink{heard}})
			x := alone(t, p)
			x.record.Status, x.gone = tc.status, true
			x.cancel(tc.cause)
			x.account()
			got := heard.of(flow.Request)[0]
			if g := gistOf(got); g.Reason != tc.want.Reason || g.Gone != tc.want.Gone || g.Status != tc.want.Status || (got.Why == "") != (tc.want.Reason == "") {
				t.Errorf("%+v because %q, want %+v", g, got.Why, tc.want)
			}
		})
	}
}

func TestHeaderOfAWithdrawnRequestSaysWhatTheRecordSays(t *testing.T) {
	t.Parallel()
	x := alone(t, New(DefaultLimits(), hclog.NewNullLogger()))
	x.ended(&withdrawal{reason: connect.JWTInvalid, why: "expired"})
	if got := connect.Reason(x.w.Header().Get(reasonHeader)); got != connect.JWTInvalid || x.record.Reason != got || x.record.Status != http.StatusForbidden {
		t.Errorf("the header says %q, the record %+v", got, gistOf(x.record))
	}
}

func TestAFaultOnPurposeHasOneReasonInHeaderAndRecords(t *testing.T) {
	t.Parallel()
	r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) {
		s.Service.Faults = []connect.Fault{{AbortStatus: http.StatusTeapot, AbortMillionths: million}}
	}))
	got := send(t, r.client(t), newRequest(t, http.MethodGet, r.url(t, "/"), nil))
	in, out := told(t, r.api, flow.Request, 1)[0], told(t, r.web, flow.Request, 1)[0]
	header := connect.Reason(got.header.Get(reasonHeader))
	if in.Reason != header || out.Reason != header || !out.Remote || header == "" || !strings.Contains(in.Why, "on purpose") {
		t.Errorf("header %q, inbound %+v %q, outbound %+v", header, gistOf(in), in.Why, gistOf(out))
	}
}

// shaken adds up handshakes by result.
func shaken(t *testing.T, s *measure.Set) map[string]float64 {
	t.Helper()
	families, err := s.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "outrider_tls_handshakes_total" {
			continue
		}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "result" {
					out[l.GetValue()] += m.Counter.GetValue()
				}
			}
		}
	}
	return out
}

func TestAHandshakeIsCountedOnceThoughItProvesNobody(t *testing.T) {
	t.Parallel()
	p := New(DefaultLimits(), hclog.NewNullLogger())
	set := measure.NewSet("api", "api-proxy")
	p.Observe(Observers{Set: set})
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	c := newConn(t.Context(), "", ours)
	t.Cleanup(c.cancel)
	p.unproved(c, errors.New("no certificate"), true)
	p.shook(c, time.Now(), tls.ConnectionState{Version: tls.VersionTLS13})
	p.unproved(c, errGatewayOfTCP, true)
	if got := shaken(t, set); got["failed"] != 1 || got["full"] != 1 {
		t.Errorf("counted %v, want one that failed and one that did not", got)
	}
}

func TestWhatAFaultOfOursEndedWasNotServed(t *testing.T) {
	t.Parallel()
	t.Run("connection", func(t *testing.T) {
		t.Parallel()
		r := newPair(t, DefaultLimits())
		good := r.web.runtime.Load()
		broken := *good // a runtime hole that compile would never make
		broken.upstreams = map[connect.UpstreamID]*upstream{"api": {id: "api", maxConns: 10, legs: []leg{{}}}}
		r.web.runtime.Store(&broken)
		r.callInVain(t)
		if got := told(t, r.web, flow.Connection, 1)[0]; got.Reason != connect.StreamReset || !strings.Contains(got.Why, "fault") {
			t.Errorf("%+v because %q", gistOf(got), got.Why)
		}
		r.web.runtime.Store(good)
	})
	t.Run("request", func(t *testing.T) {
		t.Parallel()
		r := newHTTPPair(t, connect.HTTP, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		good := r.web.runtime.Load()
		u := *good.upstreams["api"]
		h := *u.http
		h.table = nil
		u.http = &h
		broken := *good
		broken.upstreams = map[connect.UpstreamID]*upstream{"api": &u}
		r.web.runtime.Store(&broken)
		resp, err := r.client(t).Do(newRequest(t, http.MethodGet, r.url(t, "/"), nil))
		if err == nil {
			_ = resp.Body.Close()
			t.Errorf("answered with %d", resp.StatusCode)
		}
		if got := told(t, r.web, flow.Request, 1)[0]; got.Reason != connect.StreamReset || got.Gone || !strings.Contains(got.Why, "fault") {
			t.Errorf("%+v because %q", gistOf(got), got.Why)
		}
		r.web.runtime.Store(good)
	})
}

func TestWhatTheEndOfTheProxyCutsIsNobodyWhoLeft(t *testing.T) {
	t.Parallel()
	cut := func(t *testing.T, p *Proxy, kinds ...flow.Kind) {
		t.Helper()
		p.conns.shut() // as Run does at its end
		for _, kind := range kinds {
			if got := told(t, p, kind, 1)[0]; got.Reason != connect.Draining || got.Gone || got.Why == "" {
				t.Errorf("%+v because %q", gistOf(got), got.Why)
			}
		}
	}
	t.Run("connection", func(t *testing.T) {
		t.Parallel()
		r := newPair(t, DefaultLimits())
		if err := roundTrip(r.call(t), "hello"); err != nil {
			t.Fatal(err)
		}
		cut(t, r.web, flow.Connection)
	})
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		t.Run("request "+string(protocol), func(t *testing.T) {
			t.Parallel()
			waiting := make(chan struct{}, 1)
			r := newHTTPPair(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				_ = http.NewResponseController(w).Flush()
				waiting <- struct{}{}
				<-q.Context().Done()
			}))
			resp, err := r.client(t).Do(newRequest(t, http.MethodGet, r.url(t, "/"), nil))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = resp.Body.Close() })
			<-waiting
			cut(t, r.web, flow.Request, flow.Connection)
		})
	}
}

func TestATryThatWasCutIsNotTheEndpointsFailure(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{false, true} {
		ours, theirs := net.Pipe()
		t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
		c := newConn(t.Context(), "api", ours)
		want := connect.ConnectFailed
		if cut {
			want = ""
		}
		if c.cancel(); !cut {
			c.ctx = t.Context()
		}
		c.attempted(&leg{}, &balance.Entry{Endpoint: &connect.Endpoint{}}, time.Now(), &failure{connect.ConnectFailed, context.Canceled})
		if got := c.record.Tries[0]; got.Reason != want || got.Error == "" {
			t.Errorf("cut %v: %+v", cut, got)
		}
	}
}
