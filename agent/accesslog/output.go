// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package accesslog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	flushAfter = time.Second // lines are written no later
	flushAt    = 64 << 10    // bytes that are written at once
	maxPending = 1 << 20     // bytes that wait; twice that with what is being written

	firstPause = time.Second // after a failure
	lastPause  = time.Minute
	sayEvery   = time.Minute // that lines were dropped
	farewell   = time.Second // for what is left in the end
)

// A sink takes bytes until its context ends. A write that failed tells how much
// was taken.
type sink interface {
	write(ctx context.Context, p []byte) (int, error)
	io.Closer
}

type opener func() (sink, error)

// A line is made when it is written, so that who serves does not wait for it.
type line interface {
	Append(dst []byte) []byte // the line with its end
	Size() int                // bytes of memory that it holds until then
	release()                 // it is not used any more
}

// An output is one file or stream. Lines are added by whoever serves, and written
// by run.
type output struct {
	name  string
	open  opener
	log   hclog.Logger
	users int // guarded by Writers.mu

	some   chan struct{} // one slot: there is something to write
	much   chan struct{} // one slot: there is so much that it is written now
	reopen chan struct{} // one slot
	unused chan struct{} // closed when there are no users

	mu      sync.Mutex
	pending []line
	size    int // of pending
	dropped uint64

	// Owned by run.
	to     sink   // nil: not open
	taken  []line // what comes after rest
	spare  []line // takes the place of pending
	buffer []byte // where rest is
	rest   []byte // what is being written
	torn   bool   // rest begins within a line
	pause  time.Duration
	said   uint64 // of dropped
	when   time.Time
	faulty time.Time // when a line that faulted was told of
}

func newOutput(name string, open opener, log hclog.Logger) *output {
	one := func() chan struct{} { return make(chan struct{}, 1) }
	return &output{name: name, open: open, log: log.With("to", name), some: one(), much: one(), reopen: one(), unused: make(chan struct{})}
}

// add takes a line, or drops it when too much waits.
func (o *output) add(l line) {
	size := l.Size()
	o.mu.Lock()
	before := o.size
	if before+size > maxPending {
		o.dropped++
		o.mu.Unlock()
		l.release()
		signal(o.some)
		return
	}
	o.pending = append(o.pending, l)
	o.size += size
	o.mu.Unlock()
	if before == 0 {
		signal(o.some)
	}
	if before < flushAt && before+size >= flushAt {
		signal(o.much)
	}
}

func (o *output) droppedLines() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}

// run writes until ctx ends or nobody uses the output.
func (o *output) run(ctx context.Context) {
	defer o.close()
	var due <-chan time.Time
	if !o.ready() { // at once, so that a wrong path is known before it matters
		due = time.After(o.pause)
	}
	for {
		select {
		case <-ctx.Done():
			o.finish(ctx)
			return
		case <-o.unused:
			o.finish(ctx)
			return
		case <-o.some:
			if due == nil {
				due = time.After(flushAfter)
			}
			continue
		case <-o.much:
			if o.pause > 0 {
				continue // it is tried again when it is due
			}
		case <-due:
		case <-o.reopen:
			o.renew(ctx)
		}
		due = nil
		if !o.flush(ctx) {
			due = time.After(o.pause)
		}
	}
}

// finish writes what is left, if it can be written at once.
func (o *output) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	for o.left() > 0 {
		if ctx.Err() != nil || !o.flush(ctx) {
			o.log.Warn("access log: the last lines were not written", "lines", o.left())
			return
		}
	}
}

// left is how many lines are not written.
func (o *output) left() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Count(o.rest, []byte{'\n'}) + len(o.taken) + len(o.pending)
}

// renew writes what is left to the file as it is and opens it again.
func (o *output) renew(ctx context.Context) {
	o.flush(ctx)
	o.close()
	if o.torn { // the line has begun in the other file
		_, o.rest, _ = bytes.Cut(o.rest, []byte{'\n'})
		o.torn = false
	}
	o.ready()
}

func (o *output) close() {
	if o.to == nil {
		return
	}
	if err := o.to.Close(); err != nil {
		o.log.Warn("access log was not closed in order", "error", err)
	}
	o.to = nil
}

// ready opens what is not open.
func (o *output) ready() bool {
	if o.to != nil {
		return true
	}
	to, err := o.open()
	if err != nil {
		o.failed(fmt.Errorf("open access log: %w", err))
		return false
	}
	o.to = to
	return true
}

// flush writes what is left over, then what waits. When that fails it returns
// false, and it is to be tried again after o.pause.
func (o *output) flush(ctx context.Context) bool {
	if !o.ready() {
		return false
	}
	for swapped := false; ; {
		if len(o.rest) == 0 && len(o.taken) == 0 {
			if swapped {
				o.recovered()
				return true
			}
			swapped = true
			o.swap()
		}
		if len(o.rest) == 0 {
			o.fill()
		}
		if !o.write(ctx) {
			return false
		}
	}
}

// swap takes what waits.
func (o *output) swap() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.taken, o.pending, o.size = o.pending, o.spare[:0], 0
	o.spare = o.taken
}

// fill makes some of the lines that were taken.
func (o *output) fill() {
	o.buffer = o.buffer[:0]
	for len(o.taken) > 0 && len(o.buffer) < flushAt {
		l := o.taken[0]
		o.taken[0], o.taken = nil, o.taken[1:]
		o.format(l)
		l.release()
	}
	o.rest = o.buffer
}

// format makes one line. What strangers have sent is in it: a fault costs that
// line only.
func (o *output) format(l line) {
	defer func() {
		if v := recover(); v != nil {
			o.mu.Lock()
			o.dropped++
			o.mu.Unlock()
			o.said++ // it is told of here
			if time.Since(o.faulty) >= sayEvery {
				o.faulty = time.Now()
				o.log.Error("access log: making a line panicked; it is left out, the rest goes on", "panic", v)
			}
		}
	}()
	o.buffer = l.Append(o.buffer)
}

func (o *output) write(ctx context.Context) bool {
	if len(o.rest) == 0 {
		return true
	}
	n, err := o.to.write(ctx, o.rest)
	if n > 0 {
		o.torn = o.rest[n-1] != '\n'
	}
	o.rest = o.rest[n:]
	if err != nil {
		o.failed(fmt.Errorf("write access log: %w", err))
	}
	return err == nil
}

// failed says what went wrong and has the next attempt wait, longer each time.
func (o *output) failed(err error) {
	o.pause = min(max(2*o.pause, firstPause), lastPause)
	o.log.Error("lines wait, and are dropped when there are too many; traffic goes on", "error", err, "again_in", o.pause, "dropped", o.droppedLines())
	o.said, o.when = o.droppedLines(), time.Now()
}

func (o *output) recovered() {
	dropped := o.droppedLines()
	if o.pause > 0 {
		o.pause = 0
		o.said, o.when = dropped, time.Now()
		o.log.Info("access log is written again", "dropped", dropped)
		return
	}
	if dropped > o.said && time.Since(o.when) >= sayEvery {
		o.log.Warn("access log: lines come faster than they can be written, and were dropped", "lines", dropped-o.said, "dropped", dropped)
		o.said, o.when = dropped, time.Now()
	}
}
