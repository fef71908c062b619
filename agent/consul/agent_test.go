// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// An agent answers as a Consul agent would: each path has one answer at a time,
// and a query with the current index blocks until the answer is replaced.
type agent struct {
	server *httptest.Server

	mu      sync.Mutex
	answers map[string]http.HandlerFunc
	index   uint64
	changed chan struct{}
	seen    []*http.Request
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{answers: make(map[string]http.HandlerFunc), index: 10, changed: make(chan struct{})}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

// answer replaces what a path says and wakes everybody who waits.
func (a *agent) answer(path string, h http.HandlerFunc) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[path] = h
	a.index++
	close(a.changed)
	a.changed = make(chan struct{})
}

// rewind makes the index go backwards, as after a restore.
func (a *agent) rewind(to uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index = to
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.seen = append(a.seen, r)
	if index := r.URL.Query().Get("index"); index != "" && index == number64(a.index) {
		changed := a.changed
		a.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		a.mu.Lock()
	}
	h := a.answers[r.URL.Path]
	w.Header().Set("X-Consul-Index", number64(a.index))
	a.mu.Unlock()
	if h == nil {
		http.Error(w, "no such thing", http.StatusNotFound)
		return
	}
	h(w, r)
}

func number64(n uint64) string { return strconv.FormatUint(n, 10) }

// requests returns what was asked so far for a path.
func (a *agent) requests(path string) []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []*http.Request
	for _, r := range a.seen {
		if r.URL.Path == path {
			found = append(found, r)
		}
	}
	return found
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
}

func fails(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, code) }
}

// client returns a client of the agent that tries again within milliseconds.
func (a *agent) client(t *testing.T, edit func(*Config)) *Client {
	t.Helper()
	cfg := Config{Address: a.server.URL}
	if edit != nil {
		edit(&cfg)
	}
	c, err := NewClient(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	c.pace.MinGap, c.pace.BackoffBase, c.pace.BackoffLimit = time.Millisecond, time.Millisecond, 10*time.Millisecond
	t.Cleanup(c.http.CloseIdleConnections)
	return c
}

// background runs f until the test ends and waits for it.
func background(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// receive waits for a value; a test that waits for long has failed.
func receive[V any](t *testing.T, values <-chan V) V {
	t.Helper()
	select {
	case v := <-values:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("never: %s", what)
		}
	}
}
