// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// track gives the connection back once the response is done with.
func (p *Pool) track(c *clientConn, resp *http.Response) {
	if both, ok := resp.Body.(io.ReadWriteCloser); ok && resp.StatusCode == http.StatusSwitchingProtocols {
		resp.Body = &switched{ReadWriteCloser: both, done: sync.OnceFunc(func() { p.takenAway(c) })}
		return
	}
	if resp.Body == http.NoBody || resp.Body == nil {
		p.giveBack(c)
		return
	}
	resp.Body = &body{ReadCloser: resp.Body, pool: p, conn: c}
}

// takenAway forgets a connection that speaks another protocol now.
func (p *Pool) takenAway(c *clientConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(c)
}

type body struct {
	io.ReadCloser
	pool  *Pool
	conn  *clientConn
	given atomic.Bool // back to the pool
}

func (b *body) done() {
	if !b.given.Swap(true) {
		b.pool.giveBack(b.conn)
	}
}

// Read gives the connection back at the end of the body, before whoever reads
// it can send the next request.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.done()
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.done()
	return err
}

// switched is a connection that has left HTTP (101 Switching Protocols).
type switched struct {
	io.ReadWriteCloser
	done func()
}

func (s *switched) Close() error {
	err := s.ReadWriteCloser.Close()
	s.done()
	return err
}
