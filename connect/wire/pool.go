// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Share counts connections and waiting requests over several pools, those of
// one target, and bounds them. Its limits may change at any time.
type Share struct {
	maxConnections, maxPending atomic.Int64
	connections, pending       atomic.Int64
}

// Limit sets the bounds. A pool without a connection may open one whatever the
// limit, as Envoy does: a limit must not make an endpoint unreachable.
func (s *Share) Limit(connections, pending int) {
	s.maxConnections.Store(int64(connections))
	s.maxPending.Store(int64(pending))
}

// Connections is the number of open connections.
func (s *Share) Connections() int64 { return s.connections.Load() }

// A Dial makes one connection, TLS included; what it returns belongs to the
// pool.
type Dial func(context.Context) (net.Conn, error)

// A Pool is the connections to one endpoint. Safe for concurrent use.
type Pool struct {
	client *Client
	share  *Share
	h2     bool

	mu      sync.Mutex
	dial    Dial
	conns   []*clientConn // of HTTP/1 the idle ones, latest last; of HTTP/2 all
	opening *opening      // of HTTP/2: several requests wait for one dial
	open    int           // connections, also those in use and being dialled
	waiting []chan struct{}
	retired bool // connections serve one request each
	closed  bool
	every   map[*clientConn]struct{}
}

// opening is one dial. err is why those who waited for it must not try it
// again one after the other.
type opening struct {
	done chan struct{}
	err  error // written before done is closed
}

// turn is what a request waits for: its place in the queue, or somebody's dial.
type turn struct {
	come <-chan struct{}
	dial *opening
}

type clientConn struct {
	*http.ClientConn
	conn   *counted
	used   atomic.Bool // has served a request
	old    bool        // takes no more requests
	inUse  int
	parked time.Time // since when nobody uses it
}

// NewPool returns a pool without connections. h2 means that the endpoint is
// spoken to in HTTP/2, else HTTP/1.1.
func (c *Client) NewPool(share *Share, h2 bool, dial Dial) *Pool {
	return &Pool{client: c, share: share, h2: h2, dial: dial, every: make(map[*clientConn]struct{})}
}

var (
	errOverflow = errors.New("the limit on connections and on requests that wait for one is reached")
	errClosed   = errors.New("the endpoint is not used any more")
)

// RoundTrip sends a request and returns its response, whose body must be closed.
// Its errors are of type *Error. A request that reached nobody, because a kept
// connection had gone, is sent again on another one, when its body allows.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) {
	for try := 0; ; try++ {
		c, err := p.take(req.Context())
		if err != nil {
			return nil, err
		}
		read, written, reused := c.conn.read.Load(), c.conn.written.Load(), c.used.Swap(true)
		resp, err := c.RoundTrip(req)
		if err == nil {
			p.track(c, resp)
			return resp, nil
		}
		p.giveBack(c)
		failed := p.classify(req, err)
		untouched := failed.Kind == Refused || c.conn.written.Load() == written
		stale := reused && !p.h2 && c.conn.read.Load() == read && (untouched || idempotent(req.Method))
		nobody := stale || (p.h2 && reused && failed.Kind == Refused)
		if !nobody || failed.Kind == Ended || try == 2 || !rewind(req) {
			return nil, failed
		}
	}
}

func (p *Pool) classify(req *http.Request, err error) *Error {
	switch {
	case req.Context().Err() != nil:
		return &Error{Ended, context.Cause(req.Context())}
	case p.h2 && unprocessed(err):
		return &Error{Refused, err}
	}
	return &Error{Reset, err}
}

// idempotent reports whether a method may be sent twice (RFC 9110, 9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

func rewind(req *http.Request) bool {
	if req.Body == nil || req.Body == http.NoBody {
		return true
	}
	if req.GetBody == nil {
		return false
	}
	body, err := req.GetBody()
	if err != nil {
		return false
	}
	req.Body = body
	return true
}

// take returns a connection that the caller may send one request on.
func (p *Pool) take(ctx context.Context) (*clientConn, error) {
	for {
		c, wait, err := p.tryTake(ctx)
		if c != nil || err != nil {
			return c, err
		}
		if c, err := p.pend(ctx, wait); c != nil || err != nil {
			return c, err
		}
	}
}

// lookAgain is how often a request that waits for a place on a connection of
// HTTP/2 looks for itself: the place of a cancelled stream comes free later, when
// the server has answered to that, and net/http tells nobody.
const lookAgain = 10 * time.Millisecond

// pend waits. It returns nothing when the turn has come, and rarely what it has
// found for itself.
func (p *Pool) pend(ctx context.Context, wait turn) (*clientConn, error) {
	defer p.share.pending.Add(-1)
	if p.share.pending.Add(1) > p.share.maxPending.Load() {
		p.leave(wait)
		return nil, &Error{Overflowed, errOverflow}
	}
	var look <-chan time.Time
	if p.h2 && wait.dial == nil {
		ticker := time.NewTicker(lookAgain)
		defer ticker.Stop()
		look = ticker.C
	}
	for {
		select {
		case <-wait.come:
			if wait.dial != nil && wait.dial.err != nil {
				return nil, &Error{DialFailed, wait.dial.err}
			}
			return nil, nil
		case <-look:
			if c := p.first(wait); c != nil {
				return c, nil
			}
		case <-ctx.Done():
			p.leave(wait)
			return nil, &Error{Ended, context.Cause(ctx)}
		}
	}
}

// first is a connection for the first of the queue, when there is one by now.
func (p *Pool) first(wait turn) *clientConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 || p.waiting[0] != wait.come {
		return nil
	}
	c := p.usable()
	if c != nil {
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
	return c
}

// leave takes a waiter out of the queue; when its turn has come meanwhile, the
// next one's has.
func (p *Pool) leave(wait turn) {
	if wait.dial != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.waiting)
	p.waiting = slices.DeleteFunc(p.waiting, func(w chan struct{}) bool { return w == wait.come })
	if len(p.waiting) == n {
		p.wakeOne()
	}
}

// tryTake returns a connection, an error, or what to wait for.
func (p *Pool) tryTake(ctx context.Context) (*clientConn, turn, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, turn{}, &Error{DialFailed, errClosed}
	}
	if c := p.usable(); c != nil {
		p.mu.Unlock()
		return c, turn{}, nil
	}
	if call := p.opening; call != nil {
		p.mu.Unlock()
		return nil, turn{call.done, call}, nil
	}
	if !p.mayOpen() {
		wait := make(chan struct{})
		p.waiting = append(p.waiting, wait)
		p.mu.Unlock()
		return nil, turn{come: wait}, nil
	}
	p.open++
	call := &opening{done: make(chan struct{})}
	if p.h2 {
		p.opening = call
	}
	dial := p.dial
	p.mu.Unlock()
	c, err := p.connect(ctx, dial, call)
	return c, turn{}, err
}

// mayOpen claims a connection of the shared limit.
func (p *Pool) mayOpen() bool {
	if p.share.connections.Add(1) <= p.share.maxConnections.Load() || p.open == 0 {
		return true
	}
	p.share.connections.Add(-1)
	return false
}

// usable takes a connection that is there, dropping those that have died.
func (p *Pool) usable() *clientConn {
	for i, c := range slices.Backward(p.conns) {
		if c.Err() != nil {
			p.drop(i)
			continue
		}
		if c.old || c.Reserve() != nil {
			continue
		}
		c.inUse++
		if !p.h2 {
			p.conns = slices.Delete(p.conns, i, i+1)
		}
		return c
	}
	return nil
}

// drop forgets the dead connection at a position.
func (p *Pool) drop(i int) {
	c := p.conns[i]
	p.conns = slices.Delete(p.conns, i, i+1)
	p.forget(c)
}

func (p *Pool) forget(c *clientConn) {
	if _, known := p.every[c]; !known {
		return
	}
	delete(p.every, c)
	_ = c.Close()
	p.open--
	p.share.connections.Add(-1)
	p.wakeOne()
}

func (p *Pool) wakeOne() {
	if len(p.waiting) > 0 {
		close(p.waiting[0])
		p.waiting = slices.Delete(p.waiting, 0, 1)
	}
}

// connect dials outside the lock.
func (p *Pool) connect(ctx context.Context, dial Dial, call *opening) (*clientConn, error) {
	p.share.pending.Add(1)
	c, err := p.dialled(ctx, dial)
	p.share.pending.Add(-1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.opening == call {
		p.opening = nil
	}
	if ctx.Err() == nil {
		call.err = err
	}
	close(call.done)
	if err == nil && p.closed {
		_ = c.Close()
		err = errClosed
	}
	if err == nil && c.Reserve() != nil {
		_ = c.Close()
		err = errors.New("the connection ended at once")
	}
	if err != nil {
		p.open--
		p.share.connections.Add(-1)
		p.wakeOne()
		if ctx.Err() != nil {
			return nil, &Error{Ended, context.Cause(ctx)}
		}
		return nil, &Error{DialFailed, err}
	}
	c.inUse++
	c.old = p.retired
	p.every[c] = struct{}{}
	if p.h2 {
		p.conns = append(p.conns, c)
	}
	return c, nil
}

func (p *Pool) dialled(ctx context.Context, dial Dial) (*clientConn, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	if p.h2 {
		conn = &batched{conn, newBatch(conn, &p.client.buffers)}
	}
	c := &clientConn{conn: &counted{Conn: conn}}
	c.ClientConn, err = p.client.open(ctx, c.conn, p.h2)
	return c, err
}

// giveBack ends one use of a connection.
func (p *Pool) giveBack(c *clientConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.every[c]; !known {
		return
	}
	c.inUse--
	if c.inUse == 0 {
		c.parked = time.Now()
	}
	switch {
	case c.Err() != nil || (c.old && c.inUse == 0):
		p.remove(c)
	case p.h2:
		p.wakeOne()
	case c.Available() == 0: // a body that was not read to its end takes its connection along
		p.forget(c)
	default:
		p.conns = append(p.conns, c)
		p.wakeOne()
	}
}

func (p *Pool) remove(c *clientConn) {
	p.conns = slices.DeleteFunc(p.conns, func(o *clientConn) bool { return o == c })
	p.forget(c)
}
