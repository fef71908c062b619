// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// running is a server that accepts what the test hands to it.
type running struct {
	*Server
	ended chan error
}

func run(t *testing.T, o Options) *running {
	t.Helper()
	r := &running{NewServer(o), make(chan error, 1)}
	go func() { r.ended <- r.Run() }()
	t.Cleanup(func() {
		r.Close()
		if err := <-r.ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// hand gives the server one end of a connection and returns the other, and what
// is closed when Serve has returned.
func (r *running) hand(t *testing.T, about any) (net.Conn, <-chan struct{}) {
	t.Helper()
	return r.handAhead(t, about, true)
}

func (r *running) handAhead(t *testing.T, about any, ahead bool) (net.Conn, <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close() })
	_ = near.SetDeadline(time.Now().Add(20 * time.Second))
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.Serve(far, ahead, about)
	}()
	return near, over
}

func ended(t *testing.T, over <-chan struct{}) {
	t.Helper()
	select {
	case <-over:
	case <-time.After(20 * time.Second):
		t.Fatal("Serve has not returned")
	}
}

func exchange(t *testing.T, c net.Conn, from *bufio.Reader, path string) *http.Response {
	t.Helper()
	_, _ = io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
	resp, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Status = string(text)
	return resp
}

func TestHandlersFindWhatWasHandedOverWithTheConnection(t *testing.T) {
	r := run(t, Options{MaxHeader: 8 << 10, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, About(r.Context()).(string))
	})})
	for _, about := range []string{"one", "two"} {
		c, over := r.hand(t, about)
		from := bufio.NewReader(c)
		for range 3 {
			if got := exchange(t, c, from, "/").Status; got != about {
				t.Errorf("%q on the connection of %q", got, about)
			}
		}
		_ = c.Close()
		ended(t, over)
	}
}

func TestShutdownEndsIdleConnectionsAtOnceAndOthersAfterTheirRequest(t *testing.T) {
	h, release := holding()
	r := run(t, Options{MaxHeader: 8 << 10, Handler: h})
	idle, idleOver := r.hand(t, nil)
	exchange(t, idle, bufio.NewReader(idle), "/")
	busy, busyOver := r.hand(t, nil)
	_, _ = io.WriteString(busy, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
	buf := make([]byte, 1)
	_ = busy.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, _ := busy.Read(buf); n != 0 {
		t.Fatal("it was answered")
	}
	_ = busy.SetReadDeadline(time.Now().Add(20 * time.Second))
	r.Shutdown(t.Context())
	if !r.Draining() {
		t.Error("it does not say that it drains")
	}
	ended(t, idleOver)
	select {
	case <-busyOver:
		t.Error("the busy connection was cut")
	default:
	}
	release()
	if all, err := io.ReadAll(busy); err != nil || !strings.HasSuffix(string(all), "ok") {
		t.Errorf("%q, %v", all, err)
	}
	ended(t, busyOver)
	late, lateOver := r.hand(t, nil)
	ended(t, lateOver)
	if _, err := late.Read(buf); err == nil {
		t.Error("a connection was served after the end")
	}
}

func TestCloseCutsWhatIsBusy(t *testing.T) {
	h, release := holding()
	defer release()
	r := run(t, Options{MaxHeader: 8 << 10, Handler: h})
	c, over := r.hand(t, nil)
	_, _ = io.WriteString(c, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n")
	r.Close()
	ended(t, over)
	if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the client saw %v", err)
	}
}

func TestWhoIsSilentIsNotKept(t *testing.T) {
	h, _ := holding()
	r := run(t, Options{MaxHeader: 8 << 10, HeaderTimeout: 50 * time.Millisecond, Idle: 100 * time.Millisecond, Handler: h})
	for name, bytes := range map[string]string{
		"nothing at all": "", "half a header": "GET / HTTP/1.1\r\nHo", "nothing after a request": "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"half a preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nS", "a preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	} {
		c, over := r.hand(t, nil)
		_, _ = io.WriteString(c, bytes)
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = c.Close()
		ended(t, over)
	}
}
