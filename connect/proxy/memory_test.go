// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// roomFor is memory that n connections are admitted to.
func roomFor(n int64) int64 {
	return (n*connectionReserve*100/admitPercent + connectionReserve/2) / 100 * 100
}

// remembering is a pair whose api takes its share of memory of so many bytes.
func remembering(t *testing.T, memory *Memory) *pair {
	t.Helper()
	limits := DefaultLimits()
	limits.Memory = memory
	ca := meshca.New("root")
	r := &pair{ca: ca, api: start(t, limits), web: start(t, DefaultLimits())}
	r.apiSnap = service(ca, "api", application(t, "tcp", "127.0.0.1:0", echo))
	apply(t, r.api, r.apiSnap)
	r.webSnap = calling(service(ca, "web", nil), "api", []net.Addr{r.api.Inbound(t.Context())})
	apply(t, r.web, r.webSnap)
	return r
}

// holds waits until n connections rest: a buffer under way is counted in.
func holds(t *testing.T, p *Proxy, n int64) {
	t.Helper()
	until(t, "connections rest", func() bool { return p.Status(t.Context()).Memory.Held == n*connectionReserve })
}

// nothingHeld waits until all memory was given back.
func nothingHeld(t *testing.T, p *Proxy) {
	t.Helper()
	until(t, "nothing is held", func() bool { return p.Status(t.Context()).Memory.Held == 0 })
}

func TestConnectionsBeyondTheMemoryAreRefusedAndOldOnesGoOn(t *testing.T) {
	const fit = 3
	r := remembering(t, NewMemory(roomFor(fit)))
	var open []net.Conn
	for range fit {
		c := r.call(t)
		if err := roundTrip(c, "in"); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		holds(t, r.api, int64(len(open)))
	}
	// Before TLS: nothing is said, and no handshake is begun.
	late := dial(t, r.api.Inbound(t.Context()))
	if got, _ := io.ReadAll(late); len(got) > 0 {
		t.Errorf("who is refused is sent %q", got)
	}
	s := r.api.Status(t.Context())
	if s.Refused[connect.LimitExceeded] != 1 || s.Memory.Held != fit*connectionReserve {
		t.Errorf("%d refused, %+v", s.Refused[connect.LimitExceeded], s.Memory)
	}
	last := s.Recent[len(s.Recent)-1].Text
	for _, want := range []string{"the inbound listener", "limit 0.2MB", "limits { memory_mb }", "outrider_memory_mb"} {
		if !strings.Contains(last, want) {
			t.Errorf("%q does not say %q", last, want)
		}
	}
	for _, c := range open {
		if err := roundTrip(c, strings.Repeat("still", 5_000)); err != nil {
			t.Error(err)
		}
	}
	_ = open[0].Close()
	until(t, "another one is let in", func() bool { return roundTrip(r.call(t), "in") == nil })
	for _, c := range open {
		_ = c.Close()
	}
}

func TestAllMemoryIsGivenBack(t *testing.T) {
	r := remembering(t, NewMemory(1<<30))
	c := r.call(t)
	if err := roundTrip(c, strings.Repeat("x", 30_000)); err != nil {
		t.Fatal(err)
	}
	holds(t, r.api, 1)
	_ = c.Close()
	nothingHeld(t, r.api)
}

func TestServiceSaysHowMuchItWants(t *testing.T) {
	memory := NewMemory(1 << 30)
	r := remembering(t, memory)
	limit := func(p *Proxy) int64 { return p.Status(t.Context()).Memory.Limit }
	if got := limit(r.api); got != 1<<30 {
		t.Errorf("alone: %d", got)
	}
	other := start(t, Limits{Memory: memory, Inbound: 10, Outbound: 10, Handshake: time.Second})
	if b, a := limit(other), limit(r.api); a != 1<<29 || b != 1<<29 {
		t.Errorf("two share alike: %d and %d", a, b)
	}
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.MaxMemory = 8 << 20 }))
	if got := limit(r.api); got != 8<<20 {
		t.Errorf("of what the service wants: %d", got)
	}
	apply(t, r.api, next(r.apiSnap, func(*connect.Snapshot) {}))
	if got := limit(r.api); got != 1<<29 {
		t.Errorf("when it wants nothing any more: %d", got)
	}
}

// One service that takes all it can get leaves another its share.
func TestOneServiceCannotStarveAnother(t *testing.T) {
	memory := NewMemory(2 * roomFor(2))
	greedy, modest := remembering(t, memory), remembering(t, memory)
	for n := range int64(2) {
		if err := roundTrip(greedy.call(t), "in"); err != nil {
			t.Fatal(err)
		}
		holds(t, greedy.api, n+1)
	}
	if err := roundTrip(greedy.call(t), "in"); err == nil {
		t.Error("the greedy one gets more than its share")
	}
	for n := range int64(2) {
		if err := roundTrip(modest.call(t), "in"); err != nil {
			t.Fatalf("the modest one: %v", err)
		}
		holds(t, modest.api, n+1)
	}
}

func TestPressedMemoryAdmitsNothingNewAndKeepsWhatThereIs(t *testing.T) {
	memory := NewMemory(1 << 30)
	r := remembering(t, memory)
	old := r.call(t)
	if err := roundTrip(old, "in"); err != nil {
		t.Fatal(err)
	}
	memory.Press(true)
	if err := roundTrip(r.call(t), "in"); err == nil {
		t.Error("a connection was let in")
	}
	s := r.api.Status(t.Context())
	if last := s.Recent[len(s.Recent)-1].Text; !s.Memory.Pressed || !strings.Contains(last, "MemoryMax") {
		t.Errorf("%+v, %q", s.Memory, last)
	}
	if err := roundTrip(old, strings.Repeat("still", 5_000)); err != nil {
		t.Error(err)
	}
	memory.Press(false)
	if err := roundTrip(r.call(t), "in"); err != nil {
		t.Error(err)
	}
}

func TestRequestsBeyondTheMemoryAreAnsweredAsOverload(t *testing.T) {
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		t.Run(string(protocol), func(t *testing.T) {
			limits := DefaultLimits()
			limits.Memory = NewMemory(1 << 30)
			ca := meshca.New("root")
			r := &httpPair{pair: pair{ca: ca, api: start(t, limits), web: start(t, DefaultLimits())}, protocol: protocol}
			r.apiSnap = service(ca, "api", httpApp(t, http.HandlerFunc(mirror)))
			r.apiSnap.Service.Protocol = protocol
			apply(t, r.api, r.apiSnap)
			r.webSnap = calling(service(ca, "web", nil), "api", []net.Addr{r.api.Inbound(t.Context())})
			r.webSnap.Chains["api"].Protocol = protocol
			apply(t, r.web, r.webSnap)
			if got := r.get(t, "/"); got.status != http.StatusOK {
				t.Fatalf("%+v", got)
			}
			limits.Memory.Press(true) // the connection is there, and stays
			got := r.get(t, "/")
			if got.status != http.StatusServiceUnavailable || got.header.Get("X-Outrider-Reason") != string(connect.LimitExceeded) ||
				got.header.Get("X-Envoy-Overloaded") != "true" || !strings.HasSuffix(got.body, "reset reason: overflow") {
				t.Errorf("%+v", got)
			}
			limits.Memory.Press(false)
			body := bytes.Repeat([]byte("x"), 300_000)
			if got := send(t, r.client(t), newRequest(t, http.MethodPost, r.url(t, "/"), bytes.NewReader(body))); got.status != http.StatusOK {
				t.Errorf("afterwards: %d", got.status)
			}
		})
	}
}

func TestRequestsGiveTheirMemoryBack(t *testing.T) {
	limits := DefaultLimits()
	limits.Memory = NewMemory(1 << 30)
	p := start(t, limits)
	ca := meshca.New("root")
	s := service(ca, "api", httpApp(t, http.HandlerFunc(mirror)))
	s.Service.Protocol, s.Service.Expose = connect.HTTP, []connect.ExposedPath{{Path: "/", LocalPathPort: s.Service.LocalPort, Protocol: connect.HTTP}}
	apply(t, p, s)
	client := clientOf(t, false)
	url := "http://" + p.Outbound(t.Context(), exposeID(0)).String() + "/"
	for range 3 {
		if got := send(t, client, newRequest(t, http.MethodPost, url, strings.NewReader("x"))); got.status != http.StatusOK {
			t.Fatalf("%+v", got)
		}
	}
	client.CloseIdleConnections()
	nothingHeld(t, p)
}

func TestShortMemoryIsSaidOnceUntilItIsOver(t *testing.T) {
	r := remembering(t, NewMemory(roomFor(1)))
	said := func() bool { return r.api.wasShort }
	_ = r.api.do(t.Context(), func(context.Context) error {
		r.api.noteShort()
		if said() {
			t.Error("it is said before anything was short")
		}
		r.api.memory.Take(1<<40, 100)
		r.api.noteShort()
		if !said() {
			t.Error("it is not said")
		}
		r.api.noteShort()
		if said() {
			t.Error("it is not over when nothing was short for a while")
		}
		return nil
	})
}

func TestMostConnectionsAreCountedAsTheyAreAdmitted(t *testing.T) {
	if got := ConnectionsIn(roomFor(100)); got != 100 {
		t.Errorf("%d, want 100", got)
	}
}
