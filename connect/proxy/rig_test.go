// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
	"github.com/outrider-mesh/outrider/connect/mtls"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a proxy until the test ends.
func start(t testing.TB, limits Limits) *Proxy {
	t.Helper()
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: &lateLog{t: t}})
	if _, test := t.(*testing.T); !test {
		log = hclog.NewNullLogger() // a benchmark would measure it, and a fuzz target must not log
	}
	p := New(limits, log)
	if _, test := t.(*testing.T); test {
		p.Observe(Observers{Set: measure.NewSet("test", "test-sidecar-proxy"), Sinks: []flow.Sink{&tape{}}})
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if n := len(p.conns.open); n != 0 {
			t.Errorf("%d connections are left after Run", n)
		}
	})
	return p
}

type lateLog struct{ t testing.TB }

func (l *lateLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", b)
	return len(b), nil
}

// service is a snapshot of a service whose application listens at app.
func service(ca *meshca.CA, name string, app net.Addr) *connect.Snapshot {
	s := &connect.Snapshot{
		Version: 1, Leaf: ca.Leaf(name, nil), Bundle: meshca.Bundle(ca), DefaultAction: connect.Allow,
		Service: connect.Service{
			ID: name, Name: name, Namespace: "default", Partition: "default", Datacenter: "dc1",
			BindAddress: "127.0.0.1", LocalConnectTimeout: time.Second,
		},
		Chains: map[connect.UpstreamID]*connect.Chain{}, Endpoints: map[connect.TargetID][]connect.Endpoint{},
	}
	switch a := app.(type) {
	case *net.TCPAddr:
		s.Service.LocalAddress, s.Service.LocalPort = "127.0.0.1", a.Port
	case *net.UnixAddr:
		s.Service.LocalSocketPath = a.Name
	}
	return s
}

// calling adds an upstream with the endpoints of each of its targets in order;
// the first target is named like the upstream.
func calling(s *connect.Snapshot, id connect.UpstreamID, targets ...[]net.Addr) *connect.Snapshot {
	resolver := &connect.Resolver{}
	chain := &connect.Chain{
		Service: string(id), Start: "r",
		Nodes:   map[string]connect.Node{"r": {Kind: connect.ResolverNode, Resolver: resolver}},
		Targets: map[connect.TargetID]connect.Target{},
	}
	for i, addrs := range targets {
		target := connect.TargetID(string(id) + string(rune('0'+i)))
		if i == 0 {
			resolver.Target = target
		} else {
			resolver.Failover = append(resolver.Failover, target)
		}
		chain.Targets[target] = connect.Target{ID: target, Service: string(id), Namespace: "default", Partition: "default", Datacenter: "dc1", SNI: string(id) + ".sni"}
		s.Endpoints[target] = endpointsAt(addrs...)
	}
	s.Chains[id] = chain
	s.Upstreams = append(s.Upstreams, connect.Upstream{ID: id, Name: string(id), BindAddress: "127.0.0.1", MaxConnections: -1, MaxPending: -1, MaxRequests: -1})
	return s
}

func endpointsAt(addrs ...net.Addr) []connect.Endpoint {
	var out []connect.Endpoint
	for _, a := range addrs {
		tcp := a.(*net.TCPAddr)
		out = append(out, connect.Endpoint{ID: a.String(), Address: tcp.IP.String(), Port: uint16(tcp.Port), Weight: 1})
	}
	return out
}

func apply(t testing.TB, p *Proxy, s *connect.Snapshot) {
	t.Helper()
	if err := p.Apply(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// next is a copy of s with the following version.
func next(s *connect.Snapshot, change func(*connect.Snapshot)) *connect.Snapshot {
	c := *s
	c.Version++
	change(&c)
	return &c
}

func intention(src string, action connect.Action) connect.Intention {
	return connect.Intention{Source: connect.Source{Partition: "default", Namespace: "default", Name: src}, Destination: "api", Namespace: "default", Precedence: 9, Action: action}
}

// application serves each connection with handle until the test ends.
func application(t testing.TB, network, address string, handle func(net.Conn)) net.Addr {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			all.Go(func() {
				handle(c)
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr()
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// greeter answers every connection with its name, then echoes.
func greeter(name string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = c.Write([]byte(name + "\n"))
		echo(c)
	}
}

func dial(t testing.TB, addr net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// roundTrip reports whether a message comes back over c.
func roundTrip(c net.Conn, message string) error {
	if _, err := c.Write([]byte(message)); err != nil {
		return err
	}
	buf := make([]byte, len(message))
	if _, err := io.ReadFull(c, buf); err != nil {
		return err
	}
	if string(buf) != message {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// closed waits until the other side has closed c, draining what it sends.
func closed(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	if timedOut(err) {
		t.Fatal("the connection was not closed")
	}
}

// pair is web → api through both proxies, with an echoing application.
type pair struct {
	ca       *meshca.CA
	api, web *Proxy
	apiSnap  *connect.Snapshot
	webSnap  *connect.Snapshot
}

func newPair(t testing.TB, limits Limits) *pair {
	t.Helper()
	ca := meshca.New("root")
	r := &pair{ca: ca, api: start(t, limits), web: start(t, limits)}
	r.apiSnap = service(ca, "api", application(t, "tcp", "127.0.0.1:0", echo))
	apply(t, r.api, r.apiSnap)
	r.webSnap = calling(service(ca, "web", nil), "api", []net.Addr{r.api.Inbound(t.Context())})
	apply(t, r.web, r.webSnap)
	return r
}

func (r *pair) call(t testing.TB) net.Conn { return dial(t, r.web.Outbound(t.Context(), "api")) }

// callInVain calls api and is refused, which may be before the call is through.
func (r *pair) callInVain(t testing.TB) {
	t.Helper()
	c, err := net.Dial("tcp", r.web.Outbound(t.Context(), "api").String())
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	closed(t, c)
}

// as dials the inbound listener of api directly with TLS as a given service.
func (r *pair) as(t testing.TB, leaf *connect.Leaf) (*tls.Conn, error) {
	t.Helper()
	c := tls.Client(dial(t, r.api.Inbound(t.Context())), mtls.Client(leaf, meshca.Bundle(r.ca), connect.TLSLimits{}, "", []string{meshca.ID("api").String()}))
	return c, c.HandshakeContext(t.Context())
}

func refused(t testing.TB, p *Proxy, reason connect.Reason) int64 {
	t.Helper()
	return p.Status(t.Context()).Refused[reason]
}

// until polls a condition that another goroutine brings about.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("timed out waiting until %s", what)
		case <-tick.C:
		}
	}
}
