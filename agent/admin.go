// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/bounded"
	"github.com/outrider-mesh/outrider/agent/page"
	"github.com/outrider-mesh/outrider/connect/proxy"
)

// listenAdmin binds the admin address: unix:///path, with mode 0660 and, where
// it exists, the group outrider; or host:port on the loopback. It returns nil
// for "": no admin API.
func (a *Agent) listenAdmin(ctx context.Context, address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	open := func() (net.Listener, error) { return openAdmin(ctx, address) }
	return a.listen(address, 0o660, open)
}

// listen takes over the socket of an admin address from a predecessor, or opens
// it.
func (a *Agent) listen(address string, mode os.FileMode, open func() (net.Listener, error)) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(address, "unix://")
	if !isUnix {
		return a.opts.Handover.Listen("tcp", address, open, nil)
	}
	return a.opts.Handover.Listen("unix", path, open, func(f *os.File) (net.Listener, error) {
		return proxy.AdoptUnix(f, path, mode)
	})
}

func openAdmin(ctx context.Context, address string) (net.Listener, error) {
	var listen net.ListenConfig
	path, isUnix := strings.CutPrefix(address, "unix://")
	if !isUnix {
		l, err := listen.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen for the admin API on %s: %w; set admin.address to a free one", address, err)
		}
		return l, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("make a place for the admin socket: %w; create the directory for this user or set admin.address", err)
	}
	l, err := proxy.ListenUnix(ctx, path, 0o660)
	if err != nil {
		return nil, fmt.Errorf("listen for the admin API on %s: %w; set admin.address to a free place this user may write to", path, err)
	}
	if err := shareSocket(path); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("open the admin socket %s to its group: %w", path, err)
	}
	return l, nil
}

// shareSocket lets the group outrider, where it exists, use the socket.
func shareSocket(path string) error {
	if group, err := user.LookupGroup("outrider"); err == nil && os.Geteuid() == 0 {
		if gid, err := strconv.Atoi(group.Gid); err == nil {
			if err := os.Lchown(path, -1, gid); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Agent) serveAdmin(ctx context.Context, l net.Listener) error {
	if l == nil {
		return nil
	}
	mux := a.adminMux()
	if l.Addr().Network() == "unix" {
		mux.HandleFunc("POST /v1/upgrade", a.upgradeHandler)
		mux.HandleFunc("POST /v1/reload", a.reloadHandler)
	}
	return serveLocally(ctx, l, mux)
}

// maxAdminConns bounds the connections of one listener: any program that shares
// the loopback may open them, and each takes a descriptor from the traffic.
const maxAdminConns = 64

func serveLocally(ctx context.Context, l net.Listener, h http.Handler) error {
	// Profiles extend the time to write by their own.
	limits := bounded.Limits{Conns: maxAdminConns, Header: 64 << 10, Read: 10 * time.Second, Write: 30 * time.Second, Idle: 30 * time.Second}
	if err := bounded.Serve(ctx, l, localOnly(h), limits); err != nil {
		return fmt.Errorf("serve the admin API: %w", err)
	}
	return nil
}

// localOnly refuses requests that name another host: a web page that has made
// its own name resolve to this machine must not read the admin API through the
// browser of somebody who works here.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if host != "localhost" && host != "outrider" && (err != nil || !ip.IsLoopback()) {
			answer(w, http.StatusForbidden, "the admin API answers to localhost only")
			return
		}
		if fromElsewhere(r) {
			answer(w, http.StatusForbidden, "the admin API answers to no other site's pages")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// maxGathers bounds how many read all counters at once: any program of the host may
// ask for them.
const maxGathers = 4

func fewAtOnce(next http.Handler) http.Handler {
	slots := make(chan struct{}, maxGathers)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeHTTP(w, r)
		default:
			answer(w, http.StatusTooManyRequests, fmt.Sprintf("the counters are being read %d times already; ask again", maxGathers))
		}
	})
}

// fromElsewhere reports whether a page of another site makes the request: by what
// browsers say of it (Fetch, Origin; Fetch Metadata, Sec-Fetch-Site), which pages
// cannot change. Following a link to our page is not that.
func fromElsewhere(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "cross-site", "same-site":
		return r.Header.Get("Sec-Fetch-Mode") != "navigate" || r.Header.Get("Sec-Fetch-Dest") != "document" || r.URL.Path != "/"
	}
	origin := r.Header.Get("Origin")
	return origin != "" && origin != "http://"+r.Host
}

// readyMux answers what may be known without seeing anything else.
func (a *Agent) readyMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "live") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		ready, text := a.readiness()
		if !ready {
			answer(w, http.StatusServiceUnavailable, text)
			return
		}
		answer(w, http.StatusOK, text)
	})
	return mux
}

func (a *Agent) adminMux() *http.ServeMux {
	mux := a.readyMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { answerJSON(w, a.Status(r.Context())) })
	mux.HandleFunc("GET /v1/snapshot", func(w http.ResponseWriter, _ *http.Request) { answerJSON(w, a.snapshots()) })
	mux.Handle("GET /v1/explain", a.observed.explain)
	mux.Handle("GET /v1/failures", a.observed.failures)
	mux.Handle("GET /v1/edges", a.observed.edges)
	mux.Handle("GET /v1/series", fewAtOnce(page.Counts(a.observed.gatherers)))
	mux.Handle("GET /v1/tap", a.observed.tap) // which answers on a unix socket only
	mux.Handle("GET /metrics", a.observed.metrics.Handler())
	mux.Handle("GET /{$}", a.observed.page)
	mux.Handle("GET /page/", a.observed.page)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// snapshots is the snapshot in force of each sidecar, by proxy ID. Keys are not
// part of it.
func (a *Agent) snapshots() map[string]any {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]any)
	for _, s := range a.sidecars {
		if ses := s.now.Load(); ses != nil {
			out[ses.id()] = dump(ses.proxy.Snapshot())
		}
	}
	return out
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text)
}

func answerJSON(w http.ResponseWriter, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		answer(w, http.StatusInternalServerError, fmt.Sprintf("encode the answer: %v", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}
