// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/hcl"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

func TestServicesBecomeReadyAndSayWhatTheyServe(t *testing.T) {
	w := newWorld(t)
	r := start(t, w, "web", "api")
	r.waitReady(t)
	s := r.status(t)
	if s.Version != "test" || len(s.Sidecars) != 2 || len(w.registered(t)) != 4 {
		t.Fatalf("status %+v, registered %v", s, w.registered(t))
	}
	for i, name := range []string{"api", "web"} {
		sc := s.Sidecars[i]
		if sc.Service != name || !sc.Ready || !strings.HasSuffix(sc.Leaf.Identity, "/svc/"+name) || len(sc.Roots) != 1 || sc.Proxy.Inbound.Address == "" {
			t.Errorf("sidecar %+v", sc)
		}
	}
	if code, _, err := r.ask("/live"); err != nil || code != http.StatusOK {
		t.Error(code, err)
	}
}

// Two services need the same roots and the same mesh entry: each is asked for
// once.
func TestServicesOfAHostShareWatches(t *testing.T) {
	r := start(t, newWorld(t), "web", "api", "db")
	r.waitReady(t)
	keys := map[string]int{}
	for _, w := range r.status(t).Watches {
		keys[strings.Fields(w.Key)[0]]++
	}
	if keys["roots"] > 1 || keys["mesh"] > 1 || len(keys) < 3 {
		t.Errorf("watches %v", r.status(t).Watches)
	}
}

func TestNothingIsServedBeforeConsulAnswers(t *testing.T) {
	w := &world{address: silent(t)}
	r := start(t, w, "web")
	until(t, "it says what it waits for", func() error {
		code, body, err := r.ask("/ready")
		if err == nil && (code != http.StatusServiceUnavailable || !strings.Contains(body, "registration")) {
			err = fmt.Errorf("%d %s", code, body)
		}
		return err
	})
	port := r.config.Services[0].Connect.SidecarService.Port
	if c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second); err == nil {
		_ = c.Close()
		t.Error("the inbound listener is open although nothing is known")
	}
}

func TestReloadStartsAndStopsServicesAndKeepsTheOthers(t *testing.T) {
	w := newWorld(t)
	r := start(t, w, "web", "api")
	r.waitReady(t)
	before := r.status(t).Sidecars[1]
	cfg := w.config(t, r.admin, "db")
	cfg.Services = append(cfg.Services, r.config.Services[0]) // web as it was
	if err := r.Reload(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	until(t, "db is there and api is gone", func() error {
		names := []string{}
		for name := range w.registered(t) {
			names = append(names, name)
		}
		slices.Sort(names)
		want := []string{"db", "db-sidecar-proxy", "web", "web-sidecar-proxy"}
		if !slices.Equal(names, want) {
			return fmt.Errorf("registered: %v", names)
		}
		if code, body, err := r.ask("/ready"); err != nil || code != http.StatusOK {
			return fmt.Errorf("%d %s: %w", code, body, err)
		}
		if n := len(r.status(t).Sidecars); n != 2 {
			return fmt.Errorf("%d sidecars", n)
		}
		return nil
	})
	after := r.status(t).Sidecars[1]
	if after.Service != "web" || after.Proxy.Inbound.Address != before.Proxy.Inbound.Address || after.Proxy.Snapshot < before.Proxy.Snapshot {
		t.Errorf("web was restarted: before %+v, after %+v", before.Proxy, after.Proxy)
	}
}

func TestReloadThatNeedsARestartChangesNothing(t *testing.T) {
	w := newWorld(t)
	r := start(t, w, "web")
	r.waitReady(t)
	cfg := w.config(t, r.admin, "db")
	cfg.Consul.Address = "127.0.0.1:1"
	err := r.Reload(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "consul block has changed, which needs a restart") {
		t.Errorf("error %v", err)
	}
	if s := r.status(t); len(s.Sidecars) != 1 || s.Sidecars[0].Service != "web" {
		t.Errorf("sidecars %+v", s.Sidecars)
	}
}

func TestStopDrainsDeregistersAndEnds(t *testing.T) {
	w := newWorld(t)
	r := start(t, w, "web")
	r.waitReady(t)
	close(r.stop)
	select {
	case err := <-r.ended:
		r.ended <- err
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it did not end")
	}
	if left := w.registered(t); len(left) != 0 {
		t.Errorf("left registered: %v", left)
	}
	if _, err := os.Stat(r.admin); err == nil {
		t.Error("the admin socket is left behind")
	}
}

// Consul hanging must not keep the process from ending.
func TestStopEndsAlthoughConsulHangs(t *testing.T) {
	r := start(t, &world{address: silent(t)}, "web")
	until(t, "the admin API answers", func() error { _, _, err := r.ask("/live"); return err })
	close(r.stop)
	select {
	case err := <-r.ended:
		r.ended <- err
	case <-time.After(30 * time.Second):
		t.Fatal("it did not end")
	}
}

func TestNoKeyReachesTheAdminAPIOrTheLog(t *testing.T) {
	w := newWorld(t)
	r := start(t, w, "web")
	r.waitReady(t)
	ses := r.sidecars["web-sidecar-proxy"].now.Load()
	leaf := ses.proxy.Snapshot().Leaf
	certificate := strings.Split(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Chain[0].Raw})), "\n")[2]
	for _, path := range []string{"/v1/status", "/v1/snapshot"} {
		code, body, err := r.ask(path)
		if err != nil || code != http.StatusOK || !strings.Contains(body, "web") {
			t.Fatalf("%s: %d %s %v", path, code, body, err)
		}
		for _, secret := range []string{"PRIVATE", "BEGIN", certificate, "\"D\":", "PublicKey"} {
			if strings.Contains(body, secret) {
				t.Errorf("%s holds %q", path, secret)
			}
		}
	}
	for _, secret := range []string{"PRIVATE KEY", "BEGIN CERTIFICATE", certificate} {
		if strings.Contains(r.log.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestAdminAddressInUseIsAClearError(t *testing.T) {
	w := newWorld(t)
	r := start(t, w, "web")
	r.waitReady(t)
	other, err := New(Options{Config: r.config, Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("error %v", err)
	}
}

func TestAdminAPIAnswersLocalNamesOnly(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	for host, want := range map[string]int{
		"outrider": 200, "localhost:9102": 200, "127.0.0.1:9102": 200, "[::1]:9102": 200,
		"evil.example:9102": 403, "evil.example": 403, "10.0.0.1": 403, "": 403,
	} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/status", nil)
		r.Host = host
		localOnly(ok).ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("host %q: %d, want %d", host, w.Code, want)
		}
	}
}

func TestExpiredLeafIsNotReady(t *testing.T) {
	leaf := meshca.New("root").Leaf("web", nil)
	s := &connect.Snapshot{Leaf: leaf}
	for _, tc := range []struct {
		s    *connect.Snapshot
		now  time.Time
		want bool
	}{
		{nil, time.Now(), false}, {s, time.Now(), false},
		{s, leaf.NotAfter().Add(-time.Second), false}, {s, leaf.NotAfter().Add(time.Second), true},
	} {
		if got := expired(tc.s, tc.now); got != tc.want {
			t.Errorf("at %v: %v", tc.now, got)
		}
	}
}

func TestPanicInASidecarIsAnErrorOfThatSidecar(t *testing.T) {
	var said bytes.Buffer
	err := guard(hclog.New(&hclog.LoggerOptions{Output: &said}), func() error { panic("boom") })
	if err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("error %v", err)
	}
	if !strings.Contains(said.String(), "TestPanicInASidecarIsAnErrorOfThatSidecar") {
		t.Errorf("where it was is not told: %s", &said)
	}
}

func TestSidecarWithoutDefaultTCPCheckKeepsTheAlias(t *testing.T) {
	s := hcl.Service{ID: "web-1", Name: "web", Connect: hcl.Connect{SidecarService: &hcl.SidecarService{DisableDefaultTCPCheck: true}}}
	got := definition(s).Sidecar.Checks
	if len(got) != 1 || got[0].AliasService != "web-1" || got[0].TCP != "" {
		t.Errorf("checks %+v", got)
	}
}

func TestEnvironmentOfASidecar(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", "10.1.2.3:8500")
	t.Setenv("CONSUL_HTTP_TOKEN", "secret")
	t.Setenv("VAULT_ADDR", "https://vault:8200")
	t.Setenv("VAULT_TOKEN", "s.secret")
	cfg, err := EnvironmentConfig()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Consul.Address != "10.1.2.3:8500" || string(cfg.Consul.Token) != "secret" || cfg.Vault.Auth.Method != "token" || string(cfg.Vault.Auth.Token) != "s.secret" {
		t.Errorf("%+v", cfg)
	}
	if strings.Contains(fmt.Sprintf("%+v", cfg), "secret") {
		t.Error("printing the configuration prints a secret")
	}
	if err := CheckVault(cfg.Vault); err == nil {
		t.Error("a Vault without a role signs nothing")
	}
	t.Setenv("CONSUL_HTTP_SSL_VERIFY", "false")
	t.Setenv("CONSUL_HTTP_SSL", "true")
	if _, err := EnvironmentConfig(); err == nil {
		t.Error("verification of Consul can be turned off")
	}
}

// Nobody may wait for an agent that has ended.
func TestReloadOfAnEndedAgentReturns(t *testing.T) {
	w := newWorld(t)
	a, err := New(Options{Config: w.config(t, "/nonexistent/admin.sock", "web"), Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := a.Reload(ctx, w.config(t, "/nonexistent/admin.sock")); err == nil {
		t.Error("reloaded")
	}
}
