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
	// Spent reports whether a connection of HTTP/1, known by what was handed over
	// with it, must not take another request: it is closed then, once the response
	// has been sent. nil means that none is.
	Spent func(about any) bool
	// Memory has the room for what clients of HTTP/2 send ahead; nil means any
	// amount.
	Memory Memory
	Log    hclog.Logger // of what net/http has to say, at level debug; nil means nowhere
}

// A Server serves HTTP on connections that are handed to it. Handlers find what
// was handed over with a connection through [About].
type Server struct {
	queues   [windowSizes]queue
	memory   Memory
	closed   chan struct{}
	once     sync.Once
	draining atomic.Bool
	buffers  batchBuffers
}

// A queue is where connections with windows of one size wait for their server,
// as the listener that net/http wants.
type queue struct {
	http   *http.Server
	handed chan net.Conn
	s      *Server
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
	s := &Server{memory: o.Memory, closed: make(chan struct{})}
	for i, w := range windows() {
		s.queues[i] = queue{http: newHTTP(o, w), handed: make(chan net.Conn), s: s}
	}
	return s
}

func newHTTP(o Options, w window) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           o.Handler,
		MaxHeaderBytes:    max(o.MaxHeader-minHeaderSettled, 1), // net/http adds as much
		ReadHeaderTimeout: o.HeaderTimeout,
		IdleTimeout:       o.Idle,
		Protocols:         protocols,
		ErrorLog:          o.Log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: w.connection,
			MaxReceiveBufferPerStream:     w.stream,
		},
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, aboutKey{}, c.(*served).about)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if s, ok := c.(*served); ok && state == http.StateIdle && o.Spent != nil && s.frames == nil && o.Spent(s.about) {
				s.leave()
			}
		},
		// OPTIONS * is the application's to answer.
		DisableGeneralOptionsHandler: true,
	}
}

// Run accepts what is handed over until Close. Connections may go on after it.
func (s *Server) Run() error {
	var all sync.WaitGroup
	var errs [windowSizes]error
	for i := range s.queues {
		q := &s.queues[i]
		all.Go(func() {
			if err := q.http.Serve(q); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				errs[i] = err
				s.stop() // one that takes no more must not leave callers waiting
			}
		})
	}
	all.Wait()
	return errors.Join(errs[:]...)
}

// Serve serves a connection, which it owns from then on, and returns when it
// has ended. Requests of it may still be in their handlers. ahead says that
// HTTP/2 is to be expected of the client, and worth memory for what it sends
// ahead; it may speak either.
func (s *Server) Serve(conn net.Conn, ahead bool, about any) {
	c := &served{Conn: conn, about: about, closed: make(chan struct{}), buffers: &s.buffers}
	index := windowSizes - 1
	if ahead || s.memory == nil {
		var release func()
		index, release = widest(s.memory)
		defer release()
	}
	select {
	case s.queues[index].handed <- c:
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
	for i := range s.queues {
		_ = s.queues[i].http.Shutdown(now)
	}
}

// Close cuts every connection.
func (s *Server) Close() {
	s.stop()
	for i := range s.queues {
		_ = s.queues[i].http.Close()
	}
}

func (s *Server) stop() { s.once.Do(func() { close(s.closed) }) }

// Accept implements net.Listener.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.handed:
		return c, nil
	case <-q.s.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener; the queues of a server close together.
func (q *queue) Close() error {
	q.s.stop()
	return nil
}

// Addr implements net.Listener.
func (q *queue) Addr() net.Addr { return nowhere{} }

type nowhere struct{}

func (nowhere) Network() string { return "handover" }
func (nowhere) String() string  { return "handover" }
