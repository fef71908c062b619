// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package dev is the mesh in one process that "outrider dev" shows: a real agent
// with two sidecars, an embedded control plane, and two small applications. It
// is for looking at, never for serving anybody.
package dev

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/internal/miniconsul"
)

// Options of a demonstration.
type Options struct {
	Out     io.Writer
	Once    bool // end after the tour
	Logger  hclog.Logger
	Version string
}

// Run brings up the mesh, walks through the tour, and, unless Once is set,
// stays up until ctx ends. An error means that a step did not behave.
func Run(ctx context.Context, opts Options) error {
	w, err := newWorld(ctx, opts)
	if err != nil {
		return err
	}
	defer w.remove()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.mini.Run(ctx, w.consul) })
	group.Go(func() error { return w.serveApps(ctx) })
	group.Go(func() error { return w.runAgent(ctx) })
	group.Go(func() error {
		defer cancel()
		if err := w.tour(ctx); err != nil {
			return err
		}
		if !opts.Once {
			w.instructions()
			<-ctx.Done()
		}
		return nil
	})
	return group.Wait()
}

// world is what the demonstration consists of.
type world struct {
	opts   Options
	dir    string
	config *hcl.Config
	mini   *miniconsul.Server
	consul net.Listener // of mini
	api    net.Listener // of the api application
	web    net.Listener // of the web application
	ports  ports
}

// ports are where the listeners of the mesh are.
type ports struct{ apiInbound, webInbound, upstream int }

func newWorld(ctx context.Context, opts Options) (w *world, err error) {
	w = &world{opts: opts}
	defer func() {
		if err != nil {
			w.remove()
		}
	}()
	if w.dir, err = os.MkdirTemp("", "outrider-dev-"); err != nil {
		return nil, fmt.Errorf("dev: %w", err)
	}
	for _, l := range []struct {
		to        *net.Listener
		preferred string
	}{{&w.consul, "127.0.0.1:8500"}, {&w.api, "127.0.0.1:0"}, {&w.web, "127.0.0.1:0"}} {
		if *l.to, err = listen(ctx, l.preferred); err != nil {
			return nil, fmt.Errorf("dev: %w", err)
		}
	}
	for _, p := range []struct {
		to        *int
		preferred string
	}{{&w.ports.apiInbound, "127.0.0.1:0"}, {&w.ports.webInbound, "127.0.0.1:0"}, {&w.ports.upstream, "127.0.0.1:9191"}} {
		if *p.to, err = freePort(ctx, p.preferred); err != nil {
			return nil, fmt.Errorf("dev: %w", err)
		}
	}
	w.mini, err = miniconsul.New(miniconsul.Options{Datacenter: "dev", NodeName: "laptop", DefaultAllow: false, Logger: opts.Logger.Named("control-plane")})
	if err != nil {
		return nil, fmt.Errorf("dev: %w", err)
	}
	w.config, err = hcl.Parse("dev.hcl", []byte(w.source()))
	return w, err
}

// listen takes the preferred address, or any free port where it is taken.
func listen(ctx context.Context, preferred string) (net.Listener, error) {
	var lc net.ListenConfig
	if l, err := lc.Listen(ctx, "tcp", preferred); err == nil {
		return l, nil
	}
	return lc.Listen(ctx, "tcp", "127.0.0.1:0")
}

func freePort(ctx context.Context, preferred string) (int, error) {
	l, err := listen(ctx, preferred)
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return port(l), nil
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func (w *world) remove() {
	for _, l := range []net.Listener{w.consul, w.api, w.web} {
		if l != nil {
			_ = l.Close()
		}
	}
	_ = os.RemoveAll(w.dir)
}

func (w *world) admin() string { return "unix://" + filepath.Join(w.dir, "admin.sock") }

// source is the configuration, in the language that every user writes.
func (w *world) source() string {
	const text = `
consul { address = %q }
admin  { address = %q }
drain  {
  propagation = "0s"
  timeout     = "1s"
}

service {
  name    = "api"
  address = "127.0.0.1"
  port    = %d
  connect {
    sidecar_service {
      port = %d
      check {
        name     = "listening"
        tcp      = "127.0.0.1:%[4]d"
        interval = "1s"
      }
    }
  }
}

service {
  name    = "web"
  address = "127.0.0.1"
  port    = %d
  connect {
    sidecar_service {
      port = %d
      check {
        name     = "listening"
        tcp      = "127.0.0.1:%[6]d"
        interval = "1s"
      }
      proxy {
        upstreams {
          destination_name = "api"
          local_bind_port  = %d
        }
      }
    }
  }
}
`
	return fmt.Sprintf(text, w.consul.Addr().String(), w.admin(), port(w.api), w.ports.apiInbound, port(w.web), w.ports.webInbound, w.ports.upstream)
}

// runAgent runs the agent that every user runs, and ends it gently.
func (w *world) runAgent(ctx context.Context) error {
	a, err := agent.New(agent.Options{Config: w.config, Logger: w.opts.Logger, Version: w.opts.Version})
	if err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	stop := make(chan struct{})
	defer context.AfterFunc(ctx, func() { close(stop) })()
	// The control plane ends with ctx too, so that the drain tells nobody; the
	// bound is for connections only.
	end, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(3*time.Second, cancel) })()
	return a.Run(end, stop)
}
