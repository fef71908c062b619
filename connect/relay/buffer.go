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
	// smallSize is what every direction may have, however short memory is: bytes
	// go on in small pieces then, and who limits connections has counted it.
	smallSize = 4 << 10
)

// Up to how full memory may be, in percent, a buffer is taken from it: bulk
// transfers do with less when others come to need it.
const (
	bulkPercent  = 75
	usualPercent = 100
)

// Memory is asked for all buffers but small ones. Take reports whether n bytes
// were taken, of which no more than percent of all are in use then; Give gives
// them back. Both are called for every piece that moves, from any goroutine.
type Memory interface {
	Take(n int64, percent int) bool
	Give(n int64)
}

// A buffer is borrowed for as long as bytes are on their way and by nobody that
// waits, so idle connections hold none.
type buffer struct {
	bytes []byte
	from  Memory // nil: nobody counts it
}

var (
	smallBuffers = sync.Pool{New: func() any { return newBuffer(smallSize) }}
	usualBuffers = sync.Pool{New: func() any { return newBuffer(usualSize) }}
	bulkBuffers  = sync.Pool{New: func() any { return newBuffer(bulkSize) }}
)

func newBuffer(size int) *buffer { return &buffer{bytes: make([]byte, size, size+recordsExtra)} }

// borrow returns a buffer of the usual size, or of bulk size, or a smaller one
// where memory has no more; a nil memory has always more.
func borrow(from Memory, bulk bool) *buffer {
	pool := &smallBuffers
	switch {
	case from == nil && bulk, bulk && from.Take(bulkSize, bulkPercent):
		pool = &bulkBuffers
	case from == nil, from.Take(usualSize, usualPercent):
		pool = &usualBuffers
	}
	b := pool.Get().(*buffer)
	b.from = from
	return b
}

// small reports whether it is one that nothing is taken for.
func (b *buffer) small() bool { return len(b.bytes) == smallSize }

func (b *buffer) giveBack() {
	from, size := b.from, len(b.bytes)
	b.from = nil
	switch size {
	case smallSize:
		smallBuffers.Put(b)
		return
	case usualSize:
		usualBuffers.Put(b)
	default:
		bulkBuffers.Put(b)
	}
	if from != nil {
		from.Give(int64(size))
	}
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
