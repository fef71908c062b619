// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package telemetry hands out what is measured: to Prometheus, which asks for it,
// and to statsd, which is sent it. It must not measure anything itself, nor show
// anything but numbers and the names of services.
package telemetry

import (
	"cmp"
	"context"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/measure"
)

// Options are what a Registry works with.
type Options struct {
	Logger  hclog.Logger // nil for none
	Version string       // of the program
	// State reports what is true at the moment of a scrape; nil for nothing. It
	// must return when ctx ends.
	State func(ctx context.Context) State
	// Listen opens host:port; nil means a TCP listener of its own.
	Listen func(ctx context.Context, address string) (net.Listener, error)
	// Getenv reads environment variables that a proxy config names; nil means those
	// of the process.
	Getenv func(name string) string
}

// A Registry knows what is measured in this process, and serves it. Safe for
// concurrent use. A nil one does nothing.
type Registry struct {
	opts    Options
	process *prometheus.Registry // of the Go runtime and the process
	scrapes chan struct{}        // one slot for each that runs
	wake    chan struct{}        // one slot: what is wanted has changed

	mu      sync.Mutex
	address string // of all sidecars together; "" for none
	members []*Member
}

// A Member is one sidecar whose measurements are served. A nil one does nothing.
type Member struct {
	registry *Registry
	set      *measure.Set

	// Guarded by registry.mu.
	telemetry connect.Telemetry
	tags      []*dto.LabelPair // sorted; replaced, never written to
}

// New returns a Registry that serves nothing yet.
func New(o Options) *Registry {
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	if o.State == nil {
		o.State = func(context.Context) State { return State{} }
	}
	if o.Listen == nil {
		o.Listen = func(ctx context.Context, address string) (net.Listener, error) {
			var listen net.ListenConfig
			return listen.Listen(ctx, "tcp", address)
		}
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	r := &Registry{opts: o, process: prometheus.NewRegistry(), scrapes: make(chan struct{}, maxScrapes), wake: make(chan struct{}, 1)}
	r.process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Serve has /metrics of all sidecars served on host:port while [Registry.Run] runs;
// "" ends it.
func (r *Registry) Serve(address string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.address = address
	r.mu.Unlock()
	r.changed()
}

// Add has what set measures served until Remove is called. Of two Sets of one proxy
// the later one is served: series must not be there twice.
func (r *Registry) Add(set *measure.Set) *Member {
	if r == nil || set == nil {
		return nil
	}
	m := &Member{registry: r, set: set}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members = append(slices.Clone(r.members), m)
	slices.SortStableFunc(r.members, func(a, b *Member) int { return strings.Compare(a.set.ProxyID(), b.set.ProxyID()) })
	return m
}

// Configure says where the metrics of the sidecar go besides; it may be called
// with each registration.
func (m *Member) Configure(t connect.Telemetry) {
	if m == nil {
		return
	}
	m.registry.mu.Lock()
	m.telemetry, m.tags = t, labels(t.Tags)
	m.registry.mu.Unlock()
	m.registry.changed()
}

// Remove ends what Add began. Everything that is measured of the sidecar is gone
// then.
func (m *Member) Remove() {
	if m == nil {
		return
	}
	m.registry.mu.Lock()
	m.registry.members = slices.DeleteFunc(slices.Clone(m.registry.members), func(o *Member) bool { return o == m })
	m.registry.mu.Unlock()
	m.registry.changed()
}

func (r *Registry) changed() {
	select {
	case r.wake <- struct{}{}:
	default: // It will look anyway.
	}
}

// A job is what Run keeps running: to serve an address, or to send to statsd. Jobs
// that are equal are the same.
type job struct {
	address string

	member *Member // of those that send
	url    string
	dog    bool // it knows tags
	every  time.Duration
}

// wanted are the jobs that there should be.
func (r *Registry) wanted() map[job]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[job]bool)
	if r.address != "" {
		out[job{address: r.address}] = true
	}
	for _, m := range r.members {
		t := m.telemetry
		if t.PrometheusAddress != "" {
			out[job{address: t.PrometheusAddress}] = true
		}
		every := cmp.Or(t.Interval, flushEvery)
		if t.Statsd != "" {
			out[job{member: m, url: t.Statsd, every: every}] = true
		}
		if t.DogStatsd != "" {
			out[job{member: m, url: t.DogStatsd, dog: true, every: every}] = true
		}
	}
	return out
}

// Run serves and sends until ctx ends. What cannot be bound or reached is tried
// again, and stops nothing else.
func (r *Registry) Run(ctx context.Context) error {
	if r == nil {
		return nil
	}
	running := make(map[job]func())
	defer func() {
		for _, stop := range running {
			stop()
		}
	}()
	for {
		wanted := r.wanted()
		for j, stop := range running {
			if !wanted[j] {
				stop()
				delete(running, j)
			}
		}
		for j := range wanted {
			if running[j] == nil {
				running[j] = r.start(ctx, j)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		}
	}
}

// start runs a job; stop ends it and waits until it has ended.
func (r *Registry) start(ctx context.Context, j job) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	run := r.serve
	if j.member != nil {
		run = r.send
	}
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				r.opts.Logger.Error("metrics are not handed out any more; traffic is not concerned", "address", j.address, "panic", v)
			}
		}()
		run(ctx, j)
	}()
	return func() {
		cancel()
		<-done
	}
}

// pause waits, and reports whether ctx still lasts.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
