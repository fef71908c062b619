// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"strings"
)

// A traceID and a spanID are those of W3C Trace Context; zero is none.
type (
	traceID [16]byte
	spanID  [8]byte
)

// newTraceID and newSpanID draw numbers that are no secret: they must differ,
// that is all.
func newTraceID() (id traceID) {
	for id == (traceID{}) {
		binary.BigEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // no secret
		binary.BigEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // no secret
	}
	return id
}

func newSpanID() (id spanID) {
	for id == (spanID{}) {
		binary.BigEndian.PutUint64(id[:], rand.Uint64()) //nolint:gosec // no secret
	}
	return id
}

// A decision is what whoever came before says about sampling.
type decision uint8

const (
	undecided decision = iota
	sampled
	unsampled
)

// flagSampled is the bit of trace-flags that says that the caller records;
// flagRandom that the trace ID is random (W3C Trace Context, levels 1 and 2).
const (
	flagSampled = 1
	flagRandom  = 2
)

// An origin is what a request's header says about the trace that it belongs to.
// The zero value is none.
type origin struct {
	trace    traceID // zero when the request begins a trace
	parent   spanID
	decision decision
	random   byte   // flagRandom or 0
	debug    bool   // B3's: sampled whatever anybody thinks
	state    string // tracestate, checked
	forms    forms  // that the header has in it, well-formed or not
	from     forms  // the one that was believed
}

// text writes a traceparent. The IDs are at fixed places in it.
func text(trace traceID, span spanID, flags byte) string {
	var b [textLength]byte
	copy(b[:], "00-")
	hex.Encode(b[traceAt:traceEnd], trace[:])
	b[traceEnd] = '-'
	hex.Encode(b[spanAt:spanEnd], span[:])
	b[spanEnd] = '-'
	hex.Encode(b[spanEnd+1:], []byte{flags})
	return string(b[:])
}

const (
	traceAt, traceEnd = 3, 35
	spanAt, spanEnd   = 36, 52
	textLength        = 55
)

// readText reads a traceparent (W3C Trace Context, 3.2.2): lower case only, no
// zero IDs, version 00 of exactly this length, later ones with more behind it.
func readText(s string) (trace traceID, span spanID, flags byte, ok bool) {
	if len(s) < textLength || s[2] != '-' || s[traceEnd] != '-' || s[spanEnd] != '-' {
		return trace, span, 0, false
	}
	var version, last [1]byte
	ok = readHex(version[:], s[:2]) && readHex(trace[:], s[traceAt:traceEnd]) &&
		readHex(span[:], s[spanAt:spanEnd]) && readHex(last[:], s[spanEnd+1:textLength])
	switch {
	case !ok, version[0] == 0xff, trace == (traceID{}), span == (spanID{}):
		return traceID{}, spanID{}, 0, false
	case len(s) > textLength && (version[0] == 0 || s[textLength] != '-'):
		return traceID{}, spanID{}, 0, false
	}
	return trace, span, last[0], true
}

// readHex reads lower-case digits that fill into exactly.
func readHex(into []byte, s string) bool {
	if len(s) != 2*len(into) {
		return false
	}
	for i := range into {
		high, low := digit(s[2*i]), digit(s[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		into[i] = high<<4 | low
	}
	return true
}

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

// readB3 reads the IDs of B3, where trace IDs may have half the length, and
// letters either case.
func readB3(trace, span string) (t traceID, s spanID, ok bool) {
	if len(trace) > 32 || len(span) > 16 {
		return t, s, false
	}
	trace, span = strings.ToLower(trace), strings.ToLower(span)
	if len(trace) == 16 {
		ok = readHex(t[8:], trace)
	} else {
		ok = readHex(t[:], trace)
	}
	if !ok || !readHex(s[:], span) || t == (traceID{}) || s == (spanID{}) {
		return traceID{}, spanID{}, false
	}
	return t, s, true
}
