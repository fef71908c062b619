// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"bufio"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// If Run faults, nobody may go on being served by a policy that nothing can
// change, and whoever waits for the proxy must learn of it.
func TestPanicInRunClosesEverythingAndAnswersItsCaller(t *testing.T) {
	p := New(DefaultLimits(), hclog.NewNullLogger())
	fault := make(chan any, 1)
	go func() {
		defer func() { fault <- recover() }()
		_ = p.Run(t.Context())
	}()
	snap := service(meshca.New("root"), "api", application(t, "tcp", "127.0.0.1:0", echo))
	apply(t, p, snap)
	inbound := p.Inbound(t.Context())
	applied := make(chan error, 1)
	go func() {
		applied <- p.Apply(t.Context(), next(snap, func(s *connect.Snapshot) { s.Leaf = &connect.Leaf{} }))
	}()
	select {
	case err := <-applied:
		if !errors.Is(err, ErrStopped) {
			t.Errorf("Apply returned %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Apply waits for a proxy that has faulted")
	}
	if v := <-fault; v == nil {
		t.Error("Run did not pass the panic on")
	}
	if c, err := net.Dial("tcp", inbound.String()); err == nil {
		_ = c.Close()
		t.Error("the listener is still there")
	}
	if err := p.Apply(t.Context(), snap); !errors.Is(err, ErrStopped) {
		t.Errorf("Apply on a stopped proxy: %v", err)
	}
}

func TestApplyDuringADrainOpensNoInboundListener(t *testing.T) {
	r := newPair(t, DefaultLimits())
	open := r.call(t)
	if err := roundTrip(open, "hello"); err != nil {
		t.Fatal(err)
	}
	drained := make(chan int, 1)
	go func() { drained <- r.api.Drain(t.Context()) }()
	until(t, "the inbound listener is closed", func() bool { return r.api.Inbound(t.Context()) == nil })
	apply(t, r.api, next(r.apiSnap, func(*connect.Snapshot) {}))
	if at := r.api.Inbound(t.Context()); at != nil {
		t.Errorf("a draining proxy listens again, on %v", at)
	}
	if err := roundTrip(open, "still"); err != nil {
		t.Errorf("an open connection: %v", err)
	}
	_ = open.Close()
	if cut := <-drained; cut != 0 {
		t.Errorf("%d connections were cut", cut)
	}
	apply(t, r.api, next(r.apiSnap, func(*connect.Snapshot) {}))
	if at := r.api.Inbound(t.Context()); at != nil {
		t.Errorf("a drained proxy listens again, on %v", at)
	}
}

func TestDrainWithoutTimeStillClosesEveryListener(t *testing.T) {
	for range 20 { // a choice between two ready channels is random
		r := newPair(t, DefaultLimits())
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r.web.Drain(ctx)
		if in, out := r.web.Inbound(t.Context()), r.web.Outbound(t.Context(), "api"); in != nil || out != nil {
			t.Fatalf("listeners after the drain: %v, %v", in, out)
		}
	}
}

func TestListenerMovesBetweenAddressesOfOnePort(t *testing.T) {
	r := newPair(t, DefaultLimits())
	port := freePort(t)
	for _, address := range []string{"127.0.0.1", "0.0.0.0", "127.0.0.1"} {
		apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.BindAddress, s.Service.BindPort = address, port }))
		if got := r.api.Inbound(t.Context()).(*net.TCPAddr); got.IP.IsUnspecified() != (address == "0.0.0.0") {
			t.Errorf("listens on %v, want %s", got, address)
		}
	}
}

func TestStrangersCannotMakeLogLinesLong(t *testing.T) {
	r := newPair(t, DefaultLimits())
	loud := meshca.New("stranger").Leaf("web", nil, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "x"}
		c.URIs[0].Path = "/ns/default/dc/dc1/svc/" + strings.Repeat("long", 5000)
	})
	loud.Chain = append(loud.Chain, meshca.New(strings.Repeat("issuer", 5000)).Leaf("web", nil).Chain...)
	loud2 := meshca.New(strings.Repeat("issuer", 5000)).Leaf("web", nil)
	for _, leaf := range []*connect.Leaf{loud, loud2} {
		if c, err := r.as(t, leaf); err == nil {
			_, _ = c.Read(make([]byte, 1))
		}
	}
	until(t, "both refusals are kept", func() bool { return len(r.api.Status(t.Context()).Recent) == 2 })
	for _, refusal := range r.api.Status(t.Context()).Recent {
		if len(refusal.Text) > 4*maxWords {
			t.Errorf("a refusal of %d bytes", len(refusal.Text))
		}
	}
	if got := clipText(strings.Repeat("é", maxWords)); len(got) > maxWords+3 || strings.ToValidUTF8(got, "?") != got {
		t.Errorf("clipped to %d bytes", len(got))
	}
}

func TestServerMaySpeakFirst(t *testing.T) {
	r := newPair(t, DefaultLimits())
	greeting := application(t, "tcp", "127.0.0.1:0", greeter("api-1")).(*net.TCPAddr)
	apply(t, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalPort = greeting.Port }))
	if line, err := bufio.NewReader(r.call(t)).ReadString('\n'); err != nil || line != "api-1\n" {
		t.Errorf("%q, %v", line, err)
	}
}
