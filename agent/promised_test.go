// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/hcl"
)

// asked gets a path from host:port or from the socket at unix:///path.
func asked(t *testing.T, address, path string) (int, string, error) {
	t.Helper()
	transport, host := &http.Transport{}, address
	if socket, ok := strings.CutPrefix(address, "unix://"); ok {
		host = "outrider"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return DialAdmin(ctx, socket) }
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// What Nomad has promised for Envoy is served, and does not stop the sidecar
// when it cannot be.
func TestPromisedAddressesAreServedAsSoonAsTheyAreFree(t *testing.T) {
	w := newWorld(t)
	var l net.ListenConfig
	taken, err := l.Listen(t.Context(), "tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	admin := taken.Addr().String()
	free, err := l.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := free.Addr().String()
	_ = free.Close()
	socket := filepath.Join(t.TempDir(), strings.Repeat("long", 30), "outrider.sock")
	if err := os.Mkdir(filepath.Dir(socket), 0o777); err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	a, err := New(Options{
		Config: &hcl.Config{Consul: hcl.Consul{Address: w.address}}, Sidecars: []Sidecar{{ProxyID: "p"}},
		Ready: ready, Sockets: []string{"unix://" + socket, admin}, Logger: hclog.New(&hclog.LoggerOptions{Output: log}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx, nil) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(socket); err == nil {
			t.Error("the socket is left behind")
		}
	}()
	eventually(t, func() bool { code, _, err := asked(t, ready, "/live"); return err == nil && code == http.StatusOK })
	for path, want := range map[string]int{"/ready": http.StatusServiceUnavailable, "/": http.StatusNotFound, "/v1/status": http.StatusNotFound, "/v1/snapshot": http.StatusNotFound, "/debug/pprof/": http.StatusNotFound} {
		if code, _, err := asked(t, ready, path); err != nil || code != want {
			t.Errorf("the ready address answers %s with %d, %v", path, code, err)
		}
	}
	eventually(t, func() bool {
		code, _, err := asked(t, "unix://"+socket, "/v1/status")
		return err == nil && code == http.StatusOK
	})
	if info, err := os.Lstat(socket); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	eventually(t, func() bool { return strings.Contains(log.String(), "trying again until the address is free") })
	if !strings.Contains(log.String(), admin) {
		t.Errorf("the log does not name %s: %s", admin, log)
	}
	_ = taken.Close()
	eventually(t, func() bool { code, _, err := asked(t, admin, "/v1/status"); return err == nil && code == http.StatusOK })
}

// Every program that shares the loopback may open connections, and each takes a
// descriptor from the traffic.
func TestAdminConnectionsAreBounded(t *testing.T) {
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serveLocally(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "fine") }))
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var d net.Dialer
	var held []net.Conn
	for range maxAdminConns {
		conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	for range 20 {
		extra, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = extra.SetDeadline(time.Now().Add(4 * time.Second)) // less than any limit of time
		if n, err := extra.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("one connection too many stays open: %v", err)
		}
		_ = extra.Close()
	}
	for _, conn := range held {
		_ = conn.Close()
	}
	eventually(t, func() bool {
		code, _, err := asked(t, l.Addr().String(), "/")
		return err == nil && code == http.StatusOK
	})
}
