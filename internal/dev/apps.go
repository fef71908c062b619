// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
)

// serveApps runs the two applications, which know nothing of the mesh: api
// greets, and web asks api through its local upstream.
func (w *world) serveApps(ctx context.Context) error {
	api := http.NewServeMux()
	api.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(rw, "hello from api") })
	api.HandleFunc("GET /admin", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(rw, "this is for nobody who calls through the mesh")
	})
	api.HandleFunc("GET /stream", stream)
	web := http.NewServeMux()
	web.HandleFunc("GET /{$}", func(rw http.ResponseWriter, r *http.Request) {
		body, err := w.callAPI(r.Context())
		if err != nil {
			http.Error(rw, "web could not reach api: "+err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = fmt.Fprintf(rw, "web asked api, and api said: %s", body)
	})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serve(ctx, w.api, api) })
	group.Go(func() error { return serve(ctx, w.web, web) })
	return group.Wait()
}

func serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("dev: application at %s: %w", l.Addr(), err)
	}
	return nil
}

// stream writes a line ten times a second for as long as somebody listens.
func stream(rw http.ResponseWriter, r *http.Request) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	flush := http.NewResponseController(rw)
	for n := 1; ; n++ {
		if _, err := fmt.Fprintf(rw, "line %d\n", n); err != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
}

func (w *world) upstreamURL(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", w.ports.upstream, path)
}

// callAPI makes one call over a connection of its own, as web's code would.
func (w *world) callAPI(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	res, err := w.get(ctx, "/")
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	return string(body), err
}

func (w *world) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.upstreamURL(path), nil)
	if err != nil {
		return nil, err
	}
	return (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
}
