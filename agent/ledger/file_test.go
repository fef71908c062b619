// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
)

// journal is a log that several goroutines write to and read.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// kept is a ledger with a file, and what it logs.
func kept(t *testing.T, path string) (*Ledger, *journal) {
	t.Helper()
	log := &journal{}
	return New(Options{Path: path, Every: time.Minute, Logger: hclog.New(&hclog.LoggerOptions{Output: log})}), log
}

// run runs a ledger within a bubble until the function it returns is called.
func run(t *testing.T, l *Ledger) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func now(path string) *Ledger {
	l := New(Options{Path: path})
	l.load(at(1000))
	return l
}

func TestEdgesOutliveTheProcess(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "edges.json")
	synctest.Test(t, func(t *testing.T) {
		// The bubble's clock begins in 2000, so calls are of then.
		second := int(time.Now().Unix() - at(0).Unix())
		l, _ := kept(t, path)
		end := run(t, l)
		l.Done(request("web", "GET", "/users/1", second))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file after an interval: %v, %v", info, err)
		}
		l.Done(request("web", "GET", "/users/2", second+60))
		end()
		first := l.Edges()
		next, _ := kept(t, path)
		end = run(t, next)
		if diff := cmp.Diff(first, next.Edges()); diff != "" {
			t.Errorf("edges of the next process (-want +got):\n%s", diff)
		}
		next.Done(request("web", "GET", "/users/3", second+90))
		end()
		last := New(Options{Path: path})
		last.load(time.Now())
		if got := last.Edges().Edges; len(got) != 1 || got[0].Count != 3 {
			t.Errorf("edges in the end: %+v", got)
		}
	})
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) != 1 {
		t.Errorf("files left: %v, %v", names, err)
	}
}

func TestSuccessorHasTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "edges.json")
	old := now(path)
	old.Done(request("web", "GET", "/a", 1))
	if err := old.Cede(); err != nil {
		t.Fatal(err)
	}
	next := now(path)
	next.Done(request("web", "GET", "/b", 2))
	if err := next.Save(); err != nil {
		t.Fatal(err)
	}
	old.Done(request("web", "GET", "/c", 3))
	if err := old.Save(); err != nil {
		t.Fatal(err)
	}
	if got := len(now(path).Edges().Edges); got != 2 {
		t.Errorf("%d edges after the predecessor's end, want the successor's 2", got)
	}
	old.Resume()
	if err := old.Save(); err != nil {
		t.Fatal(err)
	}
	if got := now(path).Edges().Edges; len(got) != 2 || got[1].Path != "/c" {
		t.Errorf("edges after the successor failed: %v", got)
	}
}

func TestBrokenFileIsSetAside(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"torn": `{"Version":1,"Edges":[{"Dir`, "empty": "", "of another version": `{"Version":9}`,
		"with a direction of its own": `{"Version":1,"Edges":[{"Direction":"up","Source":"a","Destination":"b","Count":1}]}`,
		"with an order for terminals": `{"Version":1,"Edges":[{"Direction":"inbound","Source":"a\u001b[2J","Destination":"b","Count":1}]}`,
		"too large":                   strings.Repeat(" ", maxFile+1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "edges.json")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			l, log := kept(t, path)
			l.load(at(1000))
			l.Done(request("web", "GET", "/a", 1))
			if err := l.Save(); err != nil {
				t.Fatal(err)
			}
			if aside, err := os.ReadFile(path + ".broken"); err != nil || string(aside) != text {
				t.Errorf("set aside: %d bytes, %v", len(aside), err)
			}
			if strings.Count(log.String(), "starting anew") != 1 {
				t.Errorf("log: %s", log)
			}
			if got := len(now(path).Edges().Edges); got != 1 {
				t.Errorf("%d edges in the new file", got)
			}
		})
	}
}

func TestLinkIsNotFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "edges.json")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	l := now(path)
	l.Done(request("web", "GET", "/a", 1))
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(target); err != nil || string(text) != "precious" {
		t.Errorf("what the link led to: %q, %v", text, err)
	}
}

func TestFileThatCannotBeWrittenStopsNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gone", "edges.json")
	synctest.Test(t, func(t *testing.T) {
		l, log := kept(t, path)
		end := run(t, l)
		l.Done(request("web", "GET", "/a", 1))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := strings.Count(log.String(), "trying again"); got != 1 {
			t.Errorf("%d warnings, want one: %s", got, log)
		}
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, err := os.Stat(path); err != nil || !strings.Contains(log.String(), "written down again") {
			t.Errorf("the file: %v; log: %s", err, log)
		}
		end()
	})
}

func TestWithoutAFileNothingIsWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, _ := kept(t, "")
		end := run(t, l)
		l.Done(request("web", "GET", "/a", 1))
		if err := l.Save(); err != nil {
			t.Error(err)
		}
		end()
	})
}

// What was not seen for long is no need, and a wrong clock keeps nothing forever.
func TestOldEdgesAreForgotten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "edges.json")
	l := now(path)
	day := int((24 * time.Hour).Seconds())
	l.Done(request("web", "GET", "/old", 0))
	l.Done(request("web", "GET", "/new", 50*day))
	l.Done(request("web", "GET", "/future", 5000*day))
	if err := l.Save(); err != nil {
		t.Fatal(err)
	}
	next := New(Options{Path: path})
	next.load(at(100 * day))
	var got []string
	for _, e := range next.Edges().Edges {
		got = append(got, e.Path)
		if e.Last.After(at(100 * day)) {
			t.Errorf("%s was last seen at %s", e.Path, e.Last)
		}
	}
	if diff := cmp.Diff([]string{"/future", "/new"}, got); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
}

func TestBoundsHoldForWhatIsLoaded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "edges.json")
	old := now(path)
	for i := range maxPaths + 5 {
		old.Done(request("web", "GET", "/"+strings.Repeat("a", i%40+1)+"/"+strings.Repeat("b", i/40+1), i))
	}
	if err := old.Save(); err != nil {
		t.Fatal(err)
	}
	next := now(path)
	if diff := cmp.Diff(old.Edges(), next.Edges()); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
	for range 10 {
		next.Done(request("web", "GET", "/one/more", 1))
	}
	if a, b := len(old.Edges().Edges), len(next.Edges().Edges); a != b {
		t.Errorf("%d edges, want %d", b, a)
	}
}

func TestAnswerIsTheFile(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	l.Done(request("web", "GET", "/users/1", 1))
	w := httptest.NewRecorder()
	l.ServeHTTP(w, httptest.NewRequest("GET", "/v1/edges", nil))
	e, err := Parse(w.Body.Bytes())
	if err != nil || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("%v: %v", w.Header(), err)
	}
	if diff := cmp.Diff(l.Edges(), e); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
}

func TestFileOfAPersonIsExplained(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "x.json")
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(path, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil || !strings.Contains(err.Error(), "/v1/edges") {
		t.Errorf("wrong: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	l := New(Options{})
	l.Done(request("web", "GET", "/users/1", 1))
	text, err := json.Marshal(l.Edges())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"Version":1,"Forgotten":18446744073709551615,"Edges":[{"Direction":"outbound","Source":"a","Destination":"b","Method":"*","Path":"/**","Count":1}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := Parse(text)
		if err != nil {
			return
		}
		l := New(Options{})
		l.restore(e, at(0))
		if l.edges[0] > maxEdges || l.bytes[0] > maxBytes {
			t.Fatalf("%d edges, %d bytes", l.edges[0], l.bytes[0])
		}
		again, err := json.Marshal(l.Edges())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
	})
}
