// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"net"
	"path"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// talk is one connection of a proved peer, without the TLS around it: it says
// bytes, waits until nothing more comes back, and hangs up.
func (r *attacked) talk(t *testing.T, bytes []byte) {
	t.Helper()
	near, far := net.Pipe()
	c, id := newConn(t.Context(), "", far), meshca.ID("web")
	c.peer.Store(&id)
	over := make(chan struct{})
	go func() {
		defer close(over)
		r.api.hand(c, far, serverInbound, true)
	}()
	_ = near.SetDeadline(time.Now().Add(5 * time.Second))
	said := make(chan struct{})
	go func() {
		defer close(said)
		_, _ = near.Write(bytes)
	}()
	answers := make([]byte, 4096)
	for quiet, err := 0, error(nil); quiet < 2 && err == nil; {
		select {
		case <-said:
			quiet++
		default:
		}
		_ = near.SetReadDeadline(time.Now().Add(3 * time.Millisecond))
		var n int
		if n, err = near.Read(answers); timedOut(err) {
			err = nil
		}
		if n > 0 {
			quiet = 0
		}
	}
	_ = near.Close()
	<-said
	select {
	case <-over:
	case <-time.After(20 * time.Second):
		t.Fatal("the connection has ended, and its requests have not")
	}
}

// resolved is a path as the most obliging of applications would read it.
func resolved(target string) string {
	target, _, _ = strings.Cut(target, "?")
	for _, escape := range []struct{ from, to string }{{"%2e", "."}, {"%2E", "."}, {"%2f", "/"}, {"%2F", "/"}, {"%5c", "/"}, {"%5C", "/"}, {`\`, "/"}} {
		target = strings.ReplaceAll(target, escape.from, escape.to)
	}
	return path.Clean(target)
}

// Whatever a peer says, the application reads whole requests that are each framed
// in one way, no more of them than were allowed, and none outside of the one
// prefix that intentions allow.
func FuzzRawRequest(f *testing.F) {
	for _, list := range [][]attack{framing(), chunks(), lines(), order()} {
		for _, a := range list {
			if len(a.bytes) < 4096 {
				f.Add([]byte(strings.ReplaceAll(a.bytes, " /", " /public/") + follow))
			}
		}
	}
	f.Add([]byte(http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x03\x01\x05\x00\x00\x00\x01\x82\x86\x84"))
	for line := range strings.Lines(traversals) {
		if fields := strings.Fields(line); len(fields) > 0 {
			f.Add([]byte(getOf(fields[0])))
		}
	}
	r := newAttacked(f, func(s *connect.Snapshot) {
		onlyPublic(s)
		s.Mesh.Normalization = connect.Normalization{EscapedSlashes: connect.SlashForward, MergeSlashes: true}
	})
	total := int64(0)
	f.Fuzz(func(t *testing.T, bytes []byte) {
		r.talk(t, bytes)
		arrivals, problems := r.app.take()
		if len(problems) > 0 {
			t.Errorf("the application read %q", problems)
		}
		for _, a := range arrivals {
			if a.target != "*" && !strings.HasPrefix(resolved(a.target)+"/", "/public/") {
				t.Errorf("a denied request reached the application: %q", a.target)
			}
			if len(a.field("X-Forwarded-Client-Cert")) != 1 {
				t.Errorf("the application was not told who calls: %q", a.fields)
			}
		}
		total += int64(len(arrivals))
		n := r.api.counts.inbound.requests.Load()
		denied := r.api.counts.reasons[connect.IntentionDenied].Load()
		if total > n-denied {
			t.Errorf("%d requests arrived of %d, of which %d were denied", total, n, denied)
		}
		if panics := r.api.counts.panics.Load(); panics > 0 {
			t.Errorf("%d handlers panicked", panics)
		}
	})
}
