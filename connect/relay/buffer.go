// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import "sync"

// Sizes of what one read may bring, in bytes. Most traffic is served by
// usualSize, four TLS records; a direction that keeps filling it is a bulk
// transfer, and bulkSize saves it three system calls of four.
const (
	usualSize = 64 << 10
	bulkSize  = 256 << 10
	// bulkAfter is how many reads in a row must fill usualSize first: 1 MiB.
	bulkAfter = 16
	// recordsExtra is what TLS adds to a full buffer: at most 29 bytes to each
	// record (RFC 8446 §5.2, RFC 5288 §3).
	recordsExtra = 1 << 10
)

// A buffer is borrowed for as long as bytes are on their way and by nobody that
// waits, so idle connections hold none.
type buffer struct{ bytes []byte }

var (
	usualBuffers = sync.Pool{New: func() any { return &buffer{make([]byte, usualSize, usualSize+recordsExtra)} }}
	bulkBuffers  = sync.Pool{New: func() any { return &buffer{make([]byte, bulkSize, bulkSize+recordsExtra)} }}
)

// borrow returns a buffer of the usual size, or of bulk size.
func borrow(bulk bool) *buffer {
	if bulk {
		return bulkBuffers.Get().(*buffer)
	}
	return usualBuffers.Get().(*buffer)
}

func (b *buffer) giveBack() {
	if len(b.bytes) == bulkSize {
		bulkBuffers.Put(b)
		return
	}
	usualBuffers.Put(b)
}

// A pace tells a bulk transfer from other traffic by what its reads bring.
type pace struct {
	full int // reads in a row that filled a buffer of the usual size
}

func (p *pace) bulk() bool { return p.full >= bulkAfter }

// saw takes note of a read of n bytes.
func (p *pace) saw(n int) {
	switch {
	case n < usualSize:
		p.full = 0
	case p.full < bulkAfter:
		p.full++
	}
}
