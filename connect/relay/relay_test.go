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

func tlsPair(version uint16) func(testing.TB) (client, server netConn) {
	return func(t testing.TB) (netConn, netConn) { t.Helper(); return newTLSPair(t, version) }
}

func newTLSPair(t testing.TB, version uint16) (client, server *TLS) {
	t.Helper()
	a, b := tcpPair(t)
	c, err := TLSClient(a, &tls.Config{InsecureSkipVerify: true, MaxVersion: version}) //nolint:gosec // bytes are the subject, not trust
	if err != nil {
		t.Fatal(err)
	}
	leaf := meshca.New("root").Leaf("api", nil)
	s, err := TLSServer(b, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Chain[0].Raw}, PrivateKey: leaf.Key}}}) //nolint:gosec // as above
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Handshake(t.Context()) }()
	if err := errors.Join(c.Handshake(t.Context()), <-done); err != nil {
		t.Fatal(err)
	}
	return c, s
}

// netConn is a relay's connection as its peer uses it.
type netConn interface {
	Conn
	net.Conn
}

// rig is client ⇄ relay ⇄ server; the relay's result arrives on done.
type rig struct {
	client, server netConn
	done           chan Result
}

func start(t testing.TB, pair func(testing.TB) (netConn, netConn), opts Options) rig {
	t.Helper()
	client, near := pair(t)
	far, server := pair(t)
	r := rig{client, server, make(chan Result, 1)}
	go func() { r.done <- Copy(near, far, opts) }()
	return r
}

func plain(t testing.TB) (netConn, netConn) {
	a, b := tcpPair(t)
	return mustPlain(t, a), mustPlain(t, b)
}

func mustPlain(t testing.TB, c net.Conn) *Plain {
	t.Helper()
	p, err := NewPlain(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var pairs = map[string]func(testing.TB) (netConn, netConn){"tcp": plain, "tls1.2": tlsPair(tls.VersionTLS12), "tls1.3": tlsPair(tls.VersionTLS13)}

func TestBytesArriveUnchangedBothWays(t *testing.T) {
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			r := start(t, pair, Options{})
			up, down := make([]byte, 5<<20+123), make([]byte, 3<<20+7)
			source := rand.NewChaCha8([32]byte{1})
			_, _ = source.Read(up)
			_, _ = source.Read(down)
			send := func(c netConn, data []byte) {
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
	go func() { done <- Copy(mustPlain(t, near), mustPlain(t, far), Options{}) }()
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
	server, near := newTLSPair(t, tls.VersionTLS13)
	far, client := plain(t)
	done := make(chan Result, 1)
	go func() { done <- Copy(near, far, Options{}) }()
	_ = server.NetConn().Close() // no close_notify
	_, _ = io.ReadAll(client)
	if result := <-done; !errors.Is(result.Err, ErrTruncated) {
		t.Errorf("result %v, want %v", result.Err, ErrTruncated)
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
	client, near := plain(t)
	far, _ := plain(t)
	done := make(chan Result, 1)
	go func() { done <- Copy(near, far, Options{}) }()
	_, _ = near.Close(), far.Close()
	if result := <-done; result.Err == nil {
		t.Error("a cut relay ended in order")
	}
	_ = client.Close()
}

// The end of the stream may arrive in the same read as its last bytes; it must
// not be lost although the connection itself stays open.
func TestEndThatArrivesWithTheLastBytesIsSeen(t *testing.T) {
	for name, version := range map[string]uint16{"tls1.2": tls.VersionTLS12, "tls1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			for range 50 {
				client, near := newTLSPair(t, version)
				far, server := plain(t)
				done := make(chan Result, 1)
				client.wire.cork(false) // the bytes and the farewell leave in one write
				_, _ = client.Write(make([]byte, 40_000))
				_ = client.CloseWrite()
				if err := client.wire.uncork(); err != nil {
					t.Fatal(err)
				}
				go func() { done <- Copy(near, far, Options{}) }()
				got, err := io.ReadAll(server)
				if err != nil || len(got) != 40_000 {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				_ = server.Close()
				_, _ = io.ReadAll(client)
				if result := <-done; result.Err != nil {
					t.Fatal(result.Err)
				}
			}
		})
	}
}

// Records that trickle in byte by byte exercise every state of the framing.
func TestTrickledRecordsArrive(t *testing.T) {
	a, b := tcpPair(t)
	c, d := tcpPair(t)
	done := make(chan struct{})
	go func() { // a slow wire between the two
		defer close(done)
		buf := make([]byte, 1)
		for {
			if _, err := b.Read(buf); err != nil {
				_ = c.CloseWrite()
				return
			}
			if _, err := c.Write(buf); err != nil {
				return
			}
		}
	}()
	go func() { _, _ = io.Copy(b, c) }()
	leaf := meshca.New("root").Leaf("api", nil)
	s, err := TLSServer(d, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Chain[0].Raw}, PrivateKey: leaf.Key}}}) //nolint:gosec // bytes are the subject
	if err != nil {
		t.Fatal(err)
	}
	cl, err := TLSClient(a, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // as above
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for i := range 20 {
			_, _ = cl.Write(make([]byte, 1+i*97))
		}
		_ = cl.CloseWrite()
	}()
	if err := s.Handshake(t.Context()); err != nil {
		t.Fatal(err)
	}
	total := 0
	for {
		buf, n, err := s.receive()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		total += n
		buf.giveBack()
	}
	want := 0
	for i := range 20 {
		want += 1 + i*97
	}
	if total != want {
		t.Errorf("%d bytes of %d", total, want)
	}
	_, _ = cl.Close(), s.Close()
	<-done
}
