// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"testing"
)

func TestOnlySteadyFullReadsMakeABulkTransfer(t *testing.T) {
	var p pace
	for range bulkAfter - 1 {
		p.saw(usualSize)
	}
	if p.bulk() {
		t.Error("bulk one read too early")
	}
	p.saw(usualSize)
	if !p.bulk() {
		t.Error("not bulk after a row of full reads")
	}
	p.saw(bulkSize)
	if !p.bulk() {
		t.Error("a full read of bulk size ends the bulk")
	}
	p.saw(usualSize - 1)
	if p.bulk() {
		t.Error("a short read does not end the bulk")
	}
}

func TestBuffersReturnToTheirOwnPool(t *testing.T) {
	for _, bulk := range []bool{false, true} {
		b := borrow(nil, bulk)
		size := len(b.bytes)
		b.giveBack()
		if again := borrow(nil, bulk); len(again.bytes) != size {
			t.Errorf("bulk %v: a buffer of %d came back as one of %d", bulk, size, len(again.bytes))
		}
	}
}

// A bulk transfer goes through every size of buffer, batched records included.
func TestBulkTransferArrivesUnchanged(t *testing.T) {
	for name, pair := range pairs {
		t.Run(name, func(t *testing.T) {
			r := start(t, pair, Options{})
			block := make([]byte, 4<<20)
			_, _ = rand.NewChaCha8([32]byte{7}).Read(block)
			const blocks = 5
			go func() {
				for range blocks {
					if _, err := r.client.Write(block); err != nil {
						t.Error(err)
						return
					}
				}
				_ = r.client.CloseWrite()
			}()
			got, want := sha256.New(), sha256.New()
			for range blocks {
				_, _ = io.Copy(want, bytes.NewReader(block))
			}
			if _, err := io.CopyBuffer(struct{ io.Writer }{got}, struct{ io.Reader }{r.server}, make([]byte, 1<<20)); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
				t.Error("the bytes differ")
			}
			_ = r.server.CloseWrite()
			_, _ = io.Copy(io.Discard, r.client)
			if result := <-r.done; result.Err != nil || result.Sent != blocks*int64(len(block)) {
				t.Errorf("result %+v", result)
			}
		})
	}
}
