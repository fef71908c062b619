// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outrider-mesh/outrider/agent/watch"
)

func TestATokenIsOneWordOfPlainBytes(t *testing.T) {
	for text, want := range map[string]bool{"abc-123": true, "eyJ.x_y.z": true, "a b": false, "a\tb": false, "a\x7fb": false, "tok\u00e9n": false, "a\r\nX: y": false} {
		if got := isWord(text); got != want {
			t.Errorf("%q: %t", text, got)
		}
		file := filepath.Join(t.TempDir(), "token")
		put(t, file, text+"\n")
		if _, err := readWord(file); (err == nil) != want {
			t.Errorf("%q in a file: %v", text, err)
		}
	}
}

func TestATokenThatWasUnknownLongAgoIsNoTroubleNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, _, _ := given(t, "secret-1\n")
		source.unknown("secret-1")
		time.Sleep(unknownFor - time.Second)
		if st := source.status(); len(st) != 1 {
			t.Errorf("status %+v soon after", st)
		}
		time.Sleep(time.Second)
		if st := source.status(); st != nil {
			t.Errorf("status %+v long after", st)
		}
	})
}

// Requests and logins alike go by the dialer that was given, and never through a
// proxy of the environment: that would be sent what is meant for Consul.
func TestADialerThatWasGivenIsTheOnlyWay(t *testing.T) {
	a := newAgent(t)
	a.answer("/x", says(`{}`))
	var dialled atomic.Value
	c := a.client(t, func(cfg *Config) {
		cfg.Address = "consul.invalid:8500"
		cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled.Store(address)
			var d net.Dialer
			return d.DialContext(ctx, network, a.server.Listener.Addr().String())
		}
	})
	if _, err := c.get(t.Context(), request{doing: "read", path: "/x"}, watch.Cursor{}, new(any)); err != nil {
		t.Fatal(err)
	}
	if dialled.Load() != "consul.invalid:8500" {
		t.Errorf("dialled %v", dialled.Load())
	}
	transport, ok := c.http.Transport.(*guard).next.(*http.Transport)
	if !ok || transport.Proxy != nil {
		t.Error("a proxy of the environment is asked")
	}
}

func TestAQueryBlocksForLessThanItsTokenLives(t *testing.T) {
	a := newAgent(t)
	a.answer("/x", says(`{}`))
	c := a.client(t, nil)
	for life, want := range map[time.Duration]string{0: "1m0s", time.Minute: "12s", time.Second: "1s", time.Hour: "1m0s"} {
		c.seat.take("secret-"+life.String(), life)
		if _, err := c.get(t.Context(), request{doing: "read", path: "/x"}, watch.Cursor{Index: 7}, new(any)); err != nil {
			t.Fatal(err)
		}
		seen := a.requests("/x")
		if got := seen[len(seen)-1].URL.Query().Get("wait"); got != want {
			t.Errorf("with a token of %s: wait=%s, want %s", life, got, want)
		}
	}
}

func TestWatchesOfAClientHearOfAnotherToken(t *testing.T) {
	c := newAgent(t).client(t, nil)
	sooner := c.pace.Sooner()
	select {
	case <-sooner:
		t.Fatal("there is no other token yet")
	default:
	}
	c.seat.take("another", 0)
	select {
	case <-sooner:
	default:
		t.Error("another token ends no pause")
	}
}
