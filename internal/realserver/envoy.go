// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package realserver

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// envoyVersion is the version the tests were written for. It is newer than what
// Consul 1.22 supports officially, which Consul is told to overlook.
const envoyVersion = "1.36.4"

// An Envoy is one running Envoy that Consul configures over xDS.
type Envoy struct {
	*process

	// Admin is host:port of Envoy's admin API.
	Admin string
}

// StartEnvoy runs Envoy as the sidecar with a proxy ID that is registered at
// consul, and waits until it has its listeners. It is killed when t ends; its
// log is shown if t has failed.
func StartEnvoy(t testing.TB, consul *Consul, proxyID string) *Envoy {
	t.Helper()
	return StartEnvoyWithWorkers(t, consul, proxyID, 1)
}

// StartEnvoyWithWorkers is StartEnvoy with a number of threads that serve.
func StartEnvoyWithWorkers(t testing.TB, consul *Consul, proxyID string, workers int) *Envoy {
	t.Helper()
	path := binary(t, "envoy", "OUTRIDER_ENVOY", envoyVersion)
	dir := t.TempDir()
	e := &Envoy{}
	var err error
	for range 3 {
		e.Admin = FreeAddr(t)
		bootstrap := consul.Command(t, "connect", "envoy", "-proxy-id", proxyID, "-bootstrap", "-ignore-envoy-compatibility",
			"-admin-bind", e.Admin, "-grpc-addr", consul.GRPC)
		file := filepath.Join(dir, "bootstrap.json")
		if err := os.WriteFile(file, []byte(bootstrap), 0o600); err != nil {
			t.Fatalf("start envoy for %q: write its bootstrap: %v", proxyID, err)
		}
		e.process = start(t, "envoy-"+proxyID, dir, path, []string{
			"-c", file, "--disable-hot-restart", "--concurrency", strconv.Itoa(workers), "-l", "warn",
		}, nil)
		if err = e.until(t, e.ready); !errors.Is(err, errExited) || !strings.Contains(e.Output(), "Address already in use") {
			break
		}
	}
	if err != nil {
		t.Fatalf("start envoy for %q: %v; its log:\n%s", proxyID, err, e.Output())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of envoy for %s:\n%s", proxyID, e.Output())
		}
	})
	return e
}

// ready returns nil once Envoy has what xDS gives it.
func (e *Envoy) ready(ctx context.Context) error {
	_, err := e.Ask(ctx, "/ready")
	return err
}

// Ask returns the answer of Envoy's admin API to a GET, such as "/stats" and
// "/config_dump", at most 1 MiB of it.
func (e *Envoy) Ask(ctx context.Context, path string) ([]byte, error) {
	return get(ctx, "http://"+e.Admin+path, "", "")
}

// Stop kills Envoy and returns when it is gone.
func (e *Envoy) Stop() { e.kill() }
