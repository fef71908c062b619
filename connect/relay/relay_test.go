// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/mtls"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcpPair returns the two ends of one real TCP connection.
func tcpPair(t testing.TB) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	dialed, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = dialed.Close(), accepted.Close() })
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

func tlsPair(t testing.TB) (client, server Conn) {
	t.Helper()
	ca := meshca.New("root")
	bundle := meshca.Bundle(ca)
	a, b := tcpPair(t)
	c := tls.Client(mtls.NoTruncation(a), mtls.Client(ca.Leaf("web", nil), bundle, connect.TLSLimits{}, "", meshca.ID("api")))
	s := tls.Server(mtls.NoTruncation(b), mtls.Server(ca.Leaf("api", nil), bundle, connect.TLSLimits{}))
	done := make(chan error, 1)
	go func() { done <- s.HandshakeContext(t.Context()) }()
	if err := errors.Join(c.HandshakeContext(t.Context()), <-done); err != nil {
		t.Fatal(err)
	}
	return c, s
}

// rig is client ⇄ relay ⇄ server; the relay's result arrives on done.
type rig struct {
	client, server Conn
	done           chan Result
}

func start(t testing.TB, pair func(testing.TB) (Conn, Conn), opts Options) rig {
	t.Helper()
	client, near := pair(t)
	far, server := pair(t)
	r := rig{client, server, make(chan Result, 1)}
	go func() { r.done <- Copy(near, far, opts) }()
	return r
}

func plain(t testing.TB) (Conn, Conn) { a, b := tcpPair(t); return a, b }

var pairs = map[string]func(testing.TB) (Conn, Conn){"tcp": plain, "tls": tlsPair}

func TestBytesArriveUnchangedBothWays(t *testing.T) {
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			r := start(t, pair, Options{})
			up, down := make([]byte, 5<<20+123), make([]byte, 3<<20+7)
			source := rand.NewChaCha8([32]byte{1})
			_, _ = source.Read(up)
			_, _ = source.Read(down)
			send := func(c Conn, data []byte) {
				for rest := data; len(rest) > 0; {
					n := min(len(rest), 1+rand.IntN(100_000))
					if _, err := c.Write(rest[:n]); err != nil {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
				_ = c.CloseWrite()
			}
			go send(r.client, up)
			go send(r.server, down)
			sums := make(chan [32]byte, 1)
			go func() {
				got, _ := io.ReadAll(r.server)
				sums <- sha256.Sum256(got)
			}()
			got, err := io.ReadAll(r.client)
			if err != nil || !bytes.Equal(got, down) {
				t.Errorf("downstream: %d bytes of %d, %v", len(got), len(down), err)
			}
			if sha256.Sum256(up) != <-sums {
				t.Error("upstream bytes differ")
			}
			result := <-r.done
			if result.Err != nil || result.Sent != int64(len(up)) || result.Received != int64(len(down)) {
				t.Errorf("result %+v", result)
			}
		})
	}
}

func TestHalfCloseLetsTheAnswerThrough(t *testing.T) {
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			r := start(t, pair, Options{})
			_, _ = r.client.Write([]byte("question"))
			_ = r.client.CloseWrite()
			question, err := io.ReadAll(r.server)
			if err != nil || string(question) != "question" {
				t.Fatalf("server read %q, %v", question, err)
			}
			_, _ = r.server.Write([]byte("answer"))
			_ = r.server.Close()
			answer, err := io.ReadAll(r.client)
			if err != nil || string(answer) != "answer" {
				t.Errorf("client read %q, %v", answer, err)
			}
			if result := <-r.done; result.Err != nil {
				t.Error(result.Err)
			}
		})
	}
}

func TestResetOnOneSideEndsTheOther(t *testing.T) {
	client, near := tcpPair(t)
	far, server := tcpPair(t)
	done := make(chan Result, 1)
	go func() { done <- Copy(near, far, Options{}) }()
	_ = client.SetLinger(0)
	_ = client.Close()
	if _, err := io.ReadAll(server); err != nil {
		t.Logf("server saw %v", err)
	}
	if result := <-done; result.Err == nil {
		t.Error("a reset counts as an orderly end")
	}
}

func TestTruncatedTLSIsNotAnOrderlyEnd(t *testing.T) {
	server, near := tlsPair(t)
	far, client := tcpPair(t)
	done := make(chan Result, 1)
	go func() { done <- Copy(near, far, Options{}) }()
	_ = server.(*tls.Conn).NetConn().Close() // no close_notify
	_, _ = io.ReadAll(client)
	if result := <-done; !errors.Is(result.Err, mtls.ErrTruncated) {
		t.Errorf("result %v, want %v", result.Err, mtls.ErrTruncated)
	}
}

func TestIdleRelayIsEnded(t *testing.T) {
	r := start(t, plain, Options{Idle: 20 * time.Millisecond})
	if _, err := io.ReadAll(r.client); err != nil {
		t.Logf("client saw %v", err)
	}
	if result := <-r.done; !errors.Is(result.Err, ErrIdle) {
		t.Errorf("result %v, want %v", result.Err, ErrIdle)
	}
}

func TestTrafficKeepsARelayAlive(t *testing.T) {
	r := start(t, plain, Options{Idle: 200 * time.Millisecond})
	buf := make([]byte, 1)
	for end := time.Now().Add(600 * time.Millisecond); time.Now().Before(end); {
		if _, err := r.client.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r.server, buf); err != nil {
			t.Fatal(err)
		}
	}
	_ = r.client.Close()
	_, _ = io.ReadAll(r.server)
	_ = r.server.Close()
	if result := <-r.done; errors.Is(result.Err, ErrIdle) {
		t.Error("a busy relay was ended as idle")
	}
}

func TestSilentPeerCannotPinAHalfClosedRelay(t *testing.T) {
	r := start(t, plain, Options{Idle: time.Hour, HalfClosed: 20 * time.Millisecond})
	_ = r.client.CloseWrite() // and the server never answers
	if result := <-r.done; !errors.Is(result.Err, ErrIdle) {
		t.Errorf("result %v, want %v", result.Err, ErrIdle)
	}
}

func TestClosingFromOutsideEndsTheRelay(t *testing.T) {
	client, near := tcpPair(t)
	far, _ := tcpPair(t)
	done := make(chan Result, 1)
	go func() { done <- Copy(near, far, Options{}) }()
	_, _ = near.Close(), far.Close()
	if result := <-done; result.Err == nil {
		t.Error("a cut relay ended in order")
	}
	_ = client.Close()
}
