// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"net"
	"sync"
	"time"
)

// batch is the writing side of a connection of HTTP/2. net/http writes each
// frame that it flushes by itself; here they wait for the goroutine that writes,
// and all that has come while it did something else goes out at once: as one
// record of TLS and one system call instead of one for each frame. An idle
// connection writes without delay and holds no memory.
//
// Write returns before the bytes are on their way; an error of writing closes
// the connection and is returned from then on.
type batch struct {
	conn    net.Conn
	buffers *batchBuffers

	mu      sync.Mutex
	room    *sync.Cond // of mu: something was written, or writing has ended
	pending *batchBuffer
	writing bool
	err     error
}

const (
	// maxBatch bounds the bytes that wait; as many may be under way.
	maxBatch = 32 << 10
	// farewell is how long the end of a connection waits for bytes that were
	// written before it, which a socket takes at once unless its peer is stuck.
	farewell = 10 * time.Millisecond
)

type batchBuffer struct {
	n     int
	bytes [maxBatch]byte
}

// batchBuffers are those that no connection uses.
type batchBuffers struct{ pool sync.Pool }

func (b *batchBuffers) get() *batchBuffer {
	if v, ok := b.pool.Get().(*batchBuffer); ok {
		return v
	}
	return new(batchBuffer)
}

func (b *batchBuffers) put(v *batchBuffer) {
	v.n = 0
	b.pool.Put(v)
}

func newBatch(conn net.Conn, buffers *batchBuffers) *batch {
	b := &batch{conn: conn, buffers: buffers}
	b.room = sync.NewCond(&b.mu)
	return b
}

func (b *batch) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && b.full(len(p)) {
		b.room.Wait()
	}
	if b.err != nil {
		return 0, b.err
	}
	if len(p) > maxBatch {
		b.writing = true
		n, err := b.flush(p)
		b.done()
		return n, err
	}
	if b.pending == nil {
		b.pending = b.buffers.get()
	}
	b.pending.n += copy(b.pending.bytes[b.pending.n:], p)
	if !b.writing {
		b.writing = true
		go b.run()
	}
	return len(p), nil
}

// full reports whether n more bytes have to wait. What is too much for a buffer
// has to wait until all before it is gone, and goes out alone.
func (b *batch) full(n int) bool {
	if n > maxBatch {
		return b.writing
	}
	return b.pending != nil && b.pending.n+n > maxBatch
}

// run writes until nothing is left.
func (b *batch) run() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.pending != nil {
		out := b.pending
		b.pending = nil
		if b.err == nil {
			_, _ = b.flush(out.bytes[:out.n]) // kept for the next Write
		}
		b.buffers.put(out)
	}
	b.done()
}

// flush writes without the lock, which it takes back.
func (b *batch) flush(p []byte) (int, error) {
	b.mu.Unlock()
	n, err := b.conn.Write(p)
	b.mu.Lock()
	if err != nil && b.err == nil {
		b.err = err
		_ = b.conn.Close() // so that whoever reads learns it too
	}
	b.room.Broadcast()
	return n, err
}

func (b *batch) done() {
	b.writing = false
	if b.pending != nil && b.err == nil {
		// It came while somebody wrote what was too much to be kept.
		b.writing = true
		go b.run()
		return
	}
	b.room.Broadcast()
}

// end lets what was written go out, within a moment, and admits no more.
func (b *batch) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.writing && b.err == nil {
		_ = b.conn.SetWriteDeadline(time.Now().Add(farewell)) // fails on a closed one only
	}
	for b.writing {
		b.room.Wait()
	}
	if b.err == nil {
		b.err = net.ErrClosed
	}
}

// batched is a connection that is written to in batches.
type batched struct {
	net.Conn
	out *batch
}

func (b *batched) Write(p []byte) (int, error) { return b.out.Write(p) }

func (b *batched) Close() error {
	b.out.end()
	return b.Conn.Close()
}
