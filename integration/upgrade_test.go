// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/outrider-mesh/outrider/internal/harness"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// release builds the program as it is released, under another version.
func release(t *testing.T, version string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "outrider-"+version)
	if err := harness.Release(file, "..", "-X github.com/outrider-mesh/outrider/version.version="+version); err != nil {
		t.Fatal(err)
	}
	return file
}

// A host is an agent that is reloaded and upgraded: its program and its
// configuration are files that change.
type host struct {
	*outrider
	dir, file string
	config    func(round int) string
	pid       int
}

// newHost installs and runs an agent.
func newHost(t *testing.T, consul *realserver.Consul, program string, config func(round int) string) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{dir: dir, file: filepath.Join(dir, "config.hcl"), outrider: &outrider{program: filepath.Join(dir, "outrider"), admin: filepath.Join(dir, "admin.sock"), output: filepath.Join(dir, "log")}}
	h.config = func(round int) string {
		return fmt.Sprintf("consul { address = %q }\nadmin { address = \"unix://%s\" }\ndrain {\n  timeout = %q\n}\n%s", consul.Addr, h.admin, drainFor, config(round))
	}
	h.install(t, program)
	h.configure(t, 0)
	h.run(t, consul, "agent", "-config", h.file)
	h.pid = h.cmd.Process.Pid
	h.waitReady(t)
	return h
}

// install replaces the program on disk, as a package does.
func (h *host) install(t *testing.T, program string) {
	t.Helper()
	if err := os.Link(program, h.program+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(h.program+".new", h.program); err != nil {
		t.Fatal(err)
	}
}

func (h *host) configure(t *testing.T, round int) {
	t.Helper()
	if err := os.WriteFile(h.file, []byte(h.config(round)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// reload changes the configuration and waits until it is in force.
func (h *host) reload(t *testing.T, round int) {
	t.Helper()
	h.configure(t, round)
	before := strings.Count(h.text(), "outrider: reloaded")
	if err := syscall.Kill(h.pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	until(t, fmt.Sprintf("reload %d", round), func() error {
		if strings.Count(h.text(), "outrider: reloaded") == before {
			return errors.New("it is not done")
		}
		return nil
	})
}

// upgrade runs the command that a person types, and returns what it says.
func (h *host) upgrade(t *testing.T) (string, error) {
	t.Helper()
	out, err := exec.Command(h.program, "upgrade", "-admin", "unix://"+h.admin).CombinedOutput()
	return string(out), err
}

// upgraded is upgrade for one that must succeed. The new process is ended with
// the test.
func (h *host) upgraded(t *testing.T, version string) {
	t.Helper()
	out, err := h.upgrade(t)
	if err != nil || !strings.Contains(out, version) {
		t.Fatalf("upgrade: %v: %s", err, out)
	}
	if _, err := fmt.Sscanf(out[strings.Index(out, "process "):], "process %d,", &h.pid); err != nil {
		t.Fatalf("upgrade says %q", out)
	}
	pid := h.pid
	t.Cleanup(func() { reap(t, pid) })
}

// reap ends a process that became ours when its parent ended. One signal, as a
// second would end it before it has left the mesh.
func reap(t *testing.T, pid int) {
	t.Helper()
	_ = syscall.Kill(pid, syscall.SIGTERM)
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		if got, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); got == pid || errors.Is(err, syscall.ECHILD) {
			return
		}
		time.Sleep(20 * time.Millisecond) // there is no event to wait for beside Wait4, which would block
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	t.Errorf("process %d did not end on SIGTERM", pid)
}

const (
	drainFor     = "15s"
	manyOpen     = 1000
	perSecond    = 500
	reloadsEach  = 5 // of each of two hosts
	requestsLive = 64
)

// steady sends requests at a rate, however long they take, and keeps what failed.
type steady struct {
	cancel context.CancelFunc
	all    sync.WaitGroup
	sent   atomic.Int64
	late   atomic.Int64 // not sent for want of a free worker
	mu     sync.Mutex
	faults []string
}

func startSteady(t *testing.T, rate int, ask func(ctx context.Context, n int64) error) *steady {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &steady{cancel: cancel}
	work := make(chan int64)
	for range requestsLive {
		s.all.Go(func() {
			for n := range work {
				if err := ask(context.Background(), n); err != nil {
					s.mu.Lock()
					s.faults = append(s.faults, err.Error())
					s.mu.Unlock()
				}
			}
		})
	}
	s.all.Go(func() {
		defer close(work)
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for n := int64(0); ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case work <- n:
				s.sent.Add(1)
			default:
				s.late.Add(1)
			}
		}
	})
	t.Cleanup(func() { s.end() })
	return s
}

func (s *steady) end() []string {
	s.cancel()
	s.all.Wait()
	return s.faults
}

// pingAll uses every open connection once.
func pingAll(t *testing.T, when string, all []*call) {
	t.Helper()
	var wait sync.WaitGroup
	var failed atomic.Int64
	var first atomic.Value
	for part := range 8 {
		wait.Go(func() {
			for i := part; i < len(all); i += 8 {
				if err := all[i].ping(); err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, err.Error())
				}
			}
		})
	}
	wait.Wait()
	if failed.Load() > 0 {
		t.Fatalf("%s: %d of %d open connections failed, the first: %v", when, failed.Load(), len(all), first.Load())
	}
}

// TestUpgradesAndReloadsUnderLoadFailNothing holds connections and sends requests
// through two agents, each of which is reloaded five times and replaced by another
// version.
func TestUpgradesAndReloadsUnderLoadFailNothing(t *testing.T) {
	// What an old process leaves behind becomes ours to wait for.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	old, next := release(t, "1.0.0"), release(t, "2.0.0")
	consul := realserver.StartConsul(t)
	entry(t, consul, `{"Kind":"service-defaults","Name":"shop","Protocol":"http"}`)
	entry(t, consul, `{"Kind":"service-defaults","Name":"buyer","Protocol":"http"}`)
	apiApp, shopApp := app(t, "api"), serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, "sold") }))
	tcpPort, httpPort := freePort(t), freePort(t)
	inbound := map[string]int{"api": freePort(t), "shop": freePort(t), "web": freePort(t), "buyer": freePort(t)}
	// Each round changes what Consul has of a service.
	callees := func(round int) string {
		meta := fmt.Sprintf("  meta = { round = \"%d\" }", round)
		return service{name: "api", inbound: inbound["api"], app: apiApp, block: meta}.stanza(t) + service{name: "shop", inbound: inbound["shop"], app: shopApp, block: meta}.stanza(t)
	}
	callers := func(round int) string {
		meta := fmt.Sprintf("  meta = { round = \"%d\" }", round)
		return service{name: "web", inbound: inbound["web"], upstream: "api", port: tcpPort, block: meta}.stanza(t) + service{name: "buyer", inbound: inbound["buyer"], upstream: "shop", port: httpPort, block: meta}.stanza(t)
	}
	far, near := newHost(t, consul, old, callees), newHost(t, consul, old, callers)
	near.endpoints(t, "web", 1)
	near.endpoints(t, "buyer", 1)

	var open []*call
	for range manyOpen {
		open = append(open, mustDial(t, tcpPort))
	}
	caller := newCaller(t, httpPort, false)
	load := startSteady(t, perSecond, func(ctx context.Context, n int64) error {
		method, body := http.MethodGet, ""
		if n%5 == 0 {
			method, body = http.MethodPost, "an order" // which nobody may send twice
		}
		got, err := caller.send(ctx, method, "/", body)
		if err == nil && (got.status != http.StatusOK || got.text != "sold") {
			err = fmt.Errorf("%s: status %d, %s: %.100q", method, got.status, got.refused(), got.text)
		}
		return err
	})
	for _, h := range []*host{far, near} {
		for round := 1; round <= reloadsEach; round++ {
			h.reload(t, round)
			pingAll(t, fmt.Sprintf("after reload %d", round), open)
		}
		h.install(t, next)
		h.upgraded(t, "2.0.0")
		began := time.Now()
		pingAll(t, "after the upgrade", open)
		for i := range 20 { // new ones go to the new process
			c := mustDial(t, tcpPort)
			if err := c.ping(); err != nil {
				t.Fatalf("new connection %d: %v", i, err)
			}
			_ = c.Close()
		}
		// Nothing is cut before its time.
		for time.Since(began) < 10*time.Second {
			pingAll(t, fmt.Sprintf("%v after the upgrade", time.Since(began)), open)
		}
		select {
		case <-h.done:
			t.Fatal("the old process ended although it had connections")
		default:
		}
		for _, c := range open {
			_ = c.Close()
		}
		select {
		case <-h.done:
		case <-time.After(patience):
			t.Fatal("the old process did not end although its connections have")
		}
		if code := h.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the old process ended with code %d", code)
		}
		open = nil
		for range manyOpen {
			open = append(open, mustDial(t, tcpPort))
		}
	}
	faults := load.end()
	if len(faults) > 0 {
		t.Errorf("%d requests failed, the first: %s", len(faults), faults[0])
	}
	t.Logf("%d requests at %d a second, %d not sent in time, %d failed; %d connections through %d reloads and 2 upgrades", load.sent.Load(), perSecond, load.late.Load(), len(faults), manyOpen, 2*reloadsEach)
	for _, name := range []string{"api", "shop", "web", "buyer"} {
		if out := consul.Command(t, "catalog", "services"); !strings.Contains(out, name) {
			t.Errorf("%s is not registered after the upgrade: %s", name, out)
		}
	}
}

// TestAFailedUpgradeLeavesEverythingAsItWas has programs and configurations take
// over that cannot.
func TestAFailedUpgradeLeavesEverythingAsItWas(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t, realserver.HCL(defaultDeny))
	intend(t, consul, "allow", "web", "api")
	port, inbound := freePort(t), freePort(t)
	apiApp := app(t, "api")
	h := newHost(t, consul, release(t, "1.0.0"), func(round int) string {
		if round < 0 {
			return "service {\n  nonsense = true\n}\n"
		}
		return service{name: "api", app: apiApp, inbound: inbound, block: fmt.Sprintf("  meta = { round = \"%d\" }", round)}.stanza(t)
	})
	start(t, consul, service{name: "web", upstream: "api", port: port}.stanza(t))
	until(t, "calls are allowed", func() error { return pingOnce(port) })
	c := mustDial(t, port)
	script := filepath.Join(t.TempDir(), "ends")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho 'this one cannot' >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, failure := range []struct {
		name    string
		program string
		round   int
		says    string
	}{
		{"a program that ends", script, 1, "start a successor: exit status 3"},
		{"a configuration with a mistake", release(t, "2.0.0"), -1, "has mistakes"},
	} {
		h.install(t, failure.program)
		h.configure(t, failure.round)
		out, err := exec.Command(binary, "upgrade", "-admin", "unix://"+h.admin).CombinedOutput()
		if ended, ok := errors.AsType[*exec.ExitError](err); !ok || ended.ExitCode() != 3 || !strings.Contains(string(out), "the running process goes on") || !strings.Contains(string(out), failure.says) {
			t.Errorf("%s: %v: %s", failure.name, err, out)
		}
		if err := c.ping(); err != nil {
			t.Errorf("%s: an open connection: %v", failure.name, err)
		}
		if err := pingOnce(port); err != nil {
			t.Errorf("%s: a new connection: %v", failure.name, err)
		}
	}
	// It is all there still: a reload is obeyed, and so are intentions.
	h.reload(t, 5)
	until(t, "the registration follows", func() error {
		if out := consul.Command(t, "catalog", "nodes", "-service", "api", "-detailed"); !strings.Contains(out, "lab") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	intend(t, consul, "deny", "web", "api")
	c.closedWithin(t, patience)
}

// TestAnUpgradeAppliesTheNewConfiguration takes one service away, moves another
// to another port, and adds a third.
func TestAnUpgradeAppliesTheNewConfiguration(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	consul := realserver.StartConsul(t)
	socket := filepath.Join(t.TempDir(), "api.sock")
	ports := []int{freePort(t), freePort(t), freePort(t), freePort(t)}
	apiApp, gone := app(t, "api"), freePort(t)
	metrics := realserver.FreeAddr(t)
	h := newHost(t, consul, release(t, "1.0.0"), func(round int) string {
		api := service{name: "api", app: apiApp, inbound: ports[round]}.stanza(t)
		web := service{name: "web", inbound: ports[2], upstream: "api", port: gone}
		if round == 1 {
			web.name, web.inbound, web.upstream = "shop", ports[3], ""
			web.proxy = fmt.Sprintf("upstreams {\n destination_name = \"api\"\n local_bind_socket_path = %q\n}\n", socket)
		}
		return fmt.Sprintf("telemetry { prometheus_address = %q }\n", metrics) + api + web.stanza(t)
	})
	until(t, "calls pass", func() error { return pingOnce(gone) })
	c := mustDial(t, gone)
	h.configure(t, 1)
	h.upgraded(t, "1.0.0")
	if err := c.ping(); err != nil {
		t.Errorf("an open connection of a service that is gone: %v", err)
	}
	// It leaves Consul first, so that nobody is sent where nobody listens.
	until(t, "the listener of a service that is gone is closed", func() error {
		if pingOnce(gone) == nil {
			return errors.New("it still serves")
		}
		return nil
	})
	_ = c.Close()
	<-h.done
	until(t, "the catalog holds what the new configuration has", func() error {
		out := consul.Command(t, "catalog", "services")
		if strings.Contains(out, "web") || !strings.Contains(out, "shop") || !strings.Contains(out, "api") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if s := h.sidecar(t, "api"); !strings.HasSuffix(s.Proxy.Inbound.Address, fmt.Sprintf(":%d", ports[1])) {
		t.Errorf("api listens on %s, want port %d", s.Proxy.Inbound.Address, ports[1])
	}
	// Who reads metrics reads those of the process in charge.
	if text, err := scraped(t, metrics); err != nil || !strings.Contains(text, `service="shop"`) || strings.Contains(text, `service="web"`) {
		t.Errorf("metrics after the upgrade: %v\n%s", err, text)
	}
	// A unix socket is left to the next process, and goes with the last.
	h.upgraded(t, "1.0.0")
	if _, err := scraped(t, metrics); err != nil {
		t.Errorf("metrics after another upgrade: %v", err)
	}
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("after another upgrade: %v", err)
	}
	h.sidecar(t, "shop")
	reap(t, h.pid)
	for _, path := range []string{socket, h.admin} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was left behind: %v", path, err)
		}
	}
}
