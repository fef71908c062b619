// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// A Conn is one side of a relay: a [Plain] or a [TLS] connection.
type Conn interface {
	// receive waits without a buffer until bytes are there, then returns a
	// borrowed buffer that holds n of them; with an error it returns none.
	receive() (b *buffer, n int, err error)
	// send writes all of p.
	send(p []byte) error
	// CloseWrite ends the writing direction: the peer sees the end of the
	// stream and can go on sending.
	CloseWrite() error
	Close() error
	// abort closes at once, and not so that the peer takes it for an orderly
	// end where the transport can tell the two apart.
	abort()
	// lend says whom buffers are taken from; it comes before any receive or send.
	lend(from Memory)
}

// stream is what a TCP and a unix connection have in common.
type stream interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// A Plain is a TCP or unix connection without TLS. It owns the connection.
type Plain struct {
	stream
	in *lazyReader
}

// NewPlain returns the relay side of a TCP or unix stream connection; any other
// kind is an error.
func NewPlain(conn net.Conn) (*Plain, error) {
	s, in, err := open(conn)
	if err != nil {
		return nil, err
	}
	return &Plain{stream: s, in: in}, nil
}

func open(conn net.Conn) (stream, *lazyReader, error) {
	s, ok := conn.(stream)
	if !ok {
		return nil, nil, fmt.Errorf("relay: a %T cannot be relayed: it has no descriptor or no half-close", conn)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("relay: %w", err)
	}
	in := &lazyReader{raw: raw}
	in.try = in.attempt // bound once: a method value allocates
	return s, in, nil
}

func (p *Plain) receive() (*buffer, int, error) { return p.in.read() }

func (p *Plain) lend(from Memory) { p.in.memory = from }

// abort resets a TCP connection: an ordinary close would look like the end of
// the stream to an application that knows no other sign of it.
func (p *Plain) abort() {
	if tcp, ok := p.stream.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails on a closed connection only
	}
	_ = p.Close()
}

func (p *Plain) send(b []byte) error {
	_, err := p.Write(b)
	return err
}

// lazyReader reads into a buffer that it borrows only when bytes are there. The
// runtime's poller calls attempt again when the descriptor becomes readable;
// this costs no more system calls than an ordinary read.
type lazyReader struct {
	raw  syscall.RawConn
	pace pace
	// memory is nil during a handshake, which holds no buffer while it waits.
	memory Memory
	try    func(fd uintptr) bool
	got    *buffer
	n      int
	err    error
}

func (l *lazyReader) read() (*buffer, int, error) {
	l.got, l.n, l.err = nil, 0, nil
	if err := l.raw.Read(l.try); err != nil {
		return nil, 0, err
	}
	return l.got, l.n, l.err
}

// attempt reports false to wait for the descriptor.
func (l *lazyReader) attempt(fd uintptr) bool {
	b := borrow(l.memory, l.pace.bulk())
	n, err := readRetry(int(fd), b.bytes)
	switch {
	case errors.Is(err, syscall.EAGAIN):
		b.giveBack()
		return false
	case err == nil && n > 0:
		l.got, l.n = b, n
		l.pace.saw(n)
		return true
	case err == nil:
		err = io.EOF
	}
	b.giveBack()
	l.err = err
	return true
}

func readRetry(fd int, p []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, p)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
