// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// ErrTruncated is the error of a TLS connection whose TCP connection ended
// without TLS's own end. crypto/tls lets that pass for an orderly end, so that
// anyone on the path could cut a stream short unnoticed (RFC 8446 §6.1).
var ErrTruncated = errors.New("connection ended without a TLS close notification: it may be cut short")

// A TLS is a TLS connection as one side of a relay. It owns the connection
// under it.
type TLS struct {
	*tls.Conn
	wire *wire
	end  error // met after bytes that were still delivered
	// more says that TLS may have kept back a part of a record, which did not fit
	// into a small buffer and which await would not see.
	more bool
}

// TLSServer returns the server side of TLS over a TCP or unix connection.
func TLSServer(conn net.Conn, cfg *tls.Config) (*TLS, error) {
	w, err := newWire(conn)
	if err != nil {
		return nil, err
	}
	return &TLS{Conn: tls.Server(w, cfg), wire: w}, nil
}

// TLSClient returns the client side of TLS over a TCP or unix connection.
func TLSClient(conn net.Conn, cfg *tls.Config) (*TLS, error) {
	w, err := newWire(conn)
	if err != nil {
		return nil, err
	}
	return &TLS{Conn: tls.Client(w, cfg), wire: w}, nil
}

// Handshake runs the handshake; ctx bounds it.
func (t *TLS) Handshake(ctx context.Context) error { return t.HandshakeContext(ctx) }

// Heard reports whether the peer has sent anything at all. Handshake must have
// returned.
func (t *TLS) Heard() bool { return t.wire.heard }

// receive returns as many records as the last read from the descriptor brought,
// so that a fast sender's records leave in one write. The handshake must be over.
func (t *TLS) receive() (*buffer, int, error) {
	for t.end == nil {
		if !t.more {
			if err := t.wire.await(); err != nil {
				return nil, 0, err
			}
		}
		b := borrow(t.wire.in.memory, t.wire.in.pace.bulk())
		n, err := t.take(b)
		if errors.Is(err, errNothingYet) {
			err = nil
		}
		t.end, t.more = err, b.small() && n == len(b.bytes)
		if n > 0 {
			return b, n, nil
		}
		b.giveBack()
	}
	return nil, 0, t.end
}

// take reads what is there. It does not wait: neither may a peer that sends half
// a record pin a buffer, nor may bytes wait for what follows a record without
// any, such as a key update.
func (t *TLS) take(b *buffer) (n int, err error) {
	t.wire.impatient = true
	n, err = t.Read(b.bytes)
	// Only while a whole record fits: what TLS kept back, await would not see.
	for err == nil && len(b.bytes)-n >= maxPlaintext && t.wire.recordReady() {
		var m int
		m, err = t.Read(b.bytes[n:])
		n += m
	}
	t.wire.impatient = false
	return n, err
}

func (t *TLS) lend(from Memory) { t.wire.in.memory = from }

// abort ends the connection without TLS's own end.
func (t *TLS) abort() { _ = t.wire.Close() }

// errNothingYet takes TLS out of a read that would wait. TLS goes on later where
// it stopped, because the error says that it is temporary.
var errNothingYet net.Error = nothingYet{}

type nothingYet struct{}

func (nothingYet) Error() string   { return "no more bytes are there yet" }
func (nothingYet) Timeout() bool   { return true }
func (nothingYet) Temporary() bool { return true }

// send writes p as records that leave in one system call.
func (t *TLS) send(p []byte) error {
	if len(p) <= maxPlaintext {
		_, err := t.Write(p)
		return err
	}
	t.wire.cork(len(p) > usualSize)
	_, err := t.Write(p)
	return errors.Join(err, t.wire.uncork())
}

// Sizes of TLS records (RFC 8446 §5.1, §5.2).
const (
	recordHeader = 5
	maxPlaintext = 16 << 10
)

// wire is the connection under TLS. It reads the descriptor in large pieces and
// hands them up record by record: crypto/tls then never holds bytes of a record
// that it has not been asked for, so await knows when there is nothing to read.
type wire struct {
	stream
	in      *lazyReader
	held    *buffer // nil when empty
	unread  []byte  // of held
	header  [recordHeader]byte
	nheader int
	body    int // bytes left of the current record's body
	heard   bool
	// impatient makes reads return errNothingYet instead of waiting.
	impatient bool

	sending sync.Mutex // TLS answers key updates from its reading side
	corked  *buffer    // nil when not
	out     []byte     // of corked
}

func newWire(conn net.Conn) (*wire, error) {
	s, in, err := open(conn)
	if err != nil {
		return nil, err
	}
	return &wire{stream: s, in: in}, nil
}

// await returns when bytes of a record are there, holding no buffer meanwhile.
func (w *wire) await() error {
	if len(w.unread) > 0 {
		return nil
	}
	w.release()
	if w.impatient {
		return errNothingYet
	}
	b, n, err := w.in.read()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return ErrTruncated
		}
		return err
	}
	w.held, w.unread, w.heard = b, b.bytes[:n], true
	return nil
}

func (w *wire) release() {
	if w.held != nil {
		w.held.giveBack()
		w.held, w.unread = nil, nil
	}
}

// Read gives TLS at most the rest of one record's header or body.
func (w *wire) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := w.await(); err != nil {
		return 0, err
	}
	n := copy(p, w.unread[:min(w.restOfRecord(), len(w.unread))])
	w.advance(w.unread[:n])
	w.unread = w.unread[n:]
	if len(w.unread) == 0 {
		w.release()
	}
	return n, nil
}

// restOfRecord is how many bytes the current record still has, as far as is
// known: of a header that has not come whole, only the rest of the header.
func (w *wire) restOfRecord() int {
	if w.body > 0 {
		return w.body
	}
	if w.nheader > 0 || len(w.unread) < recordHeader {
		return recordHeader - w.nheader
	}
	return recordHeader + int(binary.BigEndian.Uint16(w.unread[3:]))
}

// advance follows the framing over bytes that were handed up.
func (w *wire) advance(b []byte) {
	if w.body == 0 {
		n := copy(w.header[w.nheader:], b)
		w.nheader += n
		if w.nheader < recordHeader {
			return
		}
		w.nheader = 0
		w.body = int(binary.BigEndian.Uint16(w.header[3:]))
		b = b[n:]
	}
	w.body -= len(b)
}

// recordReady reports whether a whole record can be read without waiting.
func (w *wire) recordReady() bool {
	if w.body > 0 || w.nheader > 0 || len(w.unread) < recordHeader {
		return false
	}
	return len(w.unread) >= recordHeader+int(binary.BigEndian.Uint16(w.unread[3:]))
}

// SetWriteDeadline does nothing. TLS sets one of five seconds for its farewell,
// after which an orderly end towards a peer that is merely slow would fail; the
// relay's own bounds end the wait for a peer that never reads.
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// cork keeps what TLS writes until uncork, unless memory is short; bulk says
// that it is more than the usual size.
func (w *wire) cork(bulk bool) {
	w.sending.Lock()
	defer w.sending.Unlock()
	b := borrow(w.in.memory, bulk)
	if b.small() {
		b.giveBack()
		return
	}
	w.corked = b
	w.out = w.corked.bytes[:0]
}

func (w *wire) uncork() error {
	w.sending.Lock()
	defer w.sending.Unlock()
	if w.corked == nil {
		return nil
	}
	_, err := w.stream.Write(w.out)
	w.corked.giveBack()
	w.out, w.corked = nil, nil
	return err
}

// Write is called by TLS with whole records.
func (w *wire) Write(p []byte) (int, error) {
	w.sending.Lock()
	defer w.sending.Unlock()
	if w.corked == nil {
		return w.stream.Write(p)
	}
	if len(w.out)+len(p) > cap(w.out) {
		if _, err := w.stream.Write(w.out); err != nil {
			return 0, err
		}
		w.out = w.out[:0]
	}
	w.out = append(w.out, p...)
	return len(p), nil
}
