// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/version"
)

func runAgent(i invocation) int {
	fs := i.flags("agent", "-config PATH...")
	var paths list
	fs.Var(&paths, "config", "configuration `PATH`: a file, or a directory of *.hcl; may be given several times")
	if code, ok := i.parse(fs); !ok {
		return code
	}
	paths = append(paths, fs.Args()...)
	if len(paths) == 0 {
		return i.misuse("agent: no configuration; give -config /etc/outrider.d")
	}
	load := func() (*hcl.Config, error) { return hcl.Load(paths...) }
	cfg, code, ok := i.load(load)
	if !ok {
		return code
	}
	if len(cfg.Services) == 0 {
		return i.fail("agent: %s holds no service stanza, so there is nothing to run; add one, or run \"outrider sidecar\" for a registration that exists", paths.String())
	}
	prepare := func(context.Context, hclog.Logger) (agent.Options, error) { return agent.Options{Config: cfg}, nil }
	return i.serve(newLogger(cfg.Log, i.stderr), prepare, load)
}

// load prints what is wrong with a configuration, or what it is warned of.
func (i invocation) load(load func() (*hcl.Config, error)) (cfg *hcl.Config, code int, ok bool) {
	cfg, err := load()
	if err != nil {
		i.printConfigError(err)
		return nil, exitFailed, false
	}
	if cfg.Warnings != nil {
		_ = cfg.Warnings.Write(i.stderr, terminalWidth, colored(i.stderr))
	}
	return cfg, exitOK, true
}

const terminalWidth = 100

func (i invocation) printConfigError(err error) {
	if diagnostics, ok := errors.AsType[*hcl.Error](err); ok {
		_ = diagnostics.Write(i.stderr, terminalWidth, colored(i.stderr))
		return
	}
	i.fail("%v", err)
}

// colored reports whether w is a terminal whose user has not opted out.
func colored(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// serve runs an agent under the signals of a service: SIGHUP reloads, SIGTERM
// and SIGINT drain, and the second of them ends at once. prepare may wait for
// what the agent needs; a signal ends that too. reload may be nil.
func (i invocation) serve(log hclog.Logger, prepare func(context.Context, hclog.Logger) (agent.Options, error), reload func() (*hcl.Config, error)) int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	opts, err := await(ctx, signals, func(ctx context.Context) (agent.Options, error) { return prepare(ctx, log) })
	if errors.Is(err, errStopped) {
		return exitOK
	}
	if err != nil {
		return i.fail("%v", err)
	}
	opts.Logger, opts.Version = log, version.String()
	if opts.Notify == nil {
		opts.Notify = agent.Systemd
	}
	a, err := agent.New(opts)
	if err != nil {
		return i.fail("%v", err)
	}
	stop := make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, stop) }()
	stopping := false
	for {
		select {
		case err := <-ended:
			if err != nil {
				return i.fail("%v", err)
			}
			return exitOK
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP && reload != nil:
				i.reload(ctx, a, reload, log)
			case s == syscall.SIGHUP:
			case stopping:
				log.Warn("second signal: ending at once")
				cancel()
			default:
				stopping = true
				close(stop)
			}
		}
	}
}

// errStopped says that a signal came before there was anything to stop.
var errStopped = errors.New("stopped before it began")

// await returns what prepare does, or errStopped.
func await(ctx context.Context, signals <-chan os.Signal, prepare func(context.Context) (agent.Options, error)) (agent.Options, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var opts agent.Options
	prepared := make(chan error, 1)
	go func() {
		var err error
		opts, err = prepare(ctx)
		prepared <- err
	}()
	stopped := false
	for {
		select {
		case err := <-prepared:
			if stopped {
				return opts, errStopped
			}
			return opts, err
		case s := <-signals:
			if s != syscall.SIGHUP {
				stopped = true
				cancel()
			}
		}
	}
}

// reload keeps the running configuration when the new one is no good, and says
// so.
func (i invocation) reload(ctx context.Context, a *agent.Agent, load func() (*hcl.Config, error), log hclog.Logger) {
	agent.SystemdReloading()
	defer agent.SystemdReloaded()
	cfg, _, ok := i.load(load)
	if !ok {
		log.Error("reload refused: the configuration has errors; the running one stays")
		return
	}
	if err := a.Reload(ctx, cfg); err != nil {
		log.Error("reload refused", "error", err)
		return
	}
	log.Info("reloaded", "services", len(cfg.Services))
}

func newLogger(cfg hcl.Log, w io.Writer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name: "outrider", Level: hclog.LevelFromString(cfg.Level), Output: w, JSONFormat: cfg.Format == "json",
		TimeFormat: "2006-01-02T15:04:05.000Z07:00",
	})
}

func runVersion(i invocation) int {
	fs := i.flags("version", "[-json]")
	asJSON := fs.Bool("json", false, "print JSON")
	if code, ok := i.parse(fs); !ok {
		return code
	}
	if *asJSON {
		return i.printJSON(version.Current())
	}
	_, _ = fmt.Fprintln(i.stdout, version.String())
	return exitOK
}
