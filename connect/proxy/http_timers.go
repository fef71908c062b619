// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"sync"
	"time"
)

// timers end an exchange that takes too long. Zero durations never do. Safe for
// concurrent use: a request's body is read and its response written at once.
type timers struct {
	mu     sync.Mutex
	total  *time.Timer
	quiet  *time.Timer
	idle   time.Duration
	over   bool
	cancel context.CancelCauseFunc
	limit  time.Duration
}

// start begins to watch for silence. The total time runs from when the request
// has come whole (see whole), as with Envoy: a stream that goes on both ways
// has no total time.
func (t *timers) start(limit, idle time.Duration, cancel context.CancelCauseFunc) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit, t.idle, t.cancel = limit, idle, cancel
	if idle > 0 && !t.over {
		t.quiet = time.AfterFunc(idle, func() { cancel(errIdleTimeout) })
	}
}

// whole says that the request has come to its end.
func (t *timers) whole() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.total != nil || t.limit <= 0 {
		return
	}
	cancel := t.cancel
	t.total = time.AfterFunc(t.limit, func() { cancel(errRequestTimeout) })
}

// touch says that bytes went over.
func (t *timers) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.quiet != nil && !t.over {
		t.quiet.Reset(t.idle)
	}
}

// deadline bounds the request from now on, whole or not.
func (t *timers) deadline(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	cancel := t.cancel
	if t.total == nil || t.limit > d {
		if t.total != nil {
			t.total.Stop()
		}
		t.limit = d
		t.total = time.AfterFunc(d, func() { cancel(errRequestTimeout) })
	}
}

func (t *timers) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.total != nil {
		t.total.Stop()
	}
	if t.quiet != nil {
		t.quiet.Stop()
	}
}
