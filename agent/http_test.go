// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/hcl"
)

// behind puts a server of the test between agents and the embedded Consul.
// change may answer a request itself, and says so.
func (w *world) behind(t *testing.T, change func(http.ResponseWriter, *http.Request) bool) *world {
	t.Helper()
	pass := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: w.address})
	pass.Transport = &http.Transport{DisableKeepAlives: true}
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if !change(rw, r) {
			pass.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(front.Close)
	return &world{mini: w.mini, address: front.Listener.Addr().String()}
}

func (w *world) entry(t *testing.T, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+w.address+"/v1/config", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d", body, res.StatusCode)
	}
}

// snapshot is that of one service, as the admin API shows it.
func (r *rig) snapshot(t *testing.T, service string) (connect.Snapshot, error) {
	t.Helper()
	code, body, err := r.ask("/v1/snapshot")
	if err != nil || code != http.StatusOK {
		return connect.Snapshot{}, fmt.Errorf("%d %s: %w", code, body, err)
	}
	var all map[string]struct {
		Service      connect.Service
		JWTProviders map[string]connect.JWTProvider
	}
	if err := json.Unmarshal([]byte(body), &all); err != nil {
		return connect.Snapshot{}, err
	}
	s := all[service+"-sidecar-proxy"]
	return connect.Snapshot{Service: s.Service, JWTProviders: s.JWTProviders}, nil
}

func watched(s Status, prefix string) bool {
	return slices.ContainsFunc(s.Watches, func(w WatchStatus) bool { return strings.HasPrefix(w.Key, prefix) })
}

const withToken = `{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Permissions":[
	{"Action":"allow","HTTP":{"PathPrefix":"/"},"JWT":{"Providers":[{"Name":"okta"}]}}]}]}`

func TestKeysOfAProviderReachTheSnapshotOfWhoNeedsThem(t *testing.T) {
	var fetched atomic.Int64
	keys := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		_, _ = fmt.Fprint(rw, `{"keys":[{"kty":"EC","kid":"1"}]}`)
	}))
	defer keys.Close()
	w := newWorld(t)
	for _, body := range []string{
		`{"Kind":"service-defaults","Name":"api","Protocol":"http","Meta":{"outrider-rate-limits":"{\"instance_level\":{\"requests_per_second\":7}}"}}`,
		`{"Kind":"jwt-provider","Name":"okta","Issuer":"iss","JSONWebKeySet":{"Remote":{"URI":"` + keys.URL + `/k?token=s3cret"}}}`,
		`{"Kind":"jwt-provider","Name":"unused","Issuer":"iss","JSONWebKeySet":{"Remote":{"URI":"` + keys.URL + `/unused"}}}`,
		withToken,
	} {
		w.entry(t, body)
	}
	r := start(t, w, "api", "web")
	r.waitReady(t)
	s, err := r.snapshot(t, "api")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]connect.JWTProvider{"okta": {Name: "okta", Issuer: "iss", ClockSkew: 30e9, Keys: `{"keys":[{"kid":"1","kty":"EC"}]}`}}
	if diff := cmp.Diff(want, s.JWTProviders); diff != "" {
		t.Error(diff)
	}
	if s.Service.RateLimits.Rate != 7 || fetched.Load() != 1 {
		t.Errorf("%+v, fetched %d times", s.Service.RateLimits, fetched.Load())
	}
	if s, err := r.snapshot(t, "web"); err != nil || s.JWTProviders != nil {
		t.Errorf("web needs none, and has %v, %v", s.JWTProviders, err)
	}
	status := r.status(t)
	if diff := cmp.Diff([]JWTProviderStatus{{Name: "okta", Issuer: "iss"}}, status.Sidecars[0].JWTProviders); diff != "" {
		t.Error(diff)
	}
	if !watched(status, "JWT providers") || !watched(status, "service-defaults api") || watched(status, "service-defaults web") || !watched(status, "key set "+keys.URL+"/k") {
		t.Errorf("watches %+v", status.Watches)
	}
	if _, body, _ := r.ask("/v1/status"); strings.Contains(body+r.log.String(), "s3cret") {
		t.Errorf("the query of the URI is shown: %s", body)
	}
	// Without the need nothing is watched, nor kept.
	w.entry(t, `{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Action":"allow"}]}`)
	until(t, "nothing is watched any more", func() error {
		s, err := r.snapshot(t, "api")
		if status := r.status(t); err != nil || s.JWTProviders != nil || watched(status, "JWT providers") || watched(status, "key set") {
			return fmt.Errorf("%+v %+v %w", s, status.Watches, err)
		}
		return nil
	})
	w.entry(t, withToken)
	until(t, "the keys are there again", func() error {
		if s, err := r.snapshot(t, "api"); err != nil || s.JWTProviders["okta"].Keys == "" {
			return fmt.Errorf("%+v %w", s.JWTProviders, err)
		}
		return nil
	})
}

// A service that does not speak HTTP has no token to look at, and its token must
// not need the permission to read providers.
func TestNothingOfHTTPIsAskedForWithoutHTTP(t *testing.T) {
	mini := newWorld(t)
	var asked atomic.Int64
	w := mini.behind(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/v1/config/jwt-provider") || strings.HasPrefix(r.URL.Path, "/v1/config/service-defaults") {
			asked.Add(1)
		}
		return false
	})
	mini.entry(t, `{"Kind":"jwt-provider","Name":"okta","JSONWebKeySet":{"Local":{"Filename":"/nowhere"}}}`)
	mini.entry(t, `{"Kind":"service-intentions","Name":"api","JWT":{"Providers":[{"Name":"okta"}]},"Sources":[{"Name":"web","Action":"allow"}]}`)
	r := start(t, w, "api")
	r.waitReady(t)
	if asked.Load() != 0 {
		t.Errorf("asked %d times", asked.Load())
	}
	s := r.status(t).Sidecars[0]
	if len(s.JWTProviders) != 1 || !strings.Contains(s.JWTProviders[0].Problem, "does not speak HTTP") || s.Intentions[0].Action != "needs a JWT: deny on TCP" {
		t.Errorf("status %+v", s)
	}
}

func TestProvidersThatMayNotBeReadDenyAndSayWhy(t *testing.T) {
	mini := newWorld(t)
	w := mini.behind(t, func(rw http.ResponseWriter, r *http.Request) bool {
		refused := strings.HasPrefix(r.URL.Path, "/v1/config/jwt-provider")
		if refused {
			http.Error(rw, "Permission denied: token lacks permission 'mesh:read'", http.StatusForbidden)
		}
		return refused
	})
	mini.entry(t, `{"Kind":"service-defaults","Name":"api","Protocol":"http"}`)
	mini.entry(t, `{"Kind":"jwt-provider","Name":"okta","JSONWebKeySet":{"Local":{"Filename":"/nowhere"}}}`)
	mini.entry(t, withToken)
	r := start(t, w, "api")
	r.waitReady(t) // the rest serves
	s, err := r.snapshot(t, "api")
	if err != nil || len(s.JWTProviders) != 0 {
		t.Errorf("%+v %v", s.JWTProviders, err)
	}
	status := r.status(t)
	if p := status.Sidecars[0].JWTProviders; len(p) != 1 || !strings.Contains(p[0].Problem, "the watch of JWT providers says why") {
		t.Errorf("providers %+v", p)
	}
	i := slices.IndexFunc(status.Watches, func(w WatchStatus) bool { return w.Key == "JWT providers" })
	if i < 0 || !strings.Contains(status.Watches[i].Error, "mesh:read") {
		t.Errorf("watches %+v", status.Watches)
	}
	if a := status.Sidecars[0].Intentions[0].Action; a != "by the first of 1 permissions that matches" {
		t.Errorf("action %q", a)
	}
}

// exposing is a configuration of a service whose checks Consul is to make
// through the sidecar.
func (w *world) exposing(t *testing.T, admin string) (*hcl.Config, string) {
	t.Helper()
	ports := freePorts(t, 3)
	text := fmt.Sprintf(`
consul { address = %q }
admin { address = "unix://%s" }
drain {
  propagation = "0s"
  timeout     = "1s"
}
service {
  name    = "api"
  address = "127.0.0.1"
  port    = %d
  check {
    id       = "alive"
    http     = "http://127.0.0.1:%[3]d/health?x=1"
    interval = "10s"
  }
  connect {
    sidecar_service {
      port = %[4]d
      proxy {
        expose { checks = true }
      }
    }
  }
}`, w.address, admin, ports[0], ports[1])
	cfg, err := hcl.Parse("test.hcl", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg, fmt.Sprint(ports[2])
}

func TestChecksThatConsulMakesThroughTheSidecarAreExposed(t *testing.T) {
	var port atomic.Value
	port.Store("0")
	w := newWorld(t).behind(t, func(rw http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/v1/agent/checks":
			_, _ = fmt.Fprintf(rw, `{"alive":{"ServiceID":"api","ExposedPort":%s},"other":{"ServiceID":"web","ExposedPort":1}}`, port.Load())
		case "/v1/agent/self":
			_, _ = fmt.Fprint(rw, `{"Config":{"Datacenter":"dc1"},"DebugConfig":{"DefaultIntentionPolicy":"allow"},"Member":{"Addr":"192.0.2.7"}}`)
		default:
			return false
		}
		return true
	})
	r := startWith(t, w, func(admin string) *hcl.Config {
		cfg, free := w.exposing(t, admin)
		port.Store(free)
		return cfg
	})
	r.waitReady(t)
	until(t, "the check is exposed", func() error {
		s, err := r.snapshot(t, "api")
		if err != nil || len(s.Service.Expose) != 1 {
			return fmt.Errorf("%+v %w", s.Service.Expose, err)
		}
		e := s.Service.Expose[0]
		if e.Path != "/health" || fmt.Sprint(e.ListenerPort) != port.Load() || !e.LocalOnly || !slices.Equal(e.AllowFrom, []string{"192.0.2.7"}) {
			t.Errorf("%+v", e)
		}
		return nil
	})
}
