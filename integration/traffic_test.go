// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// app is an application that greets with its name and then echoes lines. It
// ends with the test.
func app(t *testing.T, name string) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	open := map[net.Conn]bool{}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			all.Go(func() {
				_, _ = io.WriteString(c, name+"\n")
				_, _ = io.Copy(c, c)
				_ = c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return l.Addr()
}

// call is one connection through the mesh.
type call struct {
	net.Conn
	lines  *bufio.Reader
	server string // the name it was greeted with
}

// dial connects to a local upstream port and waits for the greeting.
func dial(port int) (*call, error) {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 5*time.Second)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	out := &call{Conn: c, lines: bufio.NewReader(c)}
	name, err := out.lines.ReadString('\n')
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("no greeting: %w", err)
	}
	out.server = strings.TrimSpace(name)
	return out, nil
}

// ping sends a line and waits for its echo.
func (c *call) ping() error {
	_ = c.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := io.WriteString(c, "ping\n"); err != nil {
		return err
	}
	line, err := c.lines.ReadString('\n')
	if err == nil && line != "ping\n" {
		err = fmt.Errorf("echo of %q", line)
	}
	return err
}

// mustDial is dial for calls that must go through.
func mustDial(t *testing.T, port int) *call {
	t.Helper()
	c, err := dial(port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// servedBy makes one call and names who answered.
func servedBy(t *testing.T, port int) string {
	t.Helper()
	c, err := dial(port)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	return c.server
}

// closedWithin fails the test unless the other side closes c in time.
func (c *call) closedWithin(t *testing.T, d time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	_ = c.SetDeadline(began.Add(d))
	_, err := io.Copy(io.Discard, c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("the connection was not closed within %v", d)
	}
	return time.Since(began)
}

// load is steady traffic to one upstream port: connections that stay open and
// are pinged, and new ones all the time.
type load struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	pings  atomic.Int64
	dials  atomic.Int64
	mu     sync.Mutex
	faults []string
}

func startLoad(t *testing.T, port, connections int) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel}
	for range connections {
		c, err := dial(port)
		if err != nil {
			t.Fatal(err)
		}
		l.all.Go(func() {
			defer func() { _ = c.Close() }()
			l.every(ctx, 5*time.Millisecond, func() error {
				l.pings.Add(1)
				return c.ping()
			}, "an open connection")
		})
	}
	l.all.Go(func() {
		l.every(ctx, 20*time.Millisecond, func() error {
			l.dials.Add(1)
			c, err := dial(port)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			return c.ping()
		}, "a new connection")
	})
	t.Cleanup(func() {
		cancel()
		l.all.Wait()
	})
	return l
}

// every repeats f until it fails or the load is stopped.
func (l *load) every(ctx context.Context, gap time.Duration, f func() error, what string) {
	tick := time.NewTicker(gap)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := f(); err != nil && ctx.Err() == nil {
			l.mu.Lock()
			l.faults = append(l.faults, fmt.Sprintf("%s: %v", what, err))
			l.mu.Unlock()
			return
		}
	}
}

// sofar is how much traffic there was; a test that wants more waits for it.
func (l *load) sofar() int64 { return l.pings.Load() + l.dials.Load() }

// more waits for n more pings and dials.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.sofar() + n
	until(t, "traffic flows", func() error {
		if faults := l.failures(); len(faults) > 0 {
			t.Fatalf("traffic failed: %v", faults)
		}
		if got := l.sofar(); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

func (l *load) failures() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.faults...)
}

// end stops the load and fails the test if anything of it failed.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.cancel()
	l.all.Wait()
	if faults := l.failures(); len(faults) > 0 {
		t.Errorf("%d parts of the traffic failed: %v", len(faults), faults)
	}
	t.Logf("%d pings on open connections, %d new connections", l.pings.Load(), l.dials.Load())
}
