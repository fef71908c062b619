// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package relay moves bytes between two connections until both directions have
// ended. It knows nothing of who is connected or why.
package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options bound a relay in time and memory. Zero means no bound.
type Options struct {
	// Idle ends a relay over which no byte has moved in either direction for
	// between Idle and twice Idle.
	Idle time.Duration
	// HalfClosed takes Idle's place once one direction has ended, so that a
	// silent peer cannot pin a connection whose other side is gone.
	HalfClosed time.Duration
	// Memory is where buffers are taken from; nil means that they are not
	// counted.
	Memory Memory
}

// ErrIdle is the error of a relay that was ended for lack of traffic.
var ErrIdle = errors.New("no traffic for longer than the idle timeout")

// A Result says how a relay went.
type Result struct {
	Sent     int64 // bytes from the first connection to the second
	Received int64 // bytes from the second connection to the first
	// Err is nil when both directions ended in order.
	Err error
}

// Copy relays between a and b until both directions have ended, then closes
// both. When one direction reaches its end, the other connection's writing
// direction is closed and the rest goes on (half-close); when one fails, both
// are broken off, so that neither peer takes what it got for all there was (a
// unix socket has no way to say so). Closing a or b from outside ends Copy. A
// panic of either direction comes out of Copy.
func Copy(a, b Conn, opts Options) Result {
	a.lend(opts.Memory)
	b.lend(opts.Memory)
	r := &relay{a: a, b: b}
	stop := r.watchIdle(opts)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if r.fault = recover(); r.fault != nil {
				r.abort()
			}
		}()
		r.direction(b, a, &r.sent)
	}()
	r.direction(a, b, &r.received)
	<-done
	if r.fault != nil {
		panic(r.fault)
	}
	_, _ = a.Close(), b.Close()
	return Result{Sent: r.sent.Load(), Received: r.received.Load(), Err: r.err}
}

type relay struct {
	a, b           Conn
	sent, received atomic.Int64
	ended          atomic.Int32 // directions that have ended
	once           sync.Once
	err            error // written once, read after both directions have ended
	fault          any   // what the goroutine of Copy panicked with
}

// direction copies src to dst until src ends or either fails.
func (r *relay) direction(dst, src Conn, moved *atomic.Int64) {
	err := pump(dst, src, moved)
	r.ended.Add(1)
	if err == nil {
		// Only the writing side: src may still be written to by the other
		// direction. Closing a tls.Conn here would cut that direction too.
		err = ignoreClosed(dst.CloseWrite())
	}
	if err != nil {
		r.fail(err)
	}
}

func (r *relay) fail(err error) {
	r.once.Do(func() {
		r.err = err
		r.abort()
	})
}

func (r *relay) abort() {
	r.a.abort()
	r.b.abort()
}

// watchIdle compares byte counts from time to time, which costs the copy loops
// nothing; per-read deadlines would cost a timer update per record.
func (r *relay) watchIdle(opts Options) (stop func()) {
	if opts.Idle <= 0 && opts.HalfClosed <= 0 {
		return func() {}
	}
	w := &idleWatch{relay: r, opts: opts, last: -1}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(w.period(), w.check)
	return w.stop
}

type idleWatch struct {
	relay *relay
	opts  Options
	mu    sync.Mutex
	timer *time.Timer
	last  int64
	quiet time.Duration
	over  bool
}

// period is half the shorter bound, so that a half-close is noticed in time.
func (w *idleWatch) period() time.Duration {
	shorter := w.opts.Idle
	if shorter <= 0 || (w.opts.HalfClosed > 0 && w.opts.HalfClosed < shorter) {
		shorter = w.opts.HalfClosed
	}
	return max(shorter/2, time.Millisecond)
}

func (w *idleWatch) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	// The end of a direction counts as traffic: what was quiet before it says
	// nothing about how long the other side takes to answer it.
	if moved := w.relay.sent.Load() + w.relay.received.Load() + int64(w.relay.ended.Load()); moved != w.last {
		w.last, w.quiet = moved, 0
	} else {
		w.quiet += w.period()
	}
	limit := w.opts.Idle
	if w.relay.ended.Load() > 0 {
		limit = w.opts.HalfClosed
	}
	if limit > 0 && w.quiet >= limit {
		w.over = true
		w.relay.fail(ErrIdle)
		return
	}
	w.timer.Reset(w.period())
}

func (w *idleWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

// pump copies until the end of src, which is no error. io.Copy is not used: it
// would hold a buffer for as long as the connection idles.
func pump(dst, src Conn, moved *atomic.Int64) error {
	for {
		b, n, err := src.receive()
		if err != nil {
			return ignoreEOF(err)
		}
		err = dst.send(b.bytes[:n])
		b.giveBack()
		if err != nil {
			return err
		}
		moved.Add(int64(n))
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// ignoreClosed: the other side may have gone while we ended our direction.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
