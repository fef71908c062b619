// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"sync"
	"time"
)

// timers end an exchange that takes too long. Zero durations never do. Safe for
// concurrent use: a request's body is read and its response written at once.
type timers struct {
	mu    sync.Mutex
	total *time.Timer // by the route; runs once the request has come whole
	due   *time.Timer // by what the caller has said; runs from the start
	quiet *time.Timer
	idle  time.Duration
	limit time.Duration
	over  bool
	end   func(error)
}

// start begins to watch for silence. The total time runs from when the request
// has come whole (see whole), as with Envoy: a stream that goes on both ways
// has no total time.
func (t *timers) start(limit, idle time.Duration, end func(error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit, t.idle, t.end = limit, idle, end
	if idle > 0 && !t.over {
		t.quiet = t.after(idle, errIdleTimeout)
	}
}

// after ends the exchange unless it is over by then.
func (t *timers) after(d time.Duration, cause error) *time.Timer {
	return time.AfterFunc(d, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if !t.over {
			t.end(cause)
		}
	})
}

// whole says that the request has come to its end.
func (t *timers) whole() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.total != nil || t.limit <= 0 {
		return
	}
	t.total = t.after(t.limit, errRequestTimeout)
}

// touch says that bytes went over.
func (t *timers) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.quiet != nil && !t.over {
		t.quiet.Reset(t.idle)
	}
}

// deadline bounds the request from now on, whole or not, and beside the route's
// own time: what a caller says only ever shortens it.
func (t *timers) deadline(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.due = t.after(d, errCallerDeadline)
	}
}

// lift ends all bounds but that on silence.
func (t *timers) lift() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = 0
	for _, timer := range []*time.Timer{t.total, t.due} {
		if timer != nil {
			timer.Stop()
		}
	}
}

func (t *timers) stop() {
	t.lift()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	if t.quiet != nil {
		t.quiet.Stop()
	}
}
