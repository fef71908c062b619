// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"bytes"
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestConcurrencyLeavesOneForUpkeep(t *testing.T) {
	for _, c := range []struct{ concurrency, available, want int }{{0, 8, 8}, {1, 8, 2}, {1, 1, 1}, {4, 8, 5}, {8, 8, 8}, {100, 8, 8}, {math.MaxInt, 8, 8}} {
		if got := processors(c.concurrency, c.available); got != c.want {
			t.Errorf("--concurrency %d of %d: %d, want %d", c.concurrency, c.available, got, c.want)
		}
	}
}

func TestLogLevelsOfEnvoyAreOurs(t *testing.T) {
	for envoy, want := range map[string]string{"trace": "trace", "debug": "debug", "info": "info", "warning": "warn", "warn": "warn", "error": "error", "critical": "error", "off": "off"} {
		if got, ok := logLevel(envoy); !ok || got != want {
			t.Errorf("%s: %q, %t", envoy, got, ok)
		}
	}
	if got, ok := logLevel("loud"); ok {
		t.Errorf("loud: %q", got)
	}
}

func run(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, exe, args...)
	cmd.Args[0] = "outrider" // by which testscript's TestMain knows what to be
	return cmd
}

// spoken takes what a process says.
type spoken struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *spoken) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *spoken) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Nomad's default arguments without a bootstrap: the task must not use up its
// restarts, and SIGINT, by which Nomad stops it, is a good end.
func TestSidecarTaskWithoutABootstrapStaysAliveUntilItIsStopped(t *testing.T) {
	dir := t.TempDir()
	for name, args := range map[string][]string{
		"as Envoy": {"-c", dir + "/envoy_bootstrap.json", "-l", "info", "--concurrency", "1", "--disable-hot-restart"},
		"sidecar":  {"sidecar"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := run(ctx, t, args...)
			cmd.Env = append(cmd.Env, "NOMAD_ALLOC_ID=a", "NOMAD_TASK_NAME=connect-proxy-api", "NOMAD_GROUP_NAME=api", "NOMAD_SECRETS_DIR="+dir)
			stderr := &spoken{}
			cmd.Stderr = stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for !strings.Contains(stderr.String(), "looking again") && ctx.Err() == nil {
				<-tick.C
			}
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
			if !strings.Contains(stderr.String(), "the consul binary on the Nomad agent's PATH") {
				t.Errorf("it said: %s", stderr)
			}
		})
	}
}

func TestWaitIsOverWhenTheSidecarIsReady(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ready" || asked.Add(1) < 3 {
			http.Error(w, "waits for intentions", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	address := strings.TrimPrefix(server.URL, "http://")
	var stdout, stderr bytes.Buffer
	if code := Run([]string{"wait", "-addr", address, "-timeout", "20s"}, nil, &stdout, &stderr); code != exitOK || asked.Load() != 3 {
		t.Errorf("exit %d after %d: %s", code, asked.Load(), &stderr)
	}
	t.Setenv("NOMAD_ENVOY_READY_ADDR_api", address)
	if code := Run([]string{"wait"}, nil, &stdout, &stderr); code != exitOK || asked.Load() != 4 {
		t.Errorf("by Nomad's environment: exit %d: %s", code, &stderr)
	}
	asked.Store(-1000)
	if code := Run([]string{"wait", "-timeout", "300ms"}, nil, &stdout, &stderr); code != exitFailed ||
		!strings.Contains(stderr.String(), "was not ready within 300ms: 503 Service Unavailable: waits for intentions") {
		t.Errorf("exit %d: %s", code, &stderr)
	}
	t.Setenv("NOMAD_ENVOY_READY_ADDR_api", "")
	t.Setenv("OUTRIDER_ADMIN", "")
	t.Setenv("NOMAD_UPSTREAM_ADDR_api", address)
	if code := Run([]string{"wait"}, nil, &stdout, &stderr); code != exitOK {
		t.Errorf("an upstream accepts connections: exit %d: %s", code, &stderr)
	}
	server.Close()
	if code := Run([]string{"wait", "-timeout", "300ms"}, nil, &stdout, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "refused") {
		t.Errorf("an upstream accepts no more: exit %d: %s", code, &stderr)
	}
	t.Setenv("NOMAD_UPSTREAM_ADDR_api", "")
	if code := Run([]string{"wait"}, nil, &stdout, &stderr); code != exitUsage || !strings.Contains(stderr.String(), "give -addr HOST:PORT") {
		t.Errorf("without an address: exit %d: %s", code, &stderr)
	}
}
