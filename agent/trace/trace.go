// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package trace follows requests from service to service: it reads and writes
// the headers of W3C Trace Context and B3, and sends spans to an OpenTelemetry
// collector by OTLP. It must not slow a request down, nor let a collector do so:
// between the two is a queue that drops.
package trace

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect/flow"
)

// A Config is what the telemetry block of the configuration says about traces.
type Config struct {
	Endpoint    string   // http(s)://host:port of the collector; "" leaves it to the environment
	Protocol    string   // http/protobuf or grpc; "" is http/protobuf
	HeadersFile string   // lines "Name: value" to send along; "" for none; read again when it changes
	CAFile      string   // who signs the collector's certificate; "" is the system's roots
	SampleRatio *float64 // of requests that nobody has decided on yet, 0 to 1; nil leaves it to the environment
}

// Options are what New needs.
type Options struct {
	Config Config
	// Env looks variables up, as os.Getenv does. Nil is an empty environment.
	Env     func(string) string
	Version string // of Outrider, for the collector
	Host    string // name of this machine; "" leaves it out
	Log     hclog.Logger
}

// Tracing is where spans come from and go to. It is a [flow.Tracer]; all its
// methods but Run may be called from any goroutine, and Begin before Run.
type Tracing struct {
	settings settings
	log      hclog.Logger
	deliver  deliverer
	queue    chan *item
	held     atomic.Int64 // bytes in the queue and in the batch under way
	running  atomic.Bool
	made     atomic.Uint64
	sent     atomic.Uint64
	dropped  atomic.Uint64
	failed   atomic.Uint64
}

var _ flow.Tracer = (*Tracing)(nil)

// New reads where spans go, from Options.Config or else the environment
// variables of the OpenTelemetry specification. It returns nil without an error
// when nothing says so, when OTEL_SDK_DISABLED is true or OTEL_TRACES_EXPORTER
// none. A setting that cannot be read is an error that names it; a value that the
// specification wants ignored is only logged. Files are read by Run: one that is
// missing must not keep a service from starting.
func New(o Options) (*Tracing, error) {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	e := environment{get: o.Env, log: o.Log}
	if e.get == nil {
		e.get = func(string) string { return "" }
	}
	s, on, err := e.settings(o)
	if err != nil || !on {
		return nil, err
	}
	return newTracing(s, o.Log, newSender(s.destination, o.Version)), nil
}

func newTracing(s settings, log hclog.Logger, d deliverer) *Tracing {
	return &Tracing{settings: s, log: log, deliver: d, queue: make(chan *item, s.queue)}
}

// Tracer is t for whoever takes a [flow.Tracer]: nil, and not merely an interface
// that holds nil, when t is.
func (t *Tracing) Tracer() flow.Tracer {
	if t == nil {
		return nil
	}
	return t
}

// Destination is where spans go, in words, for status and logs: no header and no
// other secret is in it. It is "" when t is nil.
func (t *Tracing) Destination() string {
	if t == nil {
		return ""
	}
	return t.settings.destination.String()
}

// Stats counts spans since the start.
type Stats struct {
	Made    uint64 // of requests that were sampled
	Sent    uint64 // accepted by the collector
	Dropped uint64 // not kept, because the queue was full
	Failed  uint64 // given up on, or refused by the collector
}

// Stats returns the counters. A nil Tracing has made none.
func (t *Tracing) Stats() Stats {
	if t == nil {
		return Stats{}
	}
	return Stats{Made: t.made.Load(), Sent: t.sent.Load(), Dropped: t.dropped.Load(), Failed: t.failed.Load()}
}

var errRunning = errors.New("export traces: it runs already")

// Run sends spans until ctx ends, then what is left, for at most five seconds,
// and returns nil; end it after the last request. While nobody runs it, the queue
// fills and then drops. A nil Tracing returns at once; a second Run at the same
// time is an error.
func (t *Tracing) Run(ctx context.Context) error {
	if t == nil {
		return nil
	}
	if !t.running.CompareAndSwap(false, true) {
		return errRunning
	}
	defer t.running.Store(false)
	t.log.Info("traces are sent to a collector", "collector", t.Destination(), "sampler", t.settings.sampler.String())
	x := &export{t: t}
	x.loop(ctx)
	x.last(ctx)
	t.deliver.close()
	return nil
}
