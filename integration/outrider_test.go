// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/internal/harness"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// patience bounds each wait for something that other processes bring about. It
// only ever runs out when a test fails, so it is for the slowest of machines.
const patience = time.Minute

// until polls a condition; err says what is still wrong.
func until(t *testing.T, what string, ask func() error) {
	t.Helper()
	untilWithin(t, patience, what, ask)
}

// untilWithin is until for what takes its time by design.
func untilWithin(t *testing.T, limit time.Duration, what string, ask func() error) {
	t.Helper()
	harness.Until(t, limit, what, ask)
}

// outrider is one running process.
type outrider struct {
	program string // another than binary, unless empty
	cmd     *exec.Cmd
	admin   string // path of the admin socket
	log     *lockedBuffer
	output  string // file that it and its successors write to, instead of log, unless empty
	done    chan struct{}
}

// text is what it wrote.
func (o *outrider) text() string {
	if o.output == "" {
		return o.log.String()
	}
	text, err := os.ReadFile(o.output)
	if err != nil {
		return err.Error()
	}
	return string(text)
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

// start runs outrider with a configuration and waits until it is ready.
func start(t *testing.T, consul *realserver.Consul, config string) *outrider {
	t.Helper()
	o := &outrider{}
	o.configure(t, consul, config)
	return o
}

// configure runs the process as an agent and waits until it is ready.
func (o *outrider) configure(t *testing.T, consul *realserver.Consul, config string) {
	t.Helper()
	dir := t.TempDir()
	o.admin = filepath.Join(dir, "admin.sock")
	config = fmt.Sprintf("consul { address = %q }\nadmin { address = \"unix://%s\" }\nlog { level = \"debug\" }\n", consul.Addr, o.admin) + config
	path := filepath.Join(dir, "outrider.hcl")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	o.run(t, consul, "agent", "-config", path)
	o.waitReady(t)
}

// run starts the process with the environment of Consul's own commands.
func (o *outrider) run(t *testing.T, consul *realserver.Consul, args ...string) {
	t.Helper()
	o.runWith(t, append(os.Environ(), consul.Env()...), args...)
}

// runWith starts the process; it is ended with the test, and a data race or a
// panic in it fails the test.
func (o *outrider) runWith(t *testing.T, env []string, args ...string) {
	t.Helper()
	o.log, o.done = &lockedBuffer{}, make(chan struct{})
	o.cmd = exec.Command(cmp.Or(o.program, binary), args...)
	o.cmd.Env = env
	o.cmd.Stdout, o.cmd.Stderr = o.log, o.log
	if o.output != "" {
		// A process that waits for a pipe waits for everybody who writes to it.
		f, err := os.OpenFile(o.output, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		o.cmd.Stdout, o.cmd.Stderr = f, f
	}
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = o.cmd.Wait()
		close(o.done)
	}()
	t.Cleanup(func() {
		o.end(t)
		if text := o.text(); t.Failed() {
			t.Logf("log of outrider:\n%s", text)
		} else if strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic") {
			t.Errorf("outrider raced or panicked:\n%s", text)
		}
	})
}

// end sends SIGTERM until the process has ended: a second one ends it at once,
// but two in a row are one to a process that did not run in between.
func (o *outrider) end(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(patience); ; {
		_ = o.cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
		select {
		case <-o.done:
			return
		case <-deadline:
			_ = o.cmd.Process.Kill()
			<-o.done
			t.Error("outrider did not end on a second SIGTERM")
			return
		case <-tick.C:
		}
	}
}

func (o *outrider) waitReady(t *testing.T) {
	t.Helper()
	until(t, "outrider is ready", func() error {
		select {
		case <-o.done:
			t.Fatalf("outrider ended: %s", o.log)
		default:
		}
		_, err := o.ask("/ready")
		return err
	})
}

func (o *outrider) ask(path string) ([]byte, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", o.admin)
	}}
	res, err := (&http.Client{Transport: transport, Timeout: patience}).Get("http://outrider" + path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, body)
	}
	return body, err
}

// status is that of the first sidecar.
func (o *outrider) status(t *testing.T) agent.SidecarStatus {
	t.Helper()
	body, err := o.ask("/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	var s agent.Status
	if err := json.Unmarshal(body, &s); err != nil || len(s.Sidecars) == 0 {
		t.Fatalf("status %s: %v", body, err)
	}
	return s.Sidecars[0]
}

// usableEndpoints waits until upstream number 0 has n endpoints in use.
func (o *outrider) usableEndpoints(t *testing.T, n int) {
	t.Helper()
	until(t, fmt.Sprintf("%d endpoints are in use", n), func() error {
		s := o.status(t)
		if len(s.Proxy.Upstreams) == 0 {
			return fmt.Errorf("no upstream yet")
		}
		got := 0
		for _, target := range s.Proxy.Upstreams[0].Targets {
			for _, e := range target.Endpoints {
				if e.NotUsed == "" {
					got++
				}
			}
		}
		if got != n {
			return fmt.Errorf("%d are: %+v", got, s.Proxy.Upstreams[0])
		}
		return nil
	})
}

// service is what the tests vary in a service stanza.
type service struct {
	id, name string
	app      net.Addr // where the application listens; nil for none
	upstream string   // a service to call, "" for none
	port     int      // of that upstream's listener
	more     []listen // more upstreams
	inbound  int      // port of the inbound listener; 0 for any

	block  string            // more of the service block
	proxy  string            // more of the proxy block
	config map[string]string // of upstreams, by name: what is in their config block
}

// listen is an upstream and the port of its local listener.
type listen struct {
	upstream string
	port     int
}

// stanza is the service in our configuration language, with quick checks.
func (s service) stanza(t *testing.T) string {
	t.Helper()
	appPort := 1
	if s.app != nil {
		appPort = s.app.(*net.TCPAddr).Port
	}
	inbound := s.inbound
	if inbound == 0 {
		inbound = freePort(t)
	}
	all := s.more
	if s.upstream != "" {
		all = append([]listen{{s.upstream, s.port}}, all...)
	}
	var upstreams strings.Builder
	for _, u := range all {
		config := ""
		if c := s.config[u.upstream]; c != "" {
			config = "        config {\n" + c + "\n        }\n"
		}
		fmt.Fprintf(&upstreams, "      upstreams {\n        destination_name = %q\n        local_bind_port  = %d\n%s      }\n", u.upstream, u.port, config)
	}
	id := s.id
	if id == "" {
		id = s.name
	}
	return fmt.Sprintf(`
service {
  id      = %q
  name    = %q
  address = "127.0.0.1"
  port    = %d
%s
  connect {
    sidecar_service {
      port = %d
      check {
        name     = "sidecar listens"
        tcp      = "127.0.0.1:%d"
        interval = "500ms"
      }
      proxy {
%s%s
      }
    }
  }
}
`, id, s.name, appPort, s.block, inbound, inbound, upstreams.String(), s.proxy)
}

func freePort(t *testing.T) int {
	t.Helper()
	_, port, err := net.SplitHostPort(realserver.FreeAddr(t))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
