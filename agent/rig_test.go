// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/internal/harness"
	"github.com/outrider-mesh/outrider/internal/miniconsul"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lockedBuffer takes the log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rig is an agent against an embedded Consul.
type rig struct {
	*Agent
	mini  *miniconsul.Server
	admin string
	log   *lockedBuffer
	stop  chan struct{}
	ended chan error
}

// world is an embedded Consul that runs until the test ends.
type world struct {
	mini    *miniconsul.Server
	address string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	mini, err := miniconsul.New(miniconsul.Options{DefaultAllow: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mini.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return &world{mini: mini, address: l.Addr().String()}
}

// config is what a user would write, with services by name.
func (w *world) config(t *testing.T, admin string, services ...string) *hcl.Config {
	t.Helper()
	text := fmt.Sprintf("consul { address = %q }\nadmin { address = \"unix://%s\" }\ndrain {\n propagation = \"0s\"\n timeout = \"2s\"\n}\n", w.address, admin)
	ports := freePorts(t, 2*len(services))
	for i, name := range services {
		text += fmt.Sprintf("service {\n name = %q\n address = \"127.0.0.1\"\n port = %d\n connect {\n sidecar_service {\n port = %d\n}\n}\n}\n", name, ports[2*i], ports[2*i+1])
	}
	cfg, err := hcl.Parse("test.hcl", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// freePorts returns ports that differ: each is held until all are chosen.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// start runs an agent until the test ends.
func start(t *testing.T, w *world, services ...string) *rig {
	t.Helper()
	return startWith(t, w, func(admin string) *hcl.Config { return w.config(t, admin, services...) })
}

// startWith runs an agent with a configuration that is made for its admin socket.
func startWith(t *testing.T, w *world, config func(admin string) *hcl.Config) *rig {
	t.Helper()
	r := &rig{mini: w.mini, admin: filepath.Join(t.TempDir(), "admin.sock"), log: &lockedBuffer{}, stop: make(chan struct{}), ended: make(chan error, 1)}
	var err error
	r.Agent, err = New(Options{
		Config: config(r.admin), Version: "test",
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: r.log}),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { r.ended <- r.Run(ctx, r.stop) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.ended; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(r.log)
		}
	})
	return r
}

// until polls a condition.
func until(t *testing.T, what string, ask func() error) {
	t.Helper()
	harness.Until(t, 20*time.Second, what, ask)
}

// ask gets a path of the admin API over its socket.
func (r *rig) ask(path string) (int, string, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", r.admin)
	}}
	res, err := (&http.Client{Transport: transport}).Get("http://outrider" + path)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

func (r *rig) waitReady(t *testing.T) {
	t.Helper()
	until(t, "it is ready", func() error {
		code, body, err := r.ask("/ready")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d: %s", code, body)
		}
		return err
	})
}

func (r *rig) status(t *testing.T) Status {
	t.Helper()
	code, body, err := r.ask("/v1/status")
	if err != nil || code != http.StatusOK {
		t.Fatalf("%d %s %v", code, body, err)
	}
	var s Status
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// registered is the names of the services that Consul has.
func (w *world) registered(t *testing.T) map[string]any {
	t.Helper()
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + w.address + "/v1/agent/services")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	services := map[string]any{}
	if err := json.NewDecoder(res.Body).Decode(&services); err != nil {
		t.Fatal(err)
	}
	return services
}

// silent is a Consul that never answers, for agents that must not become ready.
func silent(t *testing.T) string {
	t.Helper()
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() {
		close(hang)
		s.Close()
	})
	return s.Listener.Addr().String()
}
