// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/hcl"
)

func TestStopFitsIntoTheKillTimeout(t *testing.T) {
	usual := hcl.Drain{Propagation: 2 * time.Second, Timeout: 30 * time.Second}
	for name, c := range map[string]struct {
		kill time.Duration
		want stopTimes
	}{
		"nobody kills":     {0, stopTimes{courtesy: 5 * time.Second, propagation: 2 * time.Second, timeout: 30 * time.Second}},
		"Nomad's default":  {5 * time.Second, stopTimes{4 * time.Second, 500 * time.Millisecond, time.Second, 2 * time.Second}},
		"plenty":           {time.Minute, stopTimes{59 * time.Second, 5 * time.Second, 2 * time.Second, 30 * time.Second}},
		"hardly any":       {time.Second, stopTimes{500 * time.Millisecond, 62500 * time.Microsecond, 125 * time.Millisecond, 250 * time.Millisecond}},
		"what is left":     {10 * time.Second, stopTimes{9 * time.Second, 1125 * time.Millisecond, 2 * time.Second, 4750 * time.Millisecond}},
		"two, by a second": {2 * time.Second, stopTimes{time.Second, 125 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, planStop(usual, c.kill), cmp.AllowUnexported(stopTimes{})); diff != "" {
				t.Error(diff)
			}
		})
	}
	for kill := 100 * time.Millisecond; kill < 2*time.Minute; kill += 70 * time.Millisecond {
		got := planStop(usual, kill)
		if sum := 2*got.courtesy + got.propagation + got.timeout; sum > got.within || got.within > max(kill-time.Second, kill/2) || got.timeout <= 0 {
			t.Fatalf("killed after %s: %+v takes %s", kill, got, sum)
		}
	}
}

// stopped runs an agent of one foreign sidecar, stops it and says how long that
// took.
func stopped(t *testing.T, opts Options) time.Duration {
	t.Helper()
	opts.Logger = hclog.NewNullLogger()
	opts.Sidecars = []Sidecar{{ProxyID: "api-sidecar-proxy"}}
	a, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- a.Run(t.Context(), stop) }()
	eventually(t, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		if opts.Config.Consul.Login != nil && a.consul.TokenStatus()[0].LastSuccess.IsZero() {
			return false
		}
		return len(a.sidecars) == 1 && a.sidecars["api-sidecar-proxy"].id() != ""
	})
	began := time.Now()
	close(stop)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	return time.Since(began)
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !ok() {
		pause(ctx, 5*time.Millisecond)
		if ctx.Err() != nil {
			t.Fatal("it did not come to pass")
		}
	}
}

// Consul may be gone without a trace: its address takes connections and never
// answers.
func TestStopEndsBeforeTheKillWhateverConsulDoes(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := &hcl.Config{Consul: hcl.Consul{Address: l.Addr().String()}, Drain: hcl.Drain{Propagation: 2 * time.Second, Timeout: 30 * time.Second}}
	if took := stopped(t, Options{Config: cfg, KillTimeout: 3 * time.Second}); took > 2200*time.Millisecond {
		t.Errorf("it took %s; the process would have been killed after 3s", took)
	}
}

// A token that was logged in for is given back at the end, which Consul may not
// answer either.
func TestStopEndsBeforeTheKillThoughTheLogoutHangs(t *testing.T) {
	over := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/acl/login" {
			_, _ = io.WriteString(w, `{"SecretID":"s","AccessorID":"a"}`)
			return
		}
		<-over
	}))
	defer silent.Close()
	defer close(over)
	jwt := filepath.Join(t.TempDir(), "jwt")
	write(t, jwt, "e30.e30.e30")
	cfg := &hcl.Config{
		Consul: hcl.Consul{Address: silent.Listener.Addr().String(), Login: &hcl.Login{AuthMethod: "m", TokenFile: jwt}},
		Drain:  hcl.Drain{Propagation: 2 * time.Second, Timeout: 30 * time.Second},
	}
	if took := stopped(t, Options{Config: cfg, KillTimeout: 3 * time.Second}); took > 2900*time.Millisecond {
		t.Errorf("it took %s; the process would have been killed after 3s", took)
	}
}

// Nomad deregisters the services of a group before it stops the tasks: there is
// nobody left who has to learn of the end.
func TestStopDoesNotWaitWhenTheRegistrationIsGone(t *testing.T) {
	w := newWorld(t)
	cfg := &hcl.Config{Consul: hcl.Consul{Address: w.address}, Drain: hcl.Drain{Propagation: time.Minute, Timeout: time.Second}}
	if took := stopped(t, Options{Config: cfg}); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestStopTellsOthersWhileTheRegistrationStays(t *testing.T) {
	const propagation = 300 * time.Millisecond
	w := newWorld(t)
	put(t, "http://"+w.address+"/v1/agent/service/register", `{"Name":"api","ID":"api","Port":9,"Connect":{"SidecarService":{"Address":"127.0.0.1","Port":10}}}`)
	cfg := &hcl.Config{Consul: hcl.Consul{Address: w.address}, Drain: hcl.Drain{Propagation: propagation, Timeout: time.Second}}
	if took := stopped(t, Options{Config: cfg}); took < propagation {
		t.Errorf("it took %s, which leaves others no time to learn of it", took)
	}
}

func put(t *testing.T, url, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("PUT %s: %s", url, res.Status)
	}
}

// An idle sidecar shares its processor with the application.
func TestAReadyAgentLooksSeldomButInTimeForTheWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "")
	if before, after := announceEvery(false), announceEvery(true); before > 100*time.Millisecond || after < time.Second {
		t.Errorf("a look every %s until ready, then every %s", before, after)
	}
	t.Setenv("WATCHDOG_USEC", "3000000")
	t.Setenv("WATCHDOG_PID", "")
	if got := announceEvery(true); got != time.Second {
		t.Errorf("a look every %s for a watchdog of 3s, want a third", got)
	}
}
