// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package realserver starts the real Consul, Vault and Envoy for tests: on loopback,
// on ports of their own, ended with the test. It must not be imported by
// anything but tests, and it never passes a test for want of a server.
package realserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const (
	// ready bounds how long a server may take to answer. On a busy machine
	// an election alone takes seconds.
	ready = 90 * time.Second
	// poll is the pace of questions to a server that is not ready yet.
	poll = 50 * time.Millisecond
	// logTail is how much of a server's log a failed test shows, in bytes.
	logTail = 32 << 10
)

// errExited is the answer of a wait for a server that is no longer there.
var errExited = errors.New("the server ended")

// A process is one child of the test. It ends with the test at the latest.
type process struct {
	name string
	log  string // file of stdout and stderr, appended to over restarts
	cmd  *exec.Cmd
	done chan struct{} // closed once the child has been waited for
}

// binary returns the file of a server: env names it, else the build cache of
// this project has it, else PATH. A missing server fails the test.
func binary(t testing.TB, name, env, version string) string {
	t.Helper()
	if path := os.Getenv(env); path != "" {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("start %s: %s=%q: %v: correct the variable, or unset it and run make servers", name, env, path, err)
		}
		return path
	}
	cache := os.Getenv("OUTRIDER_CACHE")
	if home, err := os.UserHomeDir(); cache == "" && err == nil {
		cache = filepath.Join(home, ".cache", "outrider")
	}
	path := filepath.Join(cache, "bin", name+"-"+version)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	onPath, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("start %s: neither %s nor PATH has it: run make servers, or set %s", name, path, env)
	}
	return onPath
}

// Binary returns the file of one of the servers, "consul" say, for a test that
// hands it to another program; env names the variable that may name it.
func Binary(t testing.TB, name, env string) string {
	t.Helper()
	versions := map[string]string{"consul": consulVersion, "vault": vaultVersion, "nomad": nomadVersion, "envoy": envoyVersion}
	return binary(t, name, env, versions[name])
}

// start starts a child whose working directory and home is dir. Of the test's
// environment it gets PATH alone, so that no variable of the person who runs
// the tests changes what the server does. It must be called after t.TempDir:
// the folder may only go when the child has gone.
func start(t testing.TB, name, dir, path string, args, env []string) *process {
	t.Helper()
	p := &process{name: name, log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatalf("start %s: open its log: %v", name, err)
	}
	defer log.Close()
	p.cmd = exec.Command(path, args...)
	p.cmd.Dir = dir
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir}, env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = dieWithParent()
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go p.wait()
	t.Cleanup(p.kill)
	return p
}

func (p *process) wait() {
	// Its exit code says nothing: every child here is ended by a signal.
	_ = p.cmd.Wait()
	close(p.done)
}

// kill ends the child without a chance to say goodbye, also a paused one, and
// returns when it is gone. It may be called again.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only when it has ended already
	<-p.done
}

// PID returns the process ID of the child, for what the system tells of it.
func (p *process) PID() int { return p.cmd.Process.Pid }

// Output returns the last part of what the process wrote, at most 32 KiB.
func (p *process) Output() string {
	f, err := os.Open(p.log)
	if err != nil {
		return fmt.Sprintf("no log of %s: %v", p.name, err)
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(0, end-logTail), io.SeekStart)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return fmt.Sprintf("read the log of %s: %v", p.name, err)
	}
	return string(text)
}

// until asks is, again and again, until it returns nil. It gives up when the
// test ends, after the time a server may take, and when the child has ended.
func (p *process) until(t testing.TB, is func(context.Context) error) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), ready)
	defer cancel()
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		err := is(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("wait for %s: %w", p.name, errExited)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: the last answer was: %w", p.name, ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// get returns the body of an HTTP answer with status 200, or an error. Each
// call has a connection of its own, so that none outlives a restart and none
// is left when the test counts its goroutines.
func get(ctx context.Context, url, header, token string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", url, err)
	}
	if token != "" {
		request.Header.Set(header, token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	answer, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", url, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", url, err)
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask %s: status %d: %.200s", url, answer.StatusCode, body)
	}
	return body, nil
}

// FreeAddr returns a loopback address that nobody listens on, for TCP and UDP,
// and that no other call returns before t ends: not in this process, nor in
// another one that runs tests at the same time. Its port is below the ports that
// the kernel gives to outgoing connections and to port 0, so that nobody takes
// it while a server restarts; and above those Consul gives to sidecars.
func FreeAddr(t testing.TB) string {
	t.Helper()
	for range 200 {
		n := randomPort()
		claim, ok := listen(t.Context(), n-claimDistance)
		if !ok {
			continue // it is somebody else's
		}
		addr := fmt.Sprintf("127.0.0.1:%d", n)
		if !free(t.Context(), addr) {
			_ = claim.Close()
			continue
		}
		t.Cleanup(func() { _ = claim.Close() })
		return addr
	}
	t.Fatal("find a free loopback port: 200 tries failed: is another program holding the ports 22000 to 31000?")
	return ""
}

// claimDistance is how far below a port that was handed out the port is that
// stands for the claim on it: whoever listens there owns the one above. The
// kernel ends a claim with its process.
const claimDistance = 10000

// randomPort returns a port of 22000 to 30999, so that its claim is below the
// ports that Consul gives to sidecars, which begin at 21000.
func randomPort() int { return 22000 + rand.IntN(9000) }

func listen(ctx context.Context, port int) (net.Listener, bool) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	return l, err == nil
}

func free(ctx context.Context, addr string) bool {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer l.Close()
	u, err := lc.ListenPacket(ctx, "udp", addr)
	if err != nil {
		return false
	}
	return u.Close() == nil
}
