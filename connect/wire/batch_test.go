// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// slowConn takes one Write at a time, each when it is told to, and remembers
// them.
type slowConn struct {
	net.Conn
	let      chan error // what the next Write returns
	writes   [][]byte
	deadline chan time.Time
	closed   chan struct{}
}

func newSlowConn() *slowConn {
	return &slowConn{let: make(chan error), deadline: make(chan time.Time, 1), closed: make(chan struct{})}
}

func (c *slowConn) Write(p []byte) (int, error) {
	c.writes = append(c.writes, bytes.Clone(p))
	select {
	case err := <-c.let:
		return len(p), err
	case <-c.closed:
		return 0, net.ErrClosed
	case at := <-c.deadline:
		time.Sleep(time.Until(at))
		return 0, errors.New("the write took too long")
	}
}

func (c *slowConn) SetWriteDeadline(t time.Time) error {
	c.deadline <- t
	return nil
}

func (c *slowConn) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return nil
}

func batchOver(c net.Conn) *batched { return &batched{c, newBatch(c, new(batchBuffers))} }

func TestFramesWrittenDuringAWriteGoOutTogetherAndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSlowConn()
		b := batchOver(c)
		for _, frame := range []string{"one", "two", "three"} {
			if n, err := b.Write([]byte(frame)); n != len(frame) || err != nil {
				t.Fatal(n, err)
			}
			synctest.Wait() // the first is being written now
		}
		c.let <- nil
		c.let <- nil
		synctest.Wait()
		if len(c.writes) != 2 || string(c.writes[0]) != "one" || string(c.writes[1]) != "twothree" {
			t.Errorf("the writes were %q", c.writes)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatIsTooMuchToKeepWaitsUntilAllBeforeItIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSlowConn()
		b := batchOver(c)
		_, _ = b.Write([]byte("one"))
		synctest.Wait()
		_, _ = b.Write([]byte("two"))
		big := bytes.Repeat([]byte("x"), maxBatch+1)
		written := make(chan error, 1)
		go func() {
			_, err := b.Write(big)
			written <- err
		}()
		c.let <- nil
		c.let <- nil
		synctest.Wait()
		if len(written) != 0 {
			t.Fatal("the big write returned before it was written")
		}
		c.let <- nil
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		if got := string(bytes.Join(c.writes, nil)); got != "onetwo"+string(big) || len(c.writes) != 3 {
			t.Errorf("%d writes of %d bytes", len(c.writes), len(got))
		}
	})
}

func TestAWriterWaitsWhileItsPeerTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSlowConn()
		b := batchOver(c)
		frame := make([]byte, 1<<10)
		taken := make(chan int, 1)
		go func() {
			n := 0
			for ; ; n++ {
				if _, err := b.Write(frame); err != nil {
					break
				}
			}
			taken <- n
		}()
		synctest.Wait()
		began := time.Now()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != farewell {
			t.Errorf("the end of a stuck connection took %v", took)
		}
		// One buffer on its way, one that waits.
		if n := <-taken; n < maxBatch/len(frame) || n > 2*maxBatch/len(frame) {
			t.Errorf("%d KB were taken", n)
		}
	})
}

func TestAFailedWriteClosesTheConnectionAndIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSlowConn()
		b := batchOver(c)
		broken := errors.New("broken pipe")
		_, _ = b.Write([]byte("one"))
		c.let <- broken
		<-c.closed
		synctest.Wait()
		if _, err := b.Write([]byte("two")); !errors.Is(err, broken) {
			t.Errorf("the next write returned %v", err)
		}
		if len(c.writes) != 1 {
			t.Errorf("the writes were %q", c.writes)
		}
	})
}

func TestWhatWasWrittenBeforeTheEndArrives(t *testing.T) {
	here, there := net.Pipe()
	b := batchOver(here)
	got := make(chan string, 1)
	go func() {
		all, _ := io.ReadAll(there)
		got <- string(all)
	}()
	for range 100 {
		if _, err := b.Write([]byte("goodbye ")); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if all := <-got; len(all) != 800 {
		t.Errorf("%d bytes arrived", len(all))
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after the end returned %v", err)
	}
}

func TestOnlyThePrefaceOfHTTP2IsWrittenInBatches(t *testing.T) {
	for hello, want := range map[string]bool{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": true, "PRINT / HTTP/1.1\r\n": false, "GET / HTTP/1.1\r\n": false} {
		here, there := net.Pipe()
		s := &served{Conn: here, closed: make(chan struct{}), buffers: new(batchBuffers)}
		go func() { _, _ = there.Write([]byte(hello)) }()
		if _, err := s.Read(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
		if got := s.frames != nil; got != want {
			t.Errorf("after %q: %v", hello, got)
		}
		_ = s.Close()
		_ = there.Close()
	}
}

func TestWhatCameDuringALargeWriteIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSlowConn()
		b := batchOver(c)
		go func() { _, _ = b.Write(make([]byte, maxBatch+1)) }()
		synctest.Wait()
		if _, err := b.Write([]byte("small")); err != nil {
			t.Fatal(err)
		}
		c.let <- nil // the large one
		c.let <- nil // waits for ever when nobody writes the small one
		synctest.Wait()
		if len(c.writes) != 2 || string(c.writes[1]) != "small" {
			t.Errorf("%d writes", len(c.writes))
		}
		_ = b.Close()
	})
}
