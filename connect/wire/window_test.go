// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// purse is memory of so many bytes.
type purse struct {
	mu          sync.Mutex
	limit, held int64
}

func (p *purse) Take(n int64, percent int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held+n > p.limit*int64(percent)/100 {
		return false
	}
	p.held += n
	return true
}

func (p *purse) Give(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held -= n
}

func (p *purse) taken() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

// http2Initial is what every connection begins with (RFC 9113, 6.9.2). net/http
// keeps the one byte to the least window for later.
const http2Initial = 65_535

// offered reads how much the server lets a client send ahead on the connection.
func offered(t *testing.T, c net.Conn) int {
	t.Helper()
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(c, c)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	total := http2Initial
	acknowledged := false
	if err := framer.WritePing(false, [8]byte{1}); err != nil {
		t.Fatal(err)
	}
	for !acknowledged {
		f, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.WindowUpdateFrame:
			total += int(f.Increment)
		case *http2.PingFrame:
			acknowledged = f.IsAck()
		}
	}
	return total
}

func TestServerOffersTheWindowThatMemoryHasRoomFor(t *testing.T) {
	for name, tc := range map[string]struct {
		limit int64
		ahead bool
		want  int
	}{
		"plenty":                    {1 << 30, true, maxConnWindow},
		"some":                      {1 << 20, true, 256 << 10},
		"none":                      {0, true, http2Initial},
		"nothing is to be expected": {1 << 30, false, http2Initial},
	} {
		t.Run(name, func(t *testing.T) {
			memory := &purse{limit: tc.limit}
			r := run(t, Options{MaxHeader: 8 << 10, Handler: http.NotFoundHandler(), Memory: memory})
			c, over := r.handAhead(t, nil, tc.ahead)
			if got := offered(t, c); got != tc.want {
				t.Errorf("a window of %d, want %d", got, tc.want)
			}
			if held := memory.taken(); tc.want != http2Initial && held != int64(tc.want) || tc.want == http2Initial && held != 0 {
				t.Errorf("%d bytes are held", held)
			}
			_ = c.Close()
			ended(t, over)
			if held := memory.taken(); held != 0 {
				t.Errorf("%d bytes are held after the end", held)
			}
		})
	}
}

func TestClientGivesItsWindowBackWithTheConnection(t *testing.T) {
	memory := &purse{limit: 1 << 30}
	e := newEndpoint(t, true, 10, 10, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	e.Pool = NewClient(64<<10, memory).NewPool(&e.share, true, e.dial)
	if text, err := e.ask(t.Context(), http.MethodGet, "/", nil); err != nil || text != "ok" {
		t.Fatalf("%q, %v", text, err)
	}
	if held := memory.taken(); held != maxConnWindow {
		t.Errorf("%d bytes are held, want %d", held, maxConnWindow)
	}
	e.Close()
	for deadline := time.After(5 * time.Second); memory.taken() != 0; {
		select {
		case <-deadline:
			t.Fatalf("%d bytes are held after the end", memory.taken())
		case <-time.After(time.Millisecond):
		}
	}
}
