// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package bounded

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// served serves h with limits until the test or stop ends it, and says how it ended.
func served(t *testing.T, h http.HandlerFunc, limits Limits) (addr string, stop func() error) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, h, limits) }()
	stop = func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return l.Addr().String(), stop
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	return conn
}

// ask sends a request on conn and gives the answer's body.
func ask(t *testing.T, conn net.Conn) (string, error) {
	t.Helper()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		return "", err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(answer.Body)
	return string(body), err
}

func generous() Limits {
	return Limits{Conns: 2, Header: 4 << 10, Read: 5 * time.Second, Write: 5 * time.Second, Idle: time.Minute}
}

func well(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "well") }

func TestConnectionsBeyondTheLimitAreClosedAndOthersServed(t *testing.T) {
	t.Parallel()
	addr, _ := served(t, well, generous())
	first, second := dial(t, addr), dial(t, addr)
	for _, conn := range []net.Conn{first, second} {
		if body, err := ask(t, conn); body != "well" || err != nil {
			t.Fatalf("within the limit: %q, %v", body, err)
		}
	}
	if body, err := ask(t, dial(t, addr)); err == nil {
		t.Fatalf("the connection beyond the limit was answered: %q", body)
	}
	_ = first.Close()
	// The server learns of the end in its own time.
	for began := time.Now(); ; {
		body, err := ask(t, dial(t, addr))
		if err == nil && body == "well" {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("a connection that ended still counts: %v", err)
		}
	}
	if body, err := ask(t, second); body != "well" || err != nil {
		t.Fatalf("a connection within the limit suffered: %q, %v", body, err)
	}
}

func TestLongHeaderIsRefused(t *testing.T) {
	t.Parallel()
	addr, _ := served(t, well, generous())
	conn := dial(t, addr)
	// net/http allows 4 KiB beyond what it is told.
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 16<<10)+"\r\n\r\n")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %d, want 431", answer.StatusCode)
	}
}

func TestRequestUnderWayIsAnsweredAtTheEnd(t *testing.T) {
	t.Parallel()
	arrived, ending := make(chan struct{}), make(chan struct{})
	addr, stop := served(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-ending
		well(w, r)
	}, generous())
	got := make(chan string, 1)
	conn := dial(t, addr)
	go func() {
		body, _ := ask(t, conn)
		got <- body
	}()
	<-arrived
	ended := make(chan error, 1)
	go func() { ended <- stop() }()
	// Once nobody is let in, the end has begun.
	for {
		another, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			break
		}
		_ = another.Close()
	}
	close(ending)
	if body := <-got; body != "well" {
		t.Errorf("the request under way got %q", body)
	}
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestRequestThatDoesNotEndIsCut(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{})
	addr, stop := served(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}, generous())
	conn := dial(t, addr)
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-arrived
	if err := stop(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the request was answered")
	}
}

func TestBrokenListenerIsAnError(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := Serve(t.Context(), l, http.HandlerFunc(well), generous()); err == nil {
		t.Error("served on a closed listener")
	}
}
