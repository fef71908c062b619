// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package wire speaks HTTP/1.1 and HTTP/2 on connections that others have made:
// a server for accepted ones, and a pool of those to one endpoint. It knows
// nothing of routes, intentions or identities; whoever wants another HTTP
// engine replaces this package.
package wire

import (
	"bytes"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// counted is a connection that knows how much went over it, which tells a
// request that never reached the other side from one that may have. It hides
// TLS from net/http on purpose: the protocol is told by the first bytes then,
// whatever ALPN the peer sent or left out (RFC 9113, 3.3: prior knowledge).
type counted struct {
	net.Conn
	read, written atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n))
	return n, err
}

// served is an accepted connection. closed tells its owner that the server is
// done with it.
type served struct {
	net.Conn
	about  any
	once   sync.Once
	closed chan struct{}
	heard  bool   // its first bytes have been read, which net/http does before it writes
	frames *batch // how HTTP/2 is written; nil for HTTP/1
	// buffers are those of all connections of the server.
	buffers *batchBuffers
	leaving atomic.Pointer[time.Time] // when reading ends, whatever anybody sets
}

// parting is how long a client has to take the last response. What it sends
// meanwhile is read: a connection that is closed with something unread is reset,
// and the response with it (RFC 9112, 9.6).
const parting = time.Second

// leave ends a connection after its response.
func (s *served) leave() {
	end := time.Now().Add(parting)
	s.leaving.Store(&end)
	if w, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
	_ = s.Conn.SetReadDeadline(end)
}

// SetReadDeadline implements [net.Conn].
func (s *served) SetReadDeadline(t time.Time) error {
	if end := s.leaving.Load(); end != nil {
		t = *end
	}
	return s.Conn.SetReadDeadline(t)
}

// Read finds out what the client speaks: only the preface of HTTP/2 begins like
// this (RFC 9113, 3.4).
func (s *served) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if !s.heard && n > 0 {
		s.heard = true
		if bytes.HasPrefix(p[:n], []byte("PRI * HTTP/2")) {
			s.frames = newBatch(s.Conn, s.buffers)
		}
	}
	return n, err
}

func (s *served) Write(p []byte) (int, error) {
	if s.frames != nil {
		return s.frames.Write(p)
	}
	return s.Conn.Write(p)
}

func (s *served) Close() error {
	if s.frames != nil {
		s.frames.end()
	}
	err := s.Conn.Close()
	s.once.Do(func() { close(s.closed) })
	return err
}
