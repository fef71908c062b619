// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Options of a server. Times of zero mean no bound, which no server that
// strangers reach should have.
type Options struct {
	// MaxHeader bounds the header of a request in bytes; more is answered with
	// 431.
	MaxHeader int
	// HeaderTimeout is the time from the first byte of a request to the end of
	// its header.
	HeaderTimeout time.Duration
	// Idle is how long a connection without a request is kept.
	Idle    time.Duration
	Handler http.Handler
	Log     hclog.Logger // of what net/http has to say, at level debug; nil means nowhere
}

// A Server serves HTTP on connections that are handed to it. Handlers find what
// was handed over with a connection through [About].
type Server struct {
	http     *http.Server
	handed   chan net.Conn
	closed   chan struct{}
	once     sync.Once
	draining atomic.Bool
	buffers  batchBuffers
}

// Bounds of what one HTTP/2 peer can make a server hold. Streams that a peer
// opens and resets at once count until their handler has ended, and net/http
// ends connections of peers that reset, ping or set too much.
const (
	maxStreams       = 250
	maxStreamWindow  = 1 << 20
	maxConnWindow    = 2 << 20
	minHeaderSettled = 4 << 10
)

type aboutKey struct{}

// About returns what was handed over with the connection of a request.
func About(ctx context.Context) any { return ctx.Value(aboutKey{}) }

// NewServer returns a server; nothing is served before Run.
func NewServer(o Options) *Server {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	s := &Server{handed: make(chan net.Conn), closed: make(chan struct{})}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           o.Handler,
		MaxHeaderBytes:    max(o.MaxHeader-minHeaderSettled, 1), // net/http adds as much
		ReadHeaderTimeout: o.HeaderTimeout,
		IdleTimeout:       o.Idle,
		Protocols:         protocols,
		ErrorLog:          o.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: maxConnWindow,
			MaxReceiveBufferPerStream:     maxStreamWindow,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, aboutKey{}, c.(*served).about)
		},
		// OPTIONS * is the application's to answer.
		DisableGeneralOptionsHandler: true,
	}
	return s
}

// Run accepts what is handed over until Close. Connections may go on after it.
func (s *Server) Run() error {
	if err := s.http.Serve((*handover)(s)); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Serve serves a connection, which it owns from then on, and returns when it
// has ended. Requests of it may still be in their handlers.
func (s *Server) Serve(conn net.Conn, about any) {
	c := &served{Conn: conn, about: about, closed: make(chan struct{}), buffers: &s.buffers}
	select {
	case s.handed <- c:
		<-c.closed
	case <-s.closed:
		_ = conn.Close()
	}
}

// Drain begins the end: from now on [Server.Draining] is true.
func (s *Server) Drain() { s.draining.Store(true) }

// Draining reports whether responses should tell their clients to come back on
// another connection: with Connection: close, which HTTP/2 turns into GOAWAY.
// Handlers set it, because only they know when the header goes out.
func (s *Server) Draining() bool { return s.draining.Load() }

// Shutdown ends connections that are idle at once, others as they become so.
// Call Drain some time before: a request that crosses the end of an idle
// connection fails.
func (s *Server) Shutdown(ctx context.Context) {
	s.Drain()
	s.stop()
	now, cancel := context.WithCancel(ctx)
	cancel() // net/http would wait for the others; whoever drains does that
	_ = s.http.Shutdown(now)
}

// Close cuts every connection.
func (s *Server) Close() {
	s.stop()
	_ = s.http.Close()
}

func (s *Server) stop() { s.once.Do(func() { close(s.closed) }) }

// handover is the server's queue as the listener that net/http wants.
type handover Server

func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.handed:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

func (h *handover) Close() error {
	(*Server)(h).stop()
	return nil
}

func (h *handover) Addr() net.Addr { return nowhere{} }

type nowhere struct{}

func (nowhere) Network() string { return "handover" }
func (nowhere) String() string  { return "handover" }
