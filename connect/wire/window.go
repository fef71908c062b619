// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"net"
	"sync"
)

// Memory is asked for what a peer of HTTP/2 may send ahead of whom it is for.
// Take reports whether n bytes were taken, of which no more than percent of all
// are in use then; Give gives them back. Both are called from any goroutine,
// once for a connection.
type Memory interface {
	Take(n int64, percent int) bool
	Give(n int64)
}

// A window is how many bytes a peer may send ahead (RFC 9113, 5.2): on all
// streams of a connection together, and on one of them.
type window struct {
	connection, stream int
	percent            int // up to how full memory may be for it
}

// windows are those of connections, the widest first. The last is the least that
// HTTP/2 has: nothing is taken for it, because a connection without a request
// has nothing to send ahead, and who counts requests counts it with them.
func windows() [windowSizes]window {
	return [windowSizes]window{
		{maxConnWindow, maxStreamWindow, 25},
		{256 << 10, 256 << 10, 50},
		{leastWindow, leastWindow, 100},
	}
}

const (
	windowSizes = 3
	leastWindow = 64 << 10
)

// widest takes the widest window that memory has room for. Its index is one of
// windows; release gives it back, once.
func widest(from Memory) (index int, release func()) {
	if from == nil {
		return 0, func() {}
	}
	for i, w := range windows() {
		n := int64(w.connection)
		if i < windowSizes-1 && from.Take(n, w.percent) {
			return i, sync.OnceFunc(func() { from.Give(n) })
		}
	}
	return windowSizes - 1, func() {}
}

// released is a connection that says when it is closed.
type released struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (r *released) Close() error {
	err := r.Conn.Close()
	r.release()
	return err
}
