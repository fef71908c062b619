// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// echo is an application that sends back what it gets, a little at a time.
func echo(t *testing.T) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 64)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					if _, err := c.Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return l.Addr()
}

// say sends a byte and waits for it to come back.
func say(c *tls.Conn) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err
}

// open makes connections that have each been through to the application, some at
// a time, until there are n or one is refused.
func (m *mesh) open(t *testing.T, n int) []*tls.Conn {
	t.Helper()
	const atOnce = 8
	var mu sync.Mutex
	var open []*tls.Conn
	refused := false
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for {
				mu.Lock()
				enough := refused || len(open) >= n
				mu.Unlock()
				if enough {
					return
				}
				c, err := m.dial(t.Context())
				if err == nil {
					if err = say(c); err != nil {
						_ = c.NetConn().Close()
					}
				}
				mu.Lock()
				if err != nil {
					refused = true
				} else {
					open = append(open, c)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	t.Cleanup(func() {
		for _, c := range open {
			_ = c.NetConn().Close()
		}
	})
	return open
}

func TestFiveThousandIdleConnectionsFitAndThoseBeyondTheLimitAreRefused(t *testing.T) {
	m := newMesh(t, unitMemory(t), "tcp", echo(t))
	t.Logf("without a connection: %s", m.cgroup.use(t))
	const promised = 5000
	open := m.open(t, promised)
	m.alive(t)
	if n, why := m.refusals(t); len(open) < promised || n > 0 {
		t.Fatalf("%d connections are open, %d were refused: %s", len(open), n, why)
	}
	t.Logf("with %d idle connections: %s", len(open), m.cgroup.use(t))

	const beyond = 3000
	more := m.open(t, beyond)
	m.alive(t)
	t.Logf("with %d, of which the next was refused: %s", len(open)+len(more), m.cgroup.use(t))
	n, why := m.refusals(t)
	if len(more) >= beyond || n == 0 || !strings.Contains(why, "limits { memory_mb }") || !strings.Contains(why, "MB") {
		t.Errorf("%d more connections were let in, %d refused, saying %q", len(more), n, why)
	}
	if log := m.log.String(); !strings.Contains(log, "reason=limit_exceeded") || strings.Count(log, "reason=limit_exceeded") > 100 {
		t.Errorf("%d lines of the log are about the limit", strings.Count(log, "reason=limit_exceeded"))
	}
	for i, c := range open {
		if err := say(c); err != nil {
			t.Fatalf("connection %d, which was there before the limit: %v", i, err)
		}
	}
	m.admitsAgain(t, more)
}

// admitsAgain sees that the end of some connections lets others in.
func (m *mesh) admitsAgain(t *testing.T, some []*tls.Conn) {
	t.Helper()
	for _, c := range some {
		_ = c.NetConn().Close()
	}
	until(t, "a connection is let in again", func() error {
		c, err := m.dial(t.Context())
		if err != nil {
			return err
		}
		return errors.Join(say(c), c.NetConn().Close())
	})
	m.alive(t)
}
