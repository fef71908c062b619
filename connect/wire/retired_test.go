// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package wire_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/outrider-mesh/outrider/connect/wire"
)

// A request that has chosen its endpoint may come to the pool after the
// configuration has left that endpoint out: it is served all the same, and
// leaves no connection behind.
func TestRequestThatComesToARetiredPoolIsServed(t *testing.T) {
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "served")
			}))
			app.Config.Protocols = new(http.Protocols)
			app.Config.Protocols.SetHTTP1(!h2)
			app.Config.Protocols.SetUnencryptedHTTP2(h2)
			app.Start()
			defer app.Close()
			var share wire.Share
			share.Limit(8, 8)
			pool := wire.NewClient(64<<10, nil).NewPool(&share, h2, func(ctx context.Context) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", app.Listener.Addr().String())
			})
			defer pool.Close()
			ask := func() {
				t.Helper()
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://endpoint/", nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := pool.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = res.Body.Close() }()
				if text, err := io.ReadAll(res.Body); err != nil || string(text) != "served" {
					t.Errorf("the answer is %q: %v", text, err)
				}
			}
			ask()
			pool.Retire()
			for range 3 {
				ask()
			}
			if open, n := pool.Open(), share.Connections(); open != 0 || n != 0 {
				t.Errorf("the pool has %d connections, its share %d", open, n)
			}
			pool.Close()
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://endpoint/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if res, err := pool.RoundTrip(r); err == nil {
				_ = res.Body.Close()
				t.Error("a request was served by a pool that is closed")
			}
		})
	}
}
