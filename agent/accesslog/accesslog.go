// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package accesslog writes the lines of access logs to files, stdout and stderr.
// It must never hold up traffic: what cannot be written in time is dropped and
// counted.
package accesslog

import (
	"context"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
)

// Options are what access logs are written with.
type Options struct {
	Logger hclog.Logger
	// Stdout and Stderr are where lines for them go. An *os.File that nobody reads
	// holds up no other output, and not the end of Run.
	Stdout, Stderr io.Writer
	// Directories are those below which a file may be: where it is comes from
	// Consul, from people who may have no say on this host. See
	// [DefaultDirectories].
	Directories []string
	// Default is for sidecars that Consul asks no access log of. The directory of its
	// file is one of Directories.
	Default connect.AccessLogs
	// Hostname is what the command %HOSTNAME% yields; "" is nothing.
	Hostname string
}

// DefaultDirectories are those for logs: /var/log, those for temporary files, and
// the ones that systemd (LogsDirectory=) and Nomad name in the environment.
func DefaultDirectories(environment func(string) string) []string {
	all := []string{"/var/log", "/tmp", environment("TMPDIR"), environment("NOMAD_ALLOC_DIR"), environment("NOMAD_TASK_DIR")}
	all = append(all, strings.Split(environment("LOGS_DIRECTORY"), ":")...)
	return slices.DeleteFunc(all, func(dir string) bool { return !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" })
}

// Writers write for all sidecars of a process. Those that name the same file
// share it. Make them with [New], then Run.
type Writers struct {
	opts    Options
	log     hclog.Logger
	entries sync.Pool     // of *entry: lines to be
	wake    chan struct{} // one slot: there are outputs to start

	mu      sync.Mutex
	outputs map[string]*output // in use, by name
	waiting []*output          // to be started
	past    uint64             // lines dropped by outputs that are not in use any more
}

// New prepares writers. Nothing is opened before Run.
func New(o Options) *Writers {
	if o.Default.Type == connect.AccessLogFile && filepath.IsAbs(o.Default.Path) {
		o.Directories = append(slices.Clone(o.Directories), filepath.Dir(o.Default.Path)) // named on this host
	}
	w := &Writers{opts: o, log: o.Logger, wake: make(chan struct{}, 1), outputs: make(map[string]*output)}
	w.entries.New = func() any { return &entry{from: &w.entries} }
	return w
}

// Run writes until ctx ends, and then what is left; that takes at most about a
// second where nobody reads. Let it end after all that logs: lines that come
// later are lost.
func (w *Writers) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		w.mu.Lock()
		start := w.waiting
		w.waiting = nil
		w.mu.Unlock()
		for _, o := range start {
			all.Go(func() { o.run(ctx) })
		}
		select {
		case <-ctx.Done():
			return nil
		case <-w.wake:
		}
	}
}

// Reopen closes files and opens them again under their names, as after they have
// been renamed by logrotate. Lines from before it are in the old ones.
func (w *Writers) Reopen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.outputs {
		signal(o.reopen)
	}
}

// Dropped is how many lines were dropped so far.
func (w *Writers) Dropped() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	sum := w.past
	for _, o := range w.outputs {
		sum += o.droppedLines()
	}
	return sum
}

// acquire returns the output of a name, a new one when nobody uses it yet.
func (w *Writers) acquire(name string, open opener) *output {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.outputs[name]
	if o == nil {
		o = newOutput(name, open, w.log)
		w.outputs[name] = o
		w.waiting = append(w.waiting, o)
		signal(w.wake)
	}
	o.users++
	return o
}

// release ends an output that nobody uses any more.
func (w *Writers) release(o *output) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.users--; o.users == 0 {
		delete(w.outputs, o.name)
		w.past += o.droppedLines()
		close(o.unused)
	}
}

// signal notes something for whoever receives from a channel of one slot.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
