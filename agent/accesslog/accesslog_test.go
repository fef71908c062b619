// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package accesslog

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/access"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// started runs writers; end ends them and waits.
func started(t *testing.T, o Options) (w *Writers, end func()) {
	t.Helper()
	if o.Logger == nil {
		o.Logger = hclog.New(&hclog.LoggerOptions{Output: t.Output()})
	}
	w = New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return w, end
}

func request(path string) *flow.Record {
	return &flow.Record{Kind: flow.Request, Path: path, Method: "GET", Service: "api", Start: time.Unix(1, 0)}
}

func toFile(path string) connect.AccessLogs {
	return connect.AccessLogs{Enabled: true, Type: connect.AccessLogFile, Path: path, TextFormat: "%REQ(:PATH)%"}
}

// eventually waits for the content of a file.
func eventually(t *testing.T, path, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		got, err := os.ReadFile(path)
		if string(got) == want {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s holds %q, want %q: %v", path, got, want, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestSidecarsShareAFileWhichIsReopenedAfterItWasRenamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "access.log")
	w, end := started(t, Options{Directories: []string{dir}})
	one, two := w.Open(w.log), w.Open(w.log)
	one.Use(toFile(path), access.Facts{})
	two.Use(toFile(path), access.Facts{})
	if len(w.outputs) != 1 {
		t.Errorf("%d outputs", len(w.outputs))
	}
	one.Done(request("/1"))
	two.Done(request("/2"))
	eventually(t, path, "/1\n/2\n")
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v: %v", info.Mode(), err)
	}
	one.Close()
	one.Done(request("/not"))
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	two.Done(request("/3"))
	w.Reopen()
	eventually(t, path, "")
	eventually(t, path+".1", "/1\n/2\n/3\n")
	two.Done(request("/4"))
	end()
	eventually(t, path, "/4\n")
	two.Close()
	if len(w.outputs) != 0 {
		t.Errorf("%d outputs are kept", len(w.outputs))
	}
}

func TestAnOutputThatNobodyUsesIsWrittenAndClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, _ := started(t, Options{Directories: []string{dir}})
	l := w.Open(w.log)
	l.Use(toFile(dir+"/a"), access.Facts{})
	l.Done(request("/a"))
	l.Use(toFile(dir+"/b"), access.Facts{})
	l.Done(request("/b"))
	eventually(t, dir+"/a", "/a\n") // at once, not after a second
	l.Use(connect.AccessLogs{}, access.Facts{})
	l.Done(request("/none"))
	eventually(t, dir+"/b", "/b\n")
}

func TestTheSameConfigurationChangesNothing(t *testing.T) {
	t.Parallel()
	log, said := journal()
	w := New(Options{Logger: log, Stdout: &bytes.Buffer{}})
	l := w.Open(log)
	logs := connect.AccessLogs{Enabled: true, TextFormat: "%NO_SUCH%"}
	for range 3 {
		l.Use(logs, access.Facts{Secrets: []string{"x"}})
	}
	if n := strings.Count(said.String(), "NO_SUCH"); n != 1 {
		t.Errorf("warned %d times: %s", n, said)
	}
	before := l.now.Load()
	l.Use(logs, access.Facts{Secrets: []string{"y"}})
	if l.now.Load() == before || l.now.Load().to != before.to {
		t.Error("other facts make another format for the same output")
	}
}

func TestTheDefaultIsForThoseOfWhomConsulAsksNothing(t *testing.T) {
	t.Parallel()
	var stdout, stderr bytes.Buffer
	w, end := started(t, Options{
		Stdout: &stdout, Stderr: &stderr, Hostname: "vm-1",
		Default: connect.AccessLogs{Enabled: true, Type: connect.AccessLogStderr, TextFormat: "%HOSTNAME%"},
	})
	l := w.Open(w.log)
	l.Use(connect.AccessLogs{TextFormat: "ignored"}, access.Facts{})
	l.Done(request("/"))
	l.Use(connect.AccessLogs{Enabled: true}, access.Facts{})
	l.Done(request("/json"))
	end()
	var fields map[string]any
	if err := json.Unmarshal(stdout.Bytes(), &fields); err != nil || fields["path"] != "/json" {
		t.Errorf("stdout %q: %v", &stdout, err)
	}
	if stderr.String() != "vm-1\n" {
		t.Errorf("stderr %q", &stderr)
	}
}

func TestConsulMayNamePathsForLogsOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		logs connect.AccessLogs
		want string // "" for an output of that name
	}{
		"below":               {toFile(dir + "/sub/a.log"), ""},
		"another directory":   {toFile("/etc/cron.d/x"), "is not below a directory for logs"},
		"out again":           {toFile(dir + "/../x"), "is not below a directory for logs"},
		"the directory":       {toFile(dir + "/"), "is not below a directory for logs"},
		"the same beginning":  {toFile(dir + "x/a"), "is not below a directory for logs"},
		"a relative path":     {toFile("a.log"), "must be absolute"},
		"no path":             {toFile(""), "must be absolute"},
		"nowhere":             {toFile("/dev/null"), "/dev/null"},
		"stdout as a file":    {toFile("/dev/stdout"), ""},
		"stderr as a file":    {toFile("/dev/stderr"), ""},
		"a type of tomorrow":  {connect.AccessLogs{Enabled: true, Type: "syslog"}, `want stdout, stderr or file`},
		"path without a file": {connect.AccessLogs{Enabled: true, Type: "stderr", Path: "/x"}, ""},
	} {
		log, said := journal()
		w := New(Options{Logger: log, Directories: []string{dir}, Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}})
		l := w.Open(log)
		l.Use(tc.logs, access.Facts{})
		if ok := l.now.Load() != nil; ok != (tc.want == "") || !strings.Contains(said.String(), tc.want) {
			t.Errorf("%s: logs %t, said %q", name, ok, said)
		}
		l.Done(request("/")) // whatever it is, it harms nobody
	}
	own := New(Options{Logger: hclog.NewNullLogger(), Directories: []string{dir}, Default: toFile("/srv/own/a.log")})
	if own.admits("/srv/own/b.log") != nil || own.admits("/srv/b.log") == nil {
		t.Errorf("the directory of the default: %q", own.opts.Directories)
	}
	got := DefaultDirectories(func(name string) string {
		return map[string]string{"LOGS_DIRECTORY": "/var/log/a:/var/log/b", "NOMAD_TASK_DIR": "/task", "NOMAD_ALLOC_DIR": "/./", "TMPDIR": "relative"}[name]
	})
	if diff := cmp.Diff([]string{"/var/log", "/tmp", "/task", "/var/log/a", "/var/log/b"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestAStreamThatNobodyReadsHoldsUpNothing(t *testing.T) {
	t.Parallel()
	r, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), stdout.Close() })
	dir := t.TempDir()
	w, end := started(t, Options{Stdout: stdout, Directories: []string{dir}})
	stuck, free := w.Open(w.log), w.Open(w.log)
	stuck.Use(connect.AccessLogs{Enabled: true}, access.Facts{})
	free.Use(toFile(dir+"/free"), access.Facts{})
	for range 10 * maxPending / 500 {
		stuck.Done(request("/"))
	}
	free.Done(request("/free"))
	eventually(t, dir+"/free", "/free\n")
	dropped := w.Dropped()
	stuck.Close()
	if dropped == 0 || w.Dropped() != dropped {
		t.Errorf("%d lines were dropped, and %d when the log was closed", dropped, w.Dropped())
	}
	began := time.Now()
	end()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
	if err := stdout.Close(); err != nil {
		t.Errorf("the stream was closed: %v", err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(got.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("torn line %q", line)
		}
	}
}

func TestAReaderThatIsGoneIsAnError(t *testing.T) {
	t.Parallel()
	r, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stdout.Close() })
	_ = r.Close()
	log, said := journal()
	w, end := started(t, Options{Stdout: stdout, Logger: log})
	l := w.Open(log)
	l.Use(connect.AccessLogs{Enabled: true}, access.Facts{})
	l.Done(request("/"))
	end()
	if !strings.Contains(said.String(), "broken pipe") {
		t.Errorf("said %s", said)
	}
}

func TestPiecesAreWholeLines(t *testing.T) {
	t.Parallel()
	var pieces []string
	s := shared{Writer: writerFunc(func(p []byte) { pieces = append(pieces, string(p)) }), ready: func(context.Context) error { return nil }}
	long := strings.Repeat("l", 5000) + "\n"
	all := strings.Repeat("x", 3000) + "\n" + strings.Repeat("y", 3000) + "\n" + long + "z\n"
	if n, err := s.write(t.Context(), []byte(all)); n != len(all) || err != nil {
		t.Fatal(n, err)
	}
	if strings.Join(pieces, "") != all {
		t.Error("bytes got lost")
	}
	if want := []string{all[:3001], all[3001:6002], long[:4096], long[4096:] + "z\n"}; !slices.Equal(pieces, want) {
		t.Errorf("%d pieces", len(pieces))
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

func BenchmarkDone(b *testing.B) {
	w := New(Options{Logger: hclog.NewNullLogger(), Stdout: &bytes.Buffer{}})
	l := w.Open(w.log)
	l.Use(connect.AccessLogs{Enabled: true}, access.Facts{})
	r := request("/")
	to := l.now.Load().to
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Done(r)
			to.mu.Lock()
			if to.size > flushAt {
				for _, waiting := range to.pending {
					waiting.release()
				}
				to.pending, to.size = to.pending[:0], 0
			}
			to.mu.Unlock()
		}
	})
}
