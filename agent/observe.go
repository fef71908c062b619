// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/outrider-mesh/outrider/agent/accesslog"
	"github.com/outrider-mesh/outrider/agent/ledger"
	"github.com/outrider-mesh/outrider/agent/page"
	"github.com/outrider-mesh/outrider/agent/recorder"
	"github.com/outrider-mesh/outrider/agent/tap"
	"github.com/outrider-mesh/outrider/agent/telemetry"
	"github.com/outrider-mesh/outrider/agent/trace"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/access"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/measure"
	"github.com/outrider-mesh/outrider/connect/proxy"
	"github.com/outrider-mesh/outrider/hcl"
)

// observation is everybody who is told what becomes of the traffic of this
// process.
type observation struct {
	metrics  *telemetry.Registry
	logs     *accesslog.Writers
	traces   *trace.Tracing
	tap      *tap.Tap
	failures *recorder.Recorder
	edges    *ledger.Ledger
	explain  *explainer
	page     *page.Page

	mu   sync.Mutex
	sets []*measure.Set // of the sidecars that run
}

// edgesFile is where the ledger is kept, in the directory of the state.
const edgesFile = "edges.json"

func (a *Agent) newObservation() (*observation, error) {
	host, _ := os.Hostname() // "" where it is not known
	cfg := a.config
	o := &observation{
		tap: tap.New(a.log.Named("tap")), failures: recorder.New(), explain: newExplainer(a),
		logs: accesslog.New(accesslog.Options{
			Logger: a.log.Named("access_log"), Stdout: os.Stdout, Stderr: os.Stderr, Hostname: host,
			Directories: slices.Concat(accesslog.DefaultDirectories(os.Getenv), cfg.AccessLog.Directories), Default: accessLogs(cfg.AccessLog.AccessLogs),
		}),
		metrics: telemetry.New(telemetry.Options{Logger: a.log.Named("metrics"), Version: a.opts.Version, State: a.measured, Listen: a.listenForMetrics}),
	}
	file := ""
	if a.opts.StateDirectory != "" {
		file = filepath.Join(a.opts.StateDirectory, edgesFile)
	}
	o.edges = ledger.New(ledger.Options{Path: file, Logger: a.log.Named("ledger")})
	var err error
	if o.page, err = page.New(); err != nil {
		return nil, err
	}
	o.traces, err = trace.New(trace.Options{Config: traces(cfg.Telemetry), Env: os.Getenv, Version: a.opts.Version, Host: host, Log: a.log.Named("trace")})
	if err != nil {
		return nil, fmt.Errorf("configure traces: %w", err)
	}
	if cfg.Telemetry != nil {
		o.metrics.Serve(cfg.Telemetry.PrometheusAddress)
	}
	return o, nil
}

func traces(t *hcl.Telemetry) trace.Config {
	if t == nil {
		return trace.Config{}
	}
	return trace.Config{Endpoint: t.OTLPEndpoint, Protocol: t.OTLPProtocol, HeadersFile: t.OTLPHeadersFile, CAFile: t.OTLPCAFile, SampleRatio: t.SampleRatio}
}

// observing runs what outlives the traffic, since it must end after all that it
// is told of; end ends it. A part that faults takes no other with it.
func (a *Agent) observing(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var parts sync.WaitGroup
	for what, part := range map[string]func(context.Context) error{"access logs": a.observed.logs.Run, "traces": a.observed.traces.Run, "the ledger": a.observed.edges.Run} {
		parts.Go(func() {
			if err := guard(a.log, func() error { return part(ctx) }); err != nil {
				a.log.Error("what tells of the traffic ended; traffic is not concerned", "part", what, "error", err)
			}
		})
	}
	return func() {
		cancel()
		parts.Wait()
	}
}

// listenForMetrics opens host:port for those who read metrics, or takes it over.
func (a *Agent) listenForMetrics(ctx context.Context, address string) (net.Listener, error) {
	return a.opts.Handover.Listen("tcp", address, func() (net.Listener, error) {
		var listen net.ListenConfig
		return listen.Listen(ctx, "tcp", address)
	}, nil)
}

// Failures are the latest connections and requests that were not served.
func (a *Agent) Failures() recorder.Failures { return a.observed.failures.Last(recorder.Keeps, nil) }

// gatherers read the counters of every sidecar.
func (o *observation) gatherers() []page.Gatherer {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []page.Gatherer
	for _, s := range o.sets {
		out = append(out, s)
	}
	return out
}

func (o *observation) add(s *measure.Set) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sets = append(o.sets, s)
}

func (o *observation) remove(s *measure.Set) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sets = slices.DeleteFunc(o.sets, func(have *measure.Set) bool { return have == s })
}

// observers are those of one sidecar.
type observers struct {
	all    *observation
	set    *measure.Set
	member *telemetry.Member
	log    *accesslog.Log
}

// observe has the proxy tell of its traffic. The service has its name from the
// first snapshot, before which there is no traffic.
func (s *session) observe(first *connect.Snapshot) {
	all := s.agent.observed
	o := &observers{all: all, set: measure.NewSet(first.Service.Name, s.id()), log: all.logs.Open(s.log)}
	o.member = all.metrics.Add(o.set)
	all.add(o.set)
	s.observers = o
	s.proxy.Observe(proxy.Observers{
		Set: o.set, Tracer: all.traces.Tracer(),
		Sinks: []flow.Sink{o.log, all.failures, all.edges, all.tap, all.explain},
	})
}

// follow brings the settings of a snapshot into force. A nil one is of a session
// that has seen none.
func (o *observers) follow(s *connect.Snapshot) {
	o.member.Configure(s.Service.Telemetry)
	o.log.Use(s.Service.AccessLogs, access.Facts{Identity: s.Leaf.Identity.String(), Secrets: tokenNames(s)})
}

// tokenNames are the header fields and query parameters that hold tokens of
// callers here.
func tokenNames(s *connect.Snapshot) []string {
	var out []string
	for _, p := range s.JWTProviders {
		for _, at := range p.Locations {
			for _, name := range []string{at.Header, at.Query, at.Cookie} {
				if name != "" && !slices.Contains(out, name) {
					out = append(out, name)
				}
			}
		}
		if name := p.Forward.Header; name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// end is called when no connection is left.
func (o *observers) end() {
	if o == nil {
		return
	}
	o.all.remove(o.set)
	o.member.Remove()
	o.log.Close()
}
