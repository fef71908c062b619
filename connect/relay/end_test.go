// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrider-mesh/outrider/internal/meshca"
)

// What was cut short must not look whole to whoever takes the end of the
// connection for the end of the message.
func TestFailureIsNotAnOrderlyEndForTheOtherSide(t *testing.T) {
	t.Run("truncated TLS resets the application", func(t *testing.T) {
		peer, near := newTLSPair(t, tls.VersionTLS13)
		far, app := plain(t)
		go Copy(near, far, Options{})
		_, _ = peer.Write([]byte("half a mess"))
		_ = peer.NetConn().Close() // no close_notify
		if got, err := io.ReadAll(app); err == nil {
			t.Errorf("the application read %q and then the end of the stream", got)
		}
	})
	t.Run("a reset by the application is no close_notify", func(t *testing.T) {
		a, b := tcpPair(t)
		near, peer := newTLSPair(t, tls.VersionTLS13)
		go Copy(mustPlain(t, b), near, Options{})
		_ = a.SetLinger(0)
		_ = a.Close()
		for {
			buf, _, err := peer.receive()
			if err == nil {
				buf.giveBack()
				continue
			}
			if errors.Is(err, io.EOF) {
				t.Error("the peer was told that the stream is complete")
			}
			return
		}
	})
}

// The farewell of TLS must wait for a slow reader like any other bytes.
func TestOrderlyEndWaitsForASlowReader(t *testing.T) {
	t.Parallel()
	near, peer := newTLSPair(t, tls.VersionTLS13)
	app, far := plain(t)
	tcp := near.NetConn().(*wire).stream.(*net.TCPConn)
	_ = tcp.SetWriteBuffer(4 << 10)
	done := make(chan Result, 1)
	go func() { done <- Copy(far, near, Options{}) }()
	const size = 8 << 20
	sent := make(chan error, 1)
	go func() {
		_, err := app.Write(make([]byte, size))
		sent <- errors.Join(err, app.CloseWrite())
	}()
	if n, err := io.CopyN(io.Discard, peer, size-3<<20); err != nil {
		t.Fatalf("%d bytes, %v", n, err)
	}
	pause := time.NewTimer(6 * time.Second) // longer than crypto/tls gives its farewell
	defer pause.Stop()
	<-pause.C
	if n, err := io.Copy(io.Discard, peer); n != 3<<20 || err != nil {
		t.Errorf("%d bytes after the pause, %v", n, err)
	}
	_ = peer.CloseWrite()
	_, _ = io.ReadAll(app)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if result := <-done; result.Err != nil {
		t.Error(result.Err)
	}
}

func TestFarewellHasNoDeadlineOfItsOwn(t *testing.T) {
	near, peer := newTLSPair(t, tls.VersionTLS13)
	_ = near.SetWriteDeadline(time.Unix(1, 0))
	if err := near.CloseWrite(); err != nil {
		t.Errorf("the farewell failed: %v", err)
	}
	if _, err := io.ReadAll(peer); err != nil {
		t.Error(err)
	}
}

// keyLog takes the secret that protects what the client sends.
type keyLog struct{ secret atomic.Pointer[[]byte] }

func (k *keyLog) Write(line []byte) (int, error) {
	if rest, ok := strings.CutPrefix(string(line), "CLIENT_TRAFFIC_SECRET_0 "); ok {
		secret, err := hex.DecodeString(strings.Fields(rest)[1])
		if err != nil {
			return 0, err
		}
		k.secret.Store(&secret)
	}
	return len(line), nil
}

// record seals a TLS 1.3 record of AES-128-GCM (RFC 8446 §5.2, §7.3).
func record(t *testing.T, secret []byte, sequence uint64, kind byte, content []byte) []byte {
	t.Helper()
	expand := func(label string, n int) []byte {
		info := binary.BigEndian.AppendUint16(nil, uint16(n))
		info = append(info, byte(len("tls13 ")+len(label)))
		info = append(info, "tls13 "+label...)
		out, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	block, err := aes.NewCipher(expand("key", 16))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce := expand("iv", 12)
	for i := range 8 {
		nonce[11-i] ^= byte(sequence >> (8 * i))
	}
	inner := append(append([]byte(nil), content...), kind)
	header := binary.BigEndian.AppendUint16([]byte{23, 3, 3}, uint16(len(inner)+aead.Overhead()))
	return aead.Seal(header, nonce, inner, header)
}

// A key update behind the last bytes must not hold them back until more come:
// the peer may be waiting for the answer to them.
func TestBytesDoNotWaitBehindAKeyUpdate(t *testing.T) {
	a, b := tcpPair(t)
	log := &keyLog{}
	leaf := meshca.New("root").Leaf("api", nil)
	near, err := TLSServer(b, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Chain[0].Raw}, PrivateKey: leaf.Key}}}) //nolint:gosec // bytes are the subject
	if err != nil {
		t.Fatal(err)
	}
	client := tls.Client(a, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: log}) //nolint:gosec // as above
	shaken := make(chan error, 1)
	go func() { shaken <- near.Handshake(t.Context()) }()
	if err := errors.Join(client.HandshakeContext(t.Context()), <-shaken); err != nil {
		t.Fatal(err)
	}
	if suite := client.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Fatalf("the test seals records of AES-128-GCM only, not of %s", tls.CipherSuiteName(suite))
	}
	far, app := plain(t)
	done := make(chan Result, 1)
	go func() { done <- Copy(near, far, Options{}) }()
	secret := *log.secret.Load()
	question := record(t, secret, 0, 23, []byte("question"))
	update := record(t, secret, 1, 22, []byte{24, 0, 0, 1, 0})
	if _, err := a.Write(append(question, update...)); err != nil {
		t.Fatal(err)
	}
	_ = app.SetReadDeadline(time.Now().Add(5 * time.Second))
	got := make([]byte, len("question"))
	if _, err := io.ReadFull(app, got); err != nil || string(got) != "question" {
		t.Errorf("the application read %q, %v", got, err)
	}
	_ = a.Close()
	<-done
}

// A peer that sends a part of a record and then nothing must not pin a buffer.
func TestPartOfARecordPinsNoBuffer(t *testing.T) {
	client, near := newTLSPair(t, tls.VersionTLS13)
	client.wire.cork(false)
	_, _ = client.Write([]byte("question"))
	whole := append([]byte(nil), client.wire.out...)
	client.wire.out = client.wire.out[:0]
	if err := client.wire.uncork(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.wire.stream.Write(whole[:7]); err != nil {
		t.Fatal(err)
	}
	if err := near.wire.await(); err != nil {
		t.Fatal(err)
	}
	b := borrow(nil, false)
	defer b.giveBack()
	if n, err := near.take(b); n != 0 || !errors.Is(err, errNothingYet) || near.wire.held != nil {
		t.Errorf("a part of a record: %d bytes, %v", n, err)
	}
	if _, err := client.wire.stream.Write(whole[7:]); err != nil {
		t.Fatal(err)
	}
	got, n, err := near.receive()
	if err != nil || string(got.bytes[:n]) != "question" {
		t.Fatalf("the rest: %d bytes, %v", n, err)
	}
	got.giveBack()
}

// stub is one side of a relay without a network under it.
type stub struct {
	read   func() error
	closed chan struct{}
	over   atomic.Bool
}

func newStub(read func() error) *stub { return &stub{read: read, closed: make(chan struct{})} }

func (s *stub) receive() (*buffer, int, error) {
	if s.read != nil {
		return nil, 0, s.read()
	}
	<-s.closed
	return nil, 0, net.ErrClosed
}
func (s *stub) send([]byte) error { return nil }
func (s *stub) lend(Memory)       {}
func (s *stub) CloseWrite() error { return nil }
func (s *stub) abort()            { _ = s.Close() }
func (s *stub) Close() error {
	if !s.over.Swap(true) {
		close(s.closed)
	}
	return nil
}

// A panic in a goroutine that nobody guards would end the whole process.
func TestPanicOfEitherDirectionReachesTheCaller(t *testing.T) {
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			sides := []*stub{newStub(nil), newStub(nil)}
			sides[i].read = func() error { panic("fault") }
			defer func() {
				if v := recover(); v != "fault" {
					t.Errorf("recovered %v", v)
				}
				_, _ = sides[0].Close(), sides[1].Close()
			}()
			Copy(sides[0], sides[1], Options{})
			t.Error("Copy returned")
		})
	}
}

// What was quiet before a half-close must not count against the answer to it.
func TestHalfCloseAfterALongSilenceLeavesTimeForTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		a := newStub(func() error { <-end; return io.EOF })
		b := newStub(nil)
		done := make(chan time.Time, 1)
		go func() {
			Copy(a, b, Options{Idle: time.Hour, HalfClosed: 5 * time.Minute})
			done <- time.Now()
		}()
		time.Sleep(50 * time.Minute)
		half := time.Now()
		close(end)
		if got := (<-done).Sub(half); got < 5*time.Minute || got > 10*time.Minute {
			t.Errorf("ended %v after the half-close, want between 5 and 10 minutes", got)
		}
	})
}
