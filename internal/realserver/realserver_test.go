// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package realserver_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

func TestMain(m *testing.M) {
	// The helper of TestServersDieWithTheTestProcess is this program again.
	if os.Getenv("REALSERVER_ORPHAN") != "" {
		m.Run()
		return
	}
	goleak.VerifyTestMain(m)
}

func put(t *testing.T, url, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := do(t, request); status != http.StatusOK {
		t.Fatalf("PUT %s: status %d: %s", url, status, answer)
	}
}

func do(t *testing.T, request *http.Request) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, request)
}

// unreachable returns the error of a question that must not be answered.
func unreachable(t *testing.T, url string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err == nil {
		answer.Body.Close()
		t.Fatalf("GET %s: status %d, want no answer", url, answer.StatusCode)
	}
	return err
}

// Tests choose ports long before anybody binds them.
func TestAnAddressIsNotHandedOutTwiceWhileATestRuns(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 500 {
		addr := realserver.FreeAddr(t)
		if seen[addr] {
			t.Fatalf("%s was handed out twice", addr)
		}
		seen[addr] = true
	}
}

func TestPersistentConsulKeepsStateAndAddressOverRestart(t *testing.T) {
	t.Parallel()
	c := realserver.StartConsul(t, realserver.Persistent(), realserver.HCL(`node_meta { rack = "r1" }`))
	url := "http://" + c.Addr + "/v1/kv/kept"
	put(t, url, "value")
	c.Stop()
	if err := unreachable(t, url); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Stop: %v, want connection refused", err)
	}
	c.Start(t)
	if status, body := get(t, url+"?raw"); status != http.StatusOK || body != "value" {
		t.Errorf("after Start: status %d, body %q", status, body)
	}
	if _, body := get(t, "http://"+c.Addr+"/v1/catalog/node/lab"); !strings.Contains(body, `"rack":"r1"`) {
		t.Errorf("the HCL fragment did not reach the agent: %s", body)
	}
}

func TestPausedConsulHangsAndResumes(t *testing.T) {
	t.Parallel()
	c := realserver.StartConsul(t)
	url := "http://" + c.Addr + "/v1/status/leader"
	c.Pause(t)
	if err := unreachable(t, url); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("paused: %v, want a timeout", err)
	}
	c.Resume(t)
	if status, body := get(t, url); status != http.StatusOK || body == `""` {
		t.Errorf("resumed: status %d, body %q", status, body)
	}
}

func TestConsulWithTokenIsReadyForIt(t *testing.T) {
	t.Parallel()
	const token = "11111111-1111-1111-1111-111111111111"
	c := realserver.StartConsul(t, realserver.Token(token), realserver.HCL(
		`acl { enabled = true default_policy = "deny" tokens { initial_management = "`+token+`" agent = "`+token+`" } }`))
	if status, _ := get(t, "http://"+c.Addr+"/v1/acl/tokens"); status != http.StatusForbidden {
		t.Errorf("without a token: status %d, want 403", status)
	}
	if out := c.Command(t, "acl", "token", "read", "-self"); !strings.Contains(out, "Initial Management Token") {
		t.Errorf("Command did not use the token: %s", out)
	}
}

func TestConnectProxyServesTheSidecarOfAService(t *testing.T) {
	t.Parallel()
	c := realserver.StartConsul(t)
	addr := realserver.FreeAddr(t)
	port := addr[strings.LastIndex(addr, ":")+1:]
	// The proxy dials the application before it shakes hands.
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	put(t, "http://"+c.Addr+"/v1/agent/service/register", fmt.Sprintf(
		`{"Name":"api","ID":"api-1","Port":%d,"Connect":{"SidecarService":{"Address":"127.0.0.1","Port":%s}}}`,
		app.Addr().(*net.TCPAddr).Port, port))
	p := c.ConnectProxy(t, "api-1")
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}}
	// The builtin proxy opens its listener just after it says it is ready.
	eventually(t, func() string {
		conn, err := dialer.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			return ""
		}
		conn.Close()
		return "served"
	})
	p.Stop()
	if _, err := dialer.DialContext(t.Context(), "tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Stop: %v, want connection refused", err)
	}
}

func TestEnvoyServesTheSidecarOfAService(t *testing.T) {
	t.Parallel()
	c := realserver.StartConsul(t)
	addr := realserver.FreeAddr(t)
	// Envoy dials the application before it shakes hands.
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer app.Close()
	put(t, "http://"+c.Addr+"/v1/agent/service/register", fmt.Sprintf(
		`{"Name":"api","ID":"api-1","Port":%d,"Connect":{"SidecarService":{"Address":"127.0.0.1","Port":%s}}}`,
		app.Addr().(*net.TCPAddr).Port, addr[strings.LastIndex(addr, ":")+1:]))
	e := realserver.StartEnvoy(t, c, "api-1-sidecar-proxy")
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
	conn, err := dialer.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatalf("shake hands with Envoy: %v", err)
	}
	defer conn.Close()
	leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].Path != "/ns/default/dc/dc1/svc/api" {
		t.Errorf("Envoy presents %v", leaf.URIs)
	}
	e.Stop()
	if _, err := dialer.DialContext(t.Context(), "tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after Stop: %v, want connection refused", err)
	}
}

func TestVaultRestartsEmptyAtTheSameAddress(t *testing.T) {
	t.Parallel()
	v := realserver.StartVault(t)
	addr := v.Addr
	v.Command(t, "secrets", "enable", "-path=mesh", "pki")
	if out := v.Command(t, "secrets", "list"); !strings.Contains(out, "mesh/") {
		t.Errorf("the mount is missing: %s", out)
	}
	v.Stop()
	v.Start(t)
	if v.Addr != addr {
		t.Errorf("address after Start = %s, want %s", v.Addr, addr)
	}
	if out := v.Command(t, "secrets", "list"); strings.Contains(out, "mesh/") {
		t.Errorf("a dev server kept a mount over a restart: %s", out)
	}
}

// TestServersDieWithTheTestProcess starts this test program again, which
// starts a Vault and is killed before it can clean up.
func TestServersDieWithTheTestProcess(t *testing.T) {
	if file := os.Getenv("REALSERVER_ORPHAN"); file != "" {
		v := realserver.StartVault(t)
		if err := os.WriteFile(file, []byte(v.Addr), 0o600); err != nil {
			t.Fatal(err)
		}
		<-t.Context().Done()
		return
	}
	t.Parallel()
	file := filepath.Join(t.TempDir(), "addr")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestServersDieWithTheTestProcess$")
	// Killed, it cannot remove its folders: they go with this test's.
	cmd.Env = append(os.Environ(), "REALSERVER_ORPHAN="+file, "TMPDIR="+filepath.Dir(file))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := eventually(t, func() string {
		content, _ := os.ReadFile(file)
		return string(content)
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, func() string {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
		answer, err := client.Get(addr)
		if err == nil {
			answer.Body.Close()
			return ""
		}
		return "gone"
	})
}

// eventually asks until the answer is not empty.
func eventually(t *testing.T, ask func() string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if answer := ask(); answer != "" {
			return answer
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it did not come to pass: %v", ctx.Err())
		case <-ticker.C:
		}
	}
}
