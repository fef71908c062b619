// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// flow is steady traffic through the machine's sidecar, in both directions:
// calls over connections that stay open, and calls that open one each.
type flow struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	calls   atomic.Int64
	mu      sync.Mutex
	failed  []error
}

// pace is the time between two calls of each of the callers of a flow.
const pace = 20 * time.Millisecond

func startFlow(t *testing.T) *flow {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	f := &flow{stop: cancel}
	for addr, name := range map[string]string{upstreamTo: "api", apiToWebAddr: "web"} {
		for _, keep := range []bool{true, true, true, false, false} {
			f.running.Go(func() { f.keepCalling(ctx, addr, name, keep) })
		}
	}
	t.Cleanup(func() {
		cancel()
		f.running.Wait()
	})
	f.more(t, 100)
	return f
}

func (f *flow) keepCalling(ctx context.Context, addr, name string, keep bool) {
	transport := &http.Transport{DisableKeepAlives: !keep}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for ctx.Err() == nil {
		// A call that was begun is ended: the context of the flow is not its own.
		if err := callWith(context.WithoutCancel(ctx), client, addr, name); err != nil {
			f.mu.Lock()
			f.failed = append(f.failed, fmt.Errorf("at %s, kept open %v: %w", time.Now().UTC().Format("15:04:05.000"), keep, err))
			f.mu.Unlock()
		}
		f.calls.Add(1)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// callWith posts, since the HTTP client repeats what may be repeated when a
// connection breaks, and would hide it.
func callWith(ctx context.Context, client *http.Client, addr, name string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr+"/", http.NoBody)
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != name {
		return fmt.Errorf("call: status %d, body %q, error %w", resp.StatusCode, body, err)
	}
	return nil
}

// more waits for this many calls from now on.
func (f *flow) more(t *testing.T, n int64) {
	t.Helper()
	goal := f.calls.Load() + n
	until(t, fmt.Sprintf("%d more calls", n), func() error {
		if now := f.calls.Load(); now < goal {
			return fmt.Errorf("%d are missing", goal-now)
		}
		return nil
	})
}

// end stops the calls; none may have failed.
func (f *flow) end(t *testing.T) {
	t.Helper()
	f.more(t, 100)
	f.stop()
	f.running.Wait()
	t.Logf("%d calls, %d failed", f.calls.Load(), len(f.failed))
	if err := errors.Join(f.failed[:min(5, len(f.failed))]...); err != nil {
		t.Errorf("calls failed: %v", err)
	}
}

func (o *owner) upgrades(t *testing.T) {
	edited := o.run(t, "cat "+configFile)
	if err := o.serves(oldVersion); err != nil {
		t.Fatal(err)
	}
	o.isCalled(t)
	before, processes := o.mark(t), []int{o.pid(t)}
	successor := o.put(t, built(t, "new", ".deb"))[0]
	f := startFlow(t)
	for _, command := range []string{"dpkg --install " + successor + " </dev/null", "outrider upgrade"} {
		t.Log(o.run(t, command))
		until(t, "the new version serves", func() error { return o.serves(newVersion) })
		processes = append(processes, o.pid(t))
		f.more(t, 200)
	}
	o.failsToUpgrade(t, f)
	last := o.pid(t)
	t.Log(o.run(t, "dpkg --install "+successor+" </dev/null"))
	f.end(t)
	if last != processes[2] {
		t.Errorf("upgrades that failed changed the main process %d to %d", processes[2], last)
	}
	if now := append(processes, o.pid(t)); len(slices.Compact(slices.Sorted(slices.Values(now)))) != 4 {
		t.Errorf("three upgrades leave these main processes: %v", now)
	}
	if now := o.run(t, "cat "+configFile); now != edited {
		t.Errorf("the upgrade changed an edited configuration:\n%s", now)
	}
	o.outlives(t, processes, before)
	o.stopsGently(t)
	o.run(t, "systemctl start outrider")
	o.callsPass(t)
}

// failsToUpgrade has programs installed that end at once: nothing changes but
// what is on the disk.
func (o *owner) failsToUpgrade(t *testing.T, f *flow) {
	t.Helper()
	// As packagers do it: the file of the running program is never written to.
	o.run(t, "cp -p /usr/bin/outrider /usr/bin/outrider.good; printf '#!/bin/sh\nexit 1\n' >/usr/bin/outrider.bad; chmod 755 /usr/bin/outrider.bad; mv /usr/bin/outrider.bad /usr/bin/outrider")
	out, code := o.fails(t, "/usr/bin/outrider.good upgrade")
	o.run(t, "mv /usr/bin/outrider.good /usr/bin/outrider")
	t.Logf("upgrade to a program that ends at once: exit code %d: %s", code, out)
	if code != 3 || !strings.Contains(out, "the running process goes on") {
		t.Errorf("it ended with %d, want 3 and a sentence", code)
	}
	broken := changed(t, built(t, "new", ".deb"), `printf '#!/bin/sh\nexit 1\n' >usr/bin/outrider`)
	out = o.run(t, "dpkg --install "+o.put(t, broken)[0]+" </dev/null 2>&1")
	t.Log(out)
	if !strings.Contains(out, "the old version runs on") {
		t.Error("the package does not say that it did not take over")
	}
	f.more(t, 200)
}

// outlives wants the unit to stay when the processes that were replaced have
// ended, and systemd to have the last one in its hands.
func (o *owner) outlives(t *testing.T, processes []int, since mark) {
	t.Helper()
	// They have nothing left to drain.
	until(t, "the old processes have ended", func() error {
		for _, pid := range processes {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
				return fmt.Errorf("%d still runs", pid)
			}
		}
		return nil
	})
	o.run(t, "systemctl reload outrider")
	o.callsPass(t)
	if state, n := o.property(t, "ActiveState"), o.property(t, "NRestarts"); state != "active" || n != "0" {
		t.Errorf("the unit is %s after %s restarts:\n%s", state, n, o.journal(t, since))
	}
	// Whoever systemd does not count among its children it neither misses when it
	// ends, nor waits for when it is told to.
	if text := o.journal(t, since); strings.Contains(text, "not our child") {
		t.Error("after an upgrade the main process is no child of systemd")
	}
}

// stopsGently wants a stop to let the calls under way end, and to take the service
// out of Consul.
func (o *owner) stopsGently(t *testing.T) {
	t.Helper()
	before := o.mark(t)
	answers := make(chan error, 2)
	for addr, name := range map[string]string{upstreamTo: "api", apiToWebAddr: "web"} {
		go func() { answers <- callPath(t, addr, slow, name) }()
	}
	until(t, "both calls are under way", func() error {
		if out, err := o.try("outrider status"); err != nil || strings.Count(out, ", 1 open of ") != 2 {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	began := time.Now()
	o.run(t, "systemctl stop outrider")
	took := time.Since(began)
	t.Logf("systemctl stop took %v with calls under way", took.Round(10*time.Millisecond))
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Errorf("a call that was under way: %v", err)
		}
	}
	if text := o.journal(t, before); strings.Contains(text, "SIGKILL") || !strings.Contains(text, "Deactivated successfully") {
		t.Errorf("it did not end by itself:\n%s", text)
	}
	o.isGone(t)
}
