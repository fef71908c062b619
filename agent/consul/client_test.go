// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/watch"
)

func TestEveryBadAnswerIsAClearError(t *testing.T) {
	const path = "/v1/thing"
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		wants  []string
	}{
		{"forbidden", fails(403, "Permission denied"), []string{"read the thing", "403", "Permission denied", "the token may be missing, wrong or expired", "lacks the ACL permission thing:read"}},
		{"unauthorised", fails(401, "who"), []string{"401", "thing:read"}},
		{"not found", fails(404, "no such thing"), []string{"404", "no such thing"}},
		{"too many", fails(429, "slow down"), []string{"429", "http_max_conns_per_client"}},
		{"broken", fails(500, "rpc error"), []string{"500", "rpc error", "see the log of the agent at http://127.0.0.1"}},
		{"garbage", says("<html>hello</html>"), []string{"not the JSON that Consul sends", "check that http://127.0.0.1"}},
		{"wrong shape", says(`[1]`), []string{"not the JSON that Consul sends"}},
		{"more after the end", says(`{} {}`), []string{"not the JSON that Consul sends"}},
		{"cut short", says(`{"A":"b`), []string{"not the JSON that Consul sends", "unexpected end"}},
		{"connection cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte(`{"A":`))
		}, []string{"read the answer", "unexpected EOF"}},
		{"huge", func(w http.ResponseWriter, _ *http.Request) {
			chunk := []byte(strings.Repeat(" ", 1<<20))
			for range 40 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, []string{"larger than a Consul agent's can be"}},
		{"huge error", fails(500, strings.Repeat("x", 1<<20)), []string{"500"}},
		{"bad index", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Consul-Index", "-3")
			_, _ = w.Write([]byte(`{}`))
		}, []string{"X-Consul-Index"}},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusTemporaryRedirect)
		}, []string{"307"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t)
			a.answer(path, tt.answer)
			c := a.client(t, func(cfg *Config) { cfg.Token = "secret-token" })
			var out struct{ A string }
			_, err := c.get(t.Context(), request{doing: "read the thing", path: path, needs: "thing:read"}, watch.Cursor{}, &out)
			wantError(t, err, tt.wants...)
			if err != nil && (strings.Contains(err.Error(), "secret-token") || len(err.Error()) > 2000) {
				t.Errorf("error of %d bytes: %.3000s", len(err.Error()), err)
			}
		})
	}
}

func TestAnAgentThatIsNotThereIsNamed(t *testing.T) {
	a := newAgent(t)
	c := a.client(t, nil)
	a.server.Close()
	_, err := c.get(t.Context(), request{doing: "read the thing", path: "/x", needs: "x"}, watch.Cursor{}, new(any))
	wantError(t, err, "read the thing", "check that the Consul agent at "+a.server.URL+" runs")
}

func TestAnAnswerOfJustTheLimitIsWhole(t *testing.T) {
	a := newAgent(t)
	c := a.client(t, nil)
	c.http.Transport.(*guard).limit = 10
	for text, whole := range map[string]bool{`"12345678"`: true, `"123456789"`: false} {
		a.answer("/x", says(text))
		var out string
		_, err := c.get(t.Context(), request{doing: "read", path: "/x"}, watch.Cursor{}, &out)
		if (err == nil) != whole {
			t.Errorf("%d bytes: %q, %v", len(text), out, err)
		}
	}
}

func TestBlockingQueriesCarryTheCursorAndTheTenancy(t *testing.T) {
	a := newAgent(t)
	a.answer("/x", says(`{}`))
	c := a.client(t, func(cfg *Config) {
		cfg.Datacenter, cfg.Namespace, cfg.Partition, cfg.HTTPAuth = "dc1", "ns1", "ap1", "me:pw"
	})
	for _, tt := range []struct {
		after watch.Cursor
		want  string
	}{
		{watch.Cursor{}, "dc=dc1&ns=ns1&partition=ap1"},
		{watch.Cursor{Index: 7}, "dc=dc1&index=7&ns=ns1&partition=ap1&wait=1m0s"},
		{watch.Cursor{Hash: "ab"}, "dc=dc1&hash=ab&ns=ns1&partition=ap1&wait=1m0s"},
	} {
		if _, err := c.get(t.Context(), request{doing: "read", path: "/x"}, tt.after, new(any)); err != nil {
			t.Fatal(err)
		}
		seen := a.requests("/x")
		last := seen[len(seen)-1]
		user, password, _ := last.BasicAuth()
		if last.URL.RawQuery != tt.want || user != "me" || password != "pw" {
			t.Errorf("asked %q as %s:%s, want %q", last.URL.RawQuery, user, password, tt.want)
		}
	}
}

func TestTheTokenFileIsReadAgainWhenItChanges(t *testing.T) {
	a := newAgent(t)
	a.answer("/x", says(`{}`))
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string, age time.Duration) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	c := a.client(t, func(cfg *Config) { cfg.TokenFile = file })
	ask := func() (string, error) {
		_, err := c.get(t.Context(), request{doing: "read", path: "/x"}, watch.Cursor{}, new(any))
		seen := a.requests("/x")
		if len(seen) == 0 {
			return "", err
		}
		return seen[len(seen)-1].Header.Get("X-Consul-Token"), err
	}
	_, err := ask()
	wantError(t, err, "read the Consul token", "correct token_file")

	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() { write("one\n", time.Hour) }, "one"},
		{func() { write("two\n", time.Minute) }, "two"},
		{func() { write("", 0) }, "two"},
		{func() { write("thr ee", 0) }, "two"},
		{func() { _ = os.Remove(file) }, "two"},
		{func() { write("four", time.Hour) }, "four"},
	} {
		step.do()
		got, err := ask()
		if err != nil || got != step.want {
			t.Errorf("sent %q, %v, want %q", got, err, step.want)
		}
	}
}

func TestOurTokenComesBeforeTheEnvironmentAlsoForWrites(t *testing.T) {
	t.Setenv("CONSUL_HTTP_TOKEN", "from-env")
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", filepath.Join(t.TempDir(), "not-there"))
	a := newAgent(t)
	a.answer("/v1/agent/service/deregister/web", says(``))
	for _, token := range []string{"ours", ""} {
		c := a.client(t, func(cfg *Config) { cfg.Token = token })
		if err := c.NewRegistrar([]Definition{{Name: "web"}}, nil).Deregister(t.Context()); err != nil {
			t.Fatal(err)
		}
		seen := a.requests("/v1/agent/service/deregister/web")
		if got := seen[len(seen)-1].Header.Get("X-Consul-Token"); got != token {
			t.Errorf("sent %q, want %q", got, token)
		}
		opts := api.ServiceRegisterOpts{Token: "of one service"}.WithContext(t.Context())
		a.answer("/v1/agent/service/register", says(``))
		if err := c.api.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{}, opts); err != nil {
			t.Fatal(err)
		}
		seen = a.requests("/v1/agent/service/register")
		if got := seen[len(seen)-1].Header.Get("X-Consul-Token"); got != "of one service" {
			t.Errorf("sent %q, want the token of the request", got)
		}
	}
}

func TestAUnixSocketIsDialledForReadsAndWrites(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "consul.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method+" "+r.URL.Path)
		_, _ = w.Write([]byte(`{}`))
	})}}
	server.Start()
	defer server.Close()
	c, err := NewClient(Config{Address: "unix://" + socket}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.http.CloseIdleConnections()
	if _, err := c.get(t.Context(), request{doing: "read", path: "/x"}, watch.Cursor{}, new(any)); err != nil {
		t.Error(err)
	}
	if err := c.NewRegistrar([]Definition{{Name: "web"}}, nil).Deregister(t.Context()); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"GET /x", "PUT /v1/agent/service/deregister/web"}, seen); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestAddressesAreReadOrRefused(t *testing.T) {
	for _, tt := range []struct {
		address string
		want    base
		private bool
		fails   string
	}{
		{address: "", want: base{scheme: "http", host: "127.0.0.1:8500"}, private: true},
		{address: "consul:1", want: base{scheme: "http", host: "consul:1"}},
		{address: "localhost:1", want: base{scheme: "http", host: "localhost:1"}, private: true},
		{address: "http://[::1]:1", want: base{scheme: "http", host: "[::1]:1"}, private: true},
		{address: "https://consul/prefix/", want: base{scheme: "https", host: "consul", prefix: "/prefix"}, private: true},
		{address: "unix:///run/c.sock", want: base{scheme: "http", host: "localhost", socket: "/run/c.sock"}, private: true},
		{address: "unix://", fails: "names no socket"},
		{address: "ftp://x", fails: `scheme "ftp"`},
		{address: "http://me:pw@x", fails: "without user and query"},
		{address: "http://x?q", fails: "without user and query"},
		{address: "http://", fails: "want host:port"},
	} {
		got, err := parseAddress(tt.address)
		if tt.fails != "" {
			wantError(t, err, tt.fails)
			if err != nil && strings.Contains(err.Error(), "pw") {
				t.Errorf("error shows a password: %v", err)
			}
			continue
		}
		if err != nil || got != tt.want || got.private() != tt.private {
			t.Errorf("%q: %+v (private %v), %v; want %+v", tt.address, got, got.private(), err, tt.want)
		}
	}
}

func TestConfigIsReadFromTheEnvironmentOfConsulsCommands(t *testing.T) {
	for name, value := range map[string]string{
		"CONSUL_HTTP_ADDR": "consul:1", "CONSUL_HTTP_SSL": "true", "CONSUL_HTTP_TOKEN": "t", "CONSUL_HTTP_TOKEN_FILE": "f",
		"CONSUL_HTTP_AUTH": "u:p", "CONSUL_CACERT": "ca", "CONSUL_CAPATH": "cas", "CONSUL_CLIENT_CERT": "c", "CONSUL_CLIENT_KEY": "k",
		"CONSUL_TLS_SERVER_NAME": "n", "CONSUL_HTTP_SSL_VERIFY": "false", "CONSUL_NAMESPACE": "ns", "CONSUL_PARTITION": "ap",
	} {
		t.Setenv(name, value)
	}
	want := Config{
		Address: "https://consul:1", Token: "t", TokenFile: "f", HTTPAuth: "u:p", Namespace: "ns", Partition: "ap",
		TLS: TLS{CAFile: "ca", CAPath: "cas", CertFile: "c", KeyFile: "k", ServerName: "n", InsecureSkipVerify: true},
	}
	if diff := cmp.Diff(want, ConfigFromEnv()); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	t.Setenv("CONSUL_HTTP_ADDR", "unix:///s")
	if got := ConfigFromEnv().Address; got != "unix:///s" {
		t.Errorf("address %q, want the socket", got)
	}
}

func TestNewClientRefusesWhatCannotWork(t *testing.T) {
	for _, tt := range []struct {
		cfg   Config
		fails string
	}{
		{Config{Address: "gopher://x"}, "gopher"},
		{Config{DefaultIntentionPolicy: "perhaps"}, `default intention policy: action is "perhaps"`},
		{Config{TLS: TLS{CAFile: "/does/not/exist"}}, "consul TLS settings"},
		{Config{TLS: TLS{CertFile: "/only/one"}}, "consul TLS settings"},
	} {
		_, err := NewClient(tt.cfg, hclog.NewNullLogger())
		wantError(t, err, tt.fails)
	}
}
