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
	"github.com/outrider-mesh/outrider/agent/crash"
	"github.com/outrider-mesh/outrider/agent/handover"
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
	sockets, code, ok := i.inherit()
	if !ok {
		return code
	}
	loader := agent.NewLoader(paths...)
	load := func() (*hcl.Config, error) { return loader.Load(context.Background()) }
	cfg, code, ok := i.load(load)
	if !ok {
		sockets.Fail("its configuration has mistakes, which \"outrider validate\" names")
		return code
	}
	if len(cfg.Services) == 0 {
		return i.fail("agent: %s holds no service stanza, so there is nothing to run; add one, or run \"outrider sidecar\" for a registration that exists", paths.String())
	}
	prepare := func(context.Context, hclog.Logger) (agent.Options, error) {
		return agent.Options{Config: cfg, Load: i.shown(load)}, nil
	}
	return i.serve(sockets, newLogger(cfg.Log, i.stderr), inRoom(0, prepare))
}

// shown prints what is wrong with what load reads, or warned of, for the journal.
func (i invocation) shown(load func() (*hcl.Config, error)) func() (*hcl.Config, error) {
	return func() (*hcl.Config, error) {
		cfg, err := load()
		if mistakes, ok := errors.AsType[*hcl.Error](err); ok {
			i.printDiagnostics(mistakes)
		}
		if err == nil && cfg.Warnings != nil {
			i.printDiagnostics(cfg.Warnings)
		}
		return cfg, err
	}
}

// inherit takes over what a predecessor left. The process must not go on when ok
// is false.
func (i invocation) inherit() (sockets *handover.Sockets, code int, ok bool) {
	sockets, err := handover.Inherit(context.Background())
	switch {
	case errors.Is(err, handover.ErrBorne):
		return nil, exitOK, false
	case err != nil:
		return nil, i.fail("%v", err), false
	}
	return sockets, exitOK, true
}

// load prints what is wrong with a configuration, or what it is warned of.
func (i invocation) load(load func() (*hcl.Config, error)) (cfg *hcl.Config, code int, ok bool) {
	cfg, err := load()
	if diagnostics, ok := errors.AsType[*hcl.Error](err); ok {
		i.printDiagnostics(diagnostics)
		return nil, exitFailed, false
	}
	if err != nil {
		return nil, i.fail("%v", err), false
	}
	if cfg.Warnings != nil {
		i.printDiagnostics(cfg.Warnings)
	}
	return cfg, exitOK, true
}

// printDiagnostics shows lines and marks to a person at a terminal, and one line
// for each problem to a journal, which would tear the others apart.
func (i invocation) printDiagnostics(e *hcl.Error) {
	if terminal(i.stderr) {
		_ = e.Write(i.stderr, terminalWidth, colored(i.stderr))
		return
	}
	for _, line := range e.Lines() {
		i.fail("%s", line)
	}
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
func colored(w io.Writer) bool { return os.Getenv("NO_COLOR") == "" && terminal(w) }

// terminal reports whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// serve runs an agent under the signals of a service: SIGHUP reloads, SIGUSR2 has
// the program on disk take over, SIGTERM and SIGINT drain, and the second of them
// ends at once; SIGQUIT ends it with what it knows in a file. prepare may wait for
// what the agent needs; a signal ends that too.
func (i invocation) serve(sockets *handover.Sockets, log hclog.Logger, prepare func(context.Context, hclog.Logger) (agent.Options, error)) int {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR2, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	opts, err := await(ctx, signals, func(ctx context.Context) (agent.Options, error) { return prepare(ctx, log) })
	if errors.Is(err, errStopped) {
		return exitOK
	}
	if err != nil {
		sockets.Fail(err.Error())
		return i.fail("%v", err)
	}
	opts.Logger, opts.Version, opts.Handover, opts.StateDirectory = log, version.String(), sockets, stateDirectory()
	if opts.Notify == nil {
		opts.Notify = agent.Systemd
	}
	a, err := agent.New(opts)
	if err != nil {
		sockets.Fail(err.Error())
		return i.fail("%v", err)
	}
	last := lastWords(log, crash.Known{Version: opts.Version, Status: func(ctx context.Context) any { return a.Status(ctx) }, Failures: func() any { return a.Failures() }})
	defer last.close()
	signal.Notify(signals, syscall.SIGQUIT)
	stop := make(chan struct{})
	ended := make(chan error, 1)
	go func() { ended <- last.run(func() error { return a.Run(ctx, stop) }) }()
	stopping := false
	for {
		select {
		case err := <-ended:
			if err != nil {
				last.failed(err)
				sockets.Fail(err.Error())
				return i.fail("%v", err)
			}
			return exitOK
		case s := <-signals:
			switch {
			case s == syscall.SIGQUIT:
				last.quit()
			case s == syscall.SIGHUP:
				_ = a.ReloadFiles(ctx) // the log says what came of it
			case s == syscall.SIGUSR2:
				a.Replace()
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
			if s != syscall.SIGHUP && s != syscall.SIGUSR2 {
				stopped = true
				cancel()
			}
		}
	}
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
