// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/outrider-mesh/outrider/connect/flow"
)

// An Entry is what one line says, taken from a record that need not be kept. The
// line is made of it later: whoever served is not held up by that, and many lines
// one after the other take a third of the time that each takes between requests.
// The zero value is empty.
type Entry struct {
	format *Format
	record flow.Record // without headers
	early  []byte      // what the parts that need the header have yielded, see take
}

// Take makes the entry that of a record. Headers may change afterwards, so that
// what the format asks of them is taken now. Memory of the entry is used again.
func (f *Format) Take(e *Entry, r *flow.Record) {
	tries, early := e.record.Tries[:0], e.early[:0]
	e.format, e.record = f, *r
	e.record.Tries = append(tries, r.Tries...)
	for _, i := range f.early {
		early = take(early, f.parts[i].ask, r)
	}
	e.early = early
	e.record.RequestHeader, e.record.ResponseHeader = nil, nil
}

// Append appends the line, with its end, and returns the extended buffer. A value
// is cut at 4 KiB.
func (e *Entry) Append(dst []byte) []byte {
	early := e.early
	for i := range e.format.parts {
		dst, early = e.format.parts[i].append(dst, &e.record, early)
	}
	return append(dst, '\n')
}

// Size is about how many bytes of memory the entry holds.
func (e *Entry) Size() int {
	const itself = 1 << 10
	r := &e.record
	n := itself + cap(e.early) + len(r.Method) + len(r.Authority) + len(r.Path) + len(r.OriginalPath) + len(r.Why)
	for i := range r.Tries {
		n += len(r.Tries[i].Error)
	}
	return n
}

// Clear lets go of what the record held, and keeps memory for the next one unless
// that is much.
func (e *Entry) Clear() {
	const most = 16 << 10
	if cap(e.early) > most {
		e.early = nil
	}
	tries := e.record.Tries
	clear(tries)
	e.format, e.record = nil, flow.Record{Tries: tries[:0]}
}

// mark is what precedes a value that was taken early: its length and one, or zero
// when there is none.
const mark = 2

// take appends what ask yields, as far as a line can show it.
func take(early []byte, ask ask, r *flow.Record) []byte {
	at := len(early)
	early, known := ask(append(early, 0, 0), r)
	if !known {
		return early[:at+mark]
	}
	// A character more than is shown: that there was more is shown too.
	if most := at + mark + maxValue + utf8.UTFMax; len(early) > most {
		early = early[:most]
	}
	binary.LittleEndian.PutUint16(early[at:], uint16(len(early)-at-mark+1)) //nolint:gosec // bounded above
	return early
}

// next appends the first value of what was taken, and returns those after it.
func next(dst, early []byte) (_, rest []byte, known bool) {
	n := int(binary.LittleEndian.Uint16(early))
	early = early[mark:]
	if n == 0 {
		return dst, early, false
	}
	return append(dst, early[:n-1]...), early[n-1:], true
}
