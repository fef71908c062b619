// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package accesslog

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/access"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// A Log is the access log of one sidecar. It is a [flow.Sink].
type Log struct {
	writers *Writers
	log     hclog.Logger
	now     atomic.Pointer[destination] // nil: nothing is logged

	mu    sync.Mutex // guards what follows, and changes of now
	used  bool
	logs  connect.AccessLogs
	facts access.Facts
}

// A destination is where lines go, and in which form.
type destination struct {
	format *access.Format
	to     *output
}

// Open returns the log of a sidecar, which logs nothing before [Log.Use]. What is
// wrong with its configuration goes to log. It must be closed.
func (w *Writers) Open(log hclog.Logger) *Log { return &Log{writers: w, log: log} }

// Use makes logs the configuration from now on; a zero one means that of the
// options. It may be called with each snapshot: one that is no other changes
// nothing. facts.Hostname is set here.
func (l *Log) Use(logs connect.AccessLogs, facts access.Facts) {
	if !logs.Enabled {
		logs = l.writers.opts.Default
	}
	facts.Hostname = l.writers.opts.Hostname
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used && logs == l.logs && sameFacts(facts, l.facts) {
		return
	}
	l.used, l.logs, l.facts = true, logs, facts
	format, warnings := access.Compile(logs, facts)
	for _, warning := range warnings {
		l.log.Warn("access log: "+warning, "type", kind(logs))
	}
	if format == nil {
		l.replace(nil)
		return
	}
	to, err := l.writers.output(logs)
	if err != nil {
		l.log.Error("no access log is written", "error", err)
		l.replace(nil)
		return
	}
	l.replace(&destination{format, to})
}

func sameFacts(a, b access.Facts) bool {
	return a.Hostname == b.Hostname && a.Identity == b.Identity && slices.Equal(a.Secrets, b.Secrets)
}

// Close ends the log: records are not logged any more.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = false
	l.replace(nil)
}

// replace puts next into force, then lets go of the one before, so that one
// output of both stays open.
func (l *Log) replace(next *destination) {
	if before := l.now.Swap(next); before != nil {
		l.writers.release(before.to)
	}
}

// Done logs a record. It does not block.
func (l *Log) Done(r *flow.Record) {
	d := l.now.Load()
	if d == nil || !d.format.Wants(r) {
		return
	}
	e, ok := l.writers.entries.Get().(*entry)
	if !ok { // never: there is nothing else in it
		return
	}
	d.format.Take(&e.Entry, r)
	d.to.add(e)
}

// An entry goes back to where it comes from.
type entry struct {
	access.Entry

	from *sync.Pool
}

func (e *entry) release() {
	e.Clear()
	e.from.Put(e)
}

// kind is where lines go, in Consul's words.
func kind(logs connect.AccessLogs) connect.AccessLogType {
	if logs.Type == "" {
		return connect.AccessLogStdout
	}
	return logs.Type
}

// output acquires that of a configuration.
func (w *Writers) output(logs connect.AccessLogs) (*output, error) {
	stdout := func() (*output, error) { return w.acquire("stdout", stream(w.opts.Stdout)), nil }
	stderr := func() (*output, error) { return w.acquire("stderr", stream(w.opts.Stderr)), nil }
	switch kind(logs) {
	case connect.AccessLogStdout:
		return stdout()
	case connect.AccessLogStderr:
		return stderr()
	case connect.AccessLogFile:
	default:
		return nil, fmt.Errorf("access log of type %q: want stdout, stderr or file", logs.Type)
	}
	switch path := filepath.Clean(logs.Path); path {
	case "/dev/stdout":
		return stdout()
	case "/dev/stderr":
		return stderr()
	case "/dev/null":
		return nil, errors.New("access log to /dev/null")
	default:
		if err := w.admits(path); err != nil {
			return nil, err
		}
		return w.acquire(path, file(path)), nil
	}
}

// admits reports why there must be no access log at a path.
func (w *Writers) admits(path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("access log %q: the path must be absolute", path)
	}
	for _, dir := range w.opts.Directories {
		if rest, below := strings.CutPrefix(path, strings.TrimSuffix(filepath.Clean(dir), "/")+"/"); below && rest != "" {
			return nil
		}
	}
	return fmt.Errorf("access log %q is not below a directory for logs (%s): Consul may name a path there only; name another directory of this host in access_log { directories }",
		path, strings.Join(w.opts.Directories, ", "))
}
