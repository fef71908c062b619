// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/harness"
	"github.com/outrider-mesh/outrider/internal/miniconsul"
)

// patience bounds each wait for something that other processes bring about.
const patience = time.Minute

// until polls a condition; err says what is still wrong.
func until(t *testing.T, what string, ask func() error) {
	t.Helper()
	harness.Until(t, patience, what, ask)
}

// mesh is one agent with the service api, in a cgroup, beside an embedded
// Consul.
type mesh struct {
	cgroup  cgroup
	consul  string // host:port
	inbound string // host:port
	admin   string
	log     lockedBuffer
	done    chan struct{}
	client  *tls.Config // of the service web
}

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

// newMesh runs an agent with so many bytes of memory in front of an application of
// a protocol.
func newMesh(t *testing.T, memory int64, protocol string, app net.Addr) *mesh {
	t.Helper()
	m := &mesh{cgroup: newCgroup(t, memory), consul: startConsul(t), done: make(chan struct{})}
	dir := t.TempDir()
	m.admin = filepath.Join(dir, "admin.sock")
	m.inbound = freeAddress(t)
	_, port, _ := net.SplitHostPort(m.inbound)
	m.put(t, "/v1/config", fmt.Sprintf(`{"Kind":"service-defaults","Name":"api","Protocol":%q}`, protocol))
	path := filepath.Join(dir, "outrider.hcl")
	config := fmt.Sprintf(`
consul { address = %q }
admin  { address = "unix://%s" }
drain {
  propagation = "0s"
  timeout     = "1s"
}
service {
  name    = "api"
  address = "127.0.0.1"
  port    = %d
  connect {
    sidecar_service {
      port = %s
    }
  }
}
`, m.consul, m.admin, app.(*net.TCPAddr).Port, port)
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	m.run(t, m.cgroup.within(binary, "agent", "-config", path))
	until(t, "the agent is ready", func() error {
		select {
		case <-m.done:
			t.Fatalf("outrider ended: %s", &m.log)
		default:
		}
		_, err := m.ask("/ready")
		return err
	})
	m.client = m.leaf(t)
	return m
}

func (m *mesh) run(t *testing.T, args []string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &m.log, &m.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(m.done)
	}()
	t.Cleanup(func() {
		select {
		case <-m.done:
			t.Error("outrider ended before the test did")
		default:
		}
		_ = cmd.Process.Kill()
		<-m.done
		if t.Failed() {
			t.Logf("log of outrider:\n%s", &m.log)
		}
	})
}

// startConsul runs an embedded Consul until the test ends, and returns its
// address.
func startConsul(t *testing.T) string {
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
	return l.Addr().String()
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (m *mesh) put(t *testing.T, path, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+m.consul+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := (&http.Client{Timeout: patience}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", path, resp.Status, text)
	}
}

// leaf asks for the certificate of web and returns how it calls.
func (m *mesh) leaf(t *testing.T) *tls.Config {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.consul+"/v1/agent/connect/ca/leaf/web", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	resp, err := (&http.Client{Timeout: patience}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var leaf struct{ CertPEM, PrivateKeyPEM string }
	if err := json.NewDecoder(resp.Body).Decode(&leaf); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true} //nolint:gosec // who api is does not matter here
}

func (m *mesh) ask(path string) ([]byte, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", m.admin)
	}}
	resp, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://outrider" + path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}

// status asks again when a machine that is busy with all of this has let the
// question wait for too long.
func (m *mesh) status(t *testing.T) agent.SidecarStatus {
	t.Helper()
	var s agent.Status
	until(t, "the agent says how it is", func() error {
		body, err := m.ask("/v1/status")
		if err != nil {
			return err
		}
		s = agent.Status{}
		if err := json.Unmarshal(body, &s); err != nil || len(s.Sidecars) != 1 {
			t.Fatalf("status %s: %v", body, err)
		}
		return nil
	})
	return s.Sidecars[0]
}

// refusals is how many times something was refused for a limit, and the last
// sentence about it.
func (m *mesh) refusals(t *testing.T) (int64, string) {
	t.Helper()
	s := m.status(t).Proxy
	last := ""
	for _, r := range s.Recent {
		if r.Reason == connect.LimitExceeded {
			last = r.Text
		}
	}
	return s.Refused[connect.LimitExceeded], last
}

// dial opens one connection of web to api.
func (m *mesh) dial(ctx context.Context) (*tls.Conn, error) {
	d := net.Dialer{Timeout: patience}
	socket, err := d.DialContext(ctx, "tcp", m.inbound)
	if err != nil {
		return nil, err
	}
	c := tls.Client(socket, m.client)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return c, nil
}

// alive fails the test if the kernel has killed the agent.
func (m *mesh) alive(t *testing.T) {
	t.Helper()
	if n := m.cgroup.kills(t); n > 0 {
		t.Fatalf("the kernel has killed %d times for want of memory: %s", n, m.cgroup.use(t))
	}
}
