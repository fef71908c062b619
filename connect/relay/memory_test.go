// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"
)

// purse is memory of so many bytes.
type purse struct {
	limit      int64
	held, most atomic.Int64
	asked      atomic.Int64
}

func (p *purse) Take(n int64, percent int) bool {
	p.asked.Add(1)
	held := p.held.Add(n)
	if held > p.limit*int64(percent)/100 {
		p.held.Add(-n)
		return false
	}
	for most := p.most.Load(); held > most && !p.most.CompareAndSwap(most, held); most = p.most.Load() {
	}
	return true
}

func (p *purse) Give(n int64) { p.held.Add(-n) }

// However little memory there is, bytes arrive; and all that was taken is given
// back.
func TestBytesArriveWithWhateverMemoryThereIs(t *testing.T) {
	for _, limit := range []int64{0, usualSize, 2 * usualSize, bulkSize, 1 << 30} {
		for name, pair := range pairs {
			t.Run(name, func(t *testing.T) {
				memory := &purse{limit: limit}
				r := start(t, pair, Options{Memory: memory})
				block := make([]byte, 4<<20)
				_, _ = rand.NewChaCha8([32]byte{7}).Read(block)
				go func() {
					if _, err := r.client.Write(block); err != nil {
						t.Error(err)
					}
					_ = r.client.CloseWrite()
				}()
				got := sha256.New()
				if _, err := io.Copy(got, r.server); err != nil {
					t.Error(err)
				}
				want := sha256.Sum256(block)
				if !bytes.Equal(got.Sum(nil), want[:]) {
					t.Error("the bytes differ")
				}
				_ = r.server.CloseWrite()
				_, _ = io.Copy(io.Discard, r.client)
				if result := <-r.done; result.Err != nil {
					t.Error(result.Err)
				}
				if held, most := memory.held.Load(), memory.most.Load(); held != 0 || most > limit || memory.asked.Load() == 0 {
					t.Errorf("%d bytes are held at the end, at most %d of %d, asked %d times", held, most, limit, memory.asked.Load())
				}
			})
		}
	}
}

func TestShortMemoryMakesBuffersSmaller(t *testing.T) {
	for _, tc := range []struct {
		limit int64
		bulk  bool
		want  int
	}{
		{1 << 30, true, bulkSize},
		{1 << 30, false, usualSize},
		{bulkSize, true, usualSize}, // all of it is more than bulk transfers may have
		{usualSize, true, usualSize},
		{usualSize - 1, true, smallSize},
		{0, false, smallSize},
	} {
		memory := &purse{limit: tc.limit}
		b := borrow(memory, tc.bulk)
		if len(b.bytes) != tc.want {
			t.Errorf("%d bytes of memory, bulk %t: a buffer of %d, want %d", tc.limit, tc.bulk, len(b.bytes), tc.want)
		}
		b.giveBack()
		if memory.held.Load() != 0 {
			t.Errorf("%d bytes are left", memory.held.Load())
		}
	}
}

// A record that is larger than a small buffer must arrive whole, though nothing
// follows it.
func TestRecordLargerThanASmallBufferDoesNotWaitForTheNext(t *testing.T) {
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			r := start(t, pair, Options{Memory: &purse{}})
			for _, size := range []int{smallSize - 1, smallSize, smallSize + 1, maxPlaintext, 2*maxPlaintext + 1} {
				if _, err := r.client.Write(make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				_ = r.server.SetReadDeadline(time.Now().Add(20 * time.Second))
				if n, err := io.ReadFull(r.server, make([]byte, size)); err != nil {
					t.Fatalf("%d of %d bytes: %v", n, size, err)
				}
			}
			_ = r.client.CloseWrite()
			_ = r.server.CloseWrite()
			if result := <-r.done; result.Err != nil {
				t.Error(result.Err)
			}
		})
	}
}
