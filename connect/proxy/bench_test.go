// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"fmt"
	"io"
	"net"
	goruntime "runtime"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// BenchmarkBulk is one connection that sends as fast as it can through both
// proxies to an application that discards; client, proxies and application
// share the machine. direct is the same without proxies.
func BenchmarkBulk(b *testing.B) {
	sink := func(c net.Conn) {
		buf := make([]byte, 256<<10)
		for {
			if _, err := c.Read(buf); err != nil {
				_, _ = c.Write([]byte("."))
				return
			}
		}
	}
	for _, via := range []string{"direct", "mesh"} {
		b.Run(via, func(b *testing.B) {
			c := dialBench(b, via, sink)
			chunk := make([]byte, 256<<10)
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				if _, err := c.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkRoundTrip1KB is a message of 1 KB sent and echoed over one
// connection; mesh minus direct is what both hops together add.
func BenchmarkRoundTrip1KB(b *testing.B) {
	for _, via := range []string{"direct", "mesh"} {
		b.Run(via, func(b *testing.B) {
			c := dialBench(b, via, echo)
			message := make([]byte, 1024)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(message); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, message); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func dialBench(b *testing.B, via string, handle func(net.Conn)) net.Conn {
	app := application(b, "tcp", "127.0.0.1:0", handle)
	at := app
	if via == "mesh" {
		r := newPair(b, DefaultLimits())
		apply(b, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalPort = app.(*net.TCPAddr).Port }))
		at = r.web.Outbound(b.Context(), "api")
	}
	c := dial(b, at)
	_ = c.SetDeadline(time.Time{})
	return c
}

// BenchmarkConnect is a new connection with one byte each way: a full TLS
// handshake, verification of both sides and the decision.
func BenchmarkConnect(b *testing.B) {
	for _, via := range []string{"direct", "mesh"} {
		b.Run(via, func(b *testing.B) {
			app := application(b, "tcp", "127.0.0.1:0", echo)
			at := app
			if via == "mesh" {
				r := newPair(b, DefaultLimits())
				apply(b, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalPort = app.(*net.TCPAddr).Port }))
				at = r.web.Outbound(b.Context(), "api")
			}
			for b.Loop() {
				c, err := net.Dial("tcp", at.String())
				if err != nil {
					b.Fatal(err)
				}
				if err := roundTrip(c, "x"); err != nil {
					b.Fatal(err)
				}
				_ = c.Close()
			}
		})
	}
}

// BenchmarkIdleConnection reports what one idle proxied connection costs in
// memory: heap and stacks of the whole process over 1,000 connections that have
// each exchanged 1 KB, less those of the same connections without proxies,
// halved for one hop.
func BenchmarkIdleConnection(b *testing.B) {
	const n = 1000
	memory := func(via string) float64 {
		app := application(b, "tcp", "127.0.0.1:0", func(c net.Conn) {
			buf := make([]byte, 1024)
			for {
				if _, err := io.ReadFull(c, buf); err != nil {
					return
				}
				if _, err := c.Write(buf); err != nil {
					return
				}
			}
		})
		at := app
		if via == "mesh" {
			r := newPair(b, DefaultLimits())
			apply(b, r.api, next(r.apiSnap, func(s *connect.Snapshot) { s.Service.LocalPort = app.(*net.TCPAddr).Port }))
			at = r.web.Outbound(b.Context(), "api")
		}
		message := make([]byte, 1024)
		before := inUse()
		var open []net.Conn
		for range n {
			c, err := net.Dial("tcp", at.String())
			if err != nil {
				b.Fatal(err)
			}
			if err := roundTrip(c, string(message)); err != nil {
				b.Fatal(err)
			}
			open = append(open, c)
		}
		used := float64(inUse() - before)
		for _, c := range open {
			_ = c.Close()
		}
		return used / n
	}
	var perHop float64
	for b.Loop() {
		direct := memory("direct")
		perHop = (memory("mesh") - direct) / 2
	}
	b.ReportMetric(perHop/1024, "KiB/hop")
	b.ReportMetric(0, "ns/op")
}

func inUse() uint64 {
	goruntime.GC()
	goruntime.GC()
	var m goruntime.MemStats
	goruntime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// BenchmarkCompile is a snapshot of 100 upstreams with 100 endpoints each and
// 500 intentions, compiled with the states of the snapshot before.
func BenchmarkCompile(b *testing.B) {
	s := bigSnapshot(100, 100, 500)
	p := New(DefaultLimits(), hclog.NewNullLogger())
	c := compiler{registry: balance.NewRegistry(), clusters: &p.clusters, dial: p, limits: DefaultLimits()}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.compile(s); err != nil {
			b.Fatal(err)
		}
	}
}

func bigSnapshot(upstreams, endpoints, intentions int) *connect.Snapshot {
	s := service(meshca.New("root"), "web", nil)
	for i := range upstreams {
		id := connect.UpstreamID(fmt.Sprintf("service-%d", i))
		s = calling(s, id, nil)
		s.Upstreams[i].BindPort = 10000 + i
		for j := range endpoints {
			target := connect.TargetID(string(id) + "0")
			s.Endpoints[target] = append(s.Endpoints[target], connect.Endpoint{
				ID: fmt.Sprintf("%s-%d", id, j), Address: fmt.Sprintf("10.%d.%d.7", i, j), Port: 20000, Weight: 1,
			})
		}
	}
	for i := range intentions {
		s.Intentions = append(s.Intentions, intention(fmt.Sprintf("caller-%d", i), connect.Allow))
	}
	return s
}
