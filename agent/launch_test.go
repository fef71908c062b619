// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/nomad"
	"github.com/outrider-mesh/outrider/hcl"
)

const bootstrapText = `{"admin":{"address":{"socket_address":{"address":"127.0.0.1","port_value":19000}}},"node":{"id":"api-sidecar-proxy","cluster":"api"},
"dynamic_resources":{"ads_config":{"grpc_services":{"initial_metadata":[{"key":"x-consul-token","value":"boot-token"}]}}}}`

// unsigned is a JWT of an audience.
func unsigned(audience string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte("{}")) + "." + encode([]byte(`{"aud":"`+audience+`"}`)) + ".c2ln"
}

// nomadTask makes the environment of a sidecar task with files in its secrets
// directory, which it returns.
func nomadTask(t *testing.T, files map[string]string) string {
	t.Helper()
	// What runs the tests must not be mixed in.
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		for _, prefix := range []string{"NOMAD_", "CONSUL_", "VAULT_", "OUTRIDER_VAULT", "CONNECT_"} {
			if strings.HasPrefix(name, prefix) {
				t.Setenv(name, "")
			}
		}
	}
	dir := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	for name, value := range map[string]string{
		"NOMAD_ALLOC_ID": "d8aed6f0", "NOMAD_TASK_NAME": "connect-proxy-api", "NOMAD_GROUP_NAME": "api", "NOMAD_SECRETS_DIR": dir, "NOMAD_TASK_DIR": dir + "/local",
		"NOMAD_ALLOC_INTERFACE_connect_proxy_api": "eth0", "NOMAD_ENVOY_READY_ADDR_api": "127.0.0.1:19101", "NOMAD_ENVOY_ADMIN_ADDR_api": "127.0.0.2:19001",
	} {
		t.Setenv(name, value)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// await prepares a launch in the network of a group whose host may not be
// entered, and returns its options.
func await(t *testing.T, l Launch) Options {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	p.sockets = nil
	p.findHost = func() (*nomad.HostNetwork, bool, error) { return nil, true, errors.New("operation not permitted") }
	opts, err := p.Await(t.Context(), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return opts
}

// hook is what Nomad leaves behind when its own Consul has a host address.
func hook(files map[string]string) map[string]string {
	all := map[string]string{
		"envoy_bootstrap.json": bootstrapText,
		".envoy_bootstrap.cmd": "connect envoy -http-addr 10.0.0.1:8501 -bootstrap -token secret",
		".envoy_bootstrap.env": `["CONSUL_HTTP_SSL=true"]`,
	}
	maps.Copy(all, files)
	return all
}

func TestSidecarTaskRunsByItself(t *testing.T) {
	dir := nomadTask(t, hook(map[string]string{"si_token": "si"}))
	opts := await(t, Launch{})
	if diff := cmp.Diff([]Sidecar{{ProxyID: "api-sidecar-proxy", Hasten: true, CheckToken: filepath.Join(dir, "si_token")}}, opts.Sidecars); diff != "" {
		t.Error(diff)
	}
	if opts.Config.Consul.Address != "https://10.0.0.1:8501" || opts.Config.Consul.TokenFile != dir+"/si_token" || opts.Config.Consul.Token != "" {
		t.Errorf("Consul is %+v", opts.Config.Consul)
	}
	if opts.Ready != "127.0.0.1:19101" || !cmp.Equal(opts.Sockets, []string{"unix://" + dir + "/outrider.sock", "127.0.0.2:19001"}) || opts.Config.Admin.Address != "" {
		t.Errorf("it serves %s, %v and %q", opts.Ready, opts.Sockets, opts.Config.Admin.Address)
	}
	if opts.KillTimeout != 5*time.Second || opts.Config.Vault != nil {
		t.Errorf("killed after %s, Vault %+v", opts.KillTimeout, opts.Config.Vault)
	}
	// The address may be a name that leads to the loopback of the group.
	if opts.Dial == nil {
		t.Fatal("connections to Consul are made without a look at where they lead")
	}
	if conn, err := opts.Dial(t.Context(), "tcp", "localhost:1"); err == nil || !strings.Contains(err.Error(), "network of this group") {
		t.Errorf("the loopback of the group: %v, %v", conn, err)
	}
}

func TestFlagsComeBeforeWhatNomadGives(t *testing.T) {
	nomadTask(t, hook(map[string]string{"si_token": "si", "nomad_c.jwt": unsigned("consul.io")}))
	opts := await(t, Launch{ProxyID: "mine", Admin: "127.0.0.1:1", KillTimeout: time.Minute, DrainTimeout: time.Hour, Consul: hcl.Consul{Address: "10.9.9.9:8500", TokenFile: "/t"}})
	c := opts.Config.Consul
	if opts.Sidecars[0].ProxyID != "mine" || c.Address != "10.9.9.9:8500" || c.TokenFile != "/t" || c.Login != nil || opts.KillTimeout != time.Minute ||
		opts.Config.Drain.Timeout != time.Hour || opts.Config.Admin.Address != "127.0.0.1:1" {
		t.Errorf("%+v, %+v", opts, c)
	}
}

// An inherited environment may hold the Nomad agent's own token, which may do
// far more than a sidecar's.
func TestConsulCredentialsOfTheTaskComeFirst(t *testing.T) {
	both := map[string]string{"si_token": "si", "nomad_mesh.jwt": unsigned("consul.io"), "nomad_v.jwt": unsigned("vault.io")}
	type want struct{ token, file, login, jwt string }
	for name, c := range map[string]struct {
		files map[string]string
		env   map[string]string
		flags hcl.Consul
		want  want
	}{
		"identity":                        {both, nil, hcl.Consul{}, want{login: "nomad-workloads", jwt: "nomad_mesh.jwt"}},
		"identity by another auth method": {both, map[string]string{"CONSUL_LOGIN_AUTH_METHOD": "mesh"}, hcl.Consul{}, want{login: "mesh", jwt: "nomad_mesh.jwt"}},
		"identity before an inherited token": {
			both, map[string]string{"CONSUL_HTTP_TOKEN": "agent"}, hcl.Consul{}, want{login: "nomad-workloads", jwt: "nomad_mesh.jwt"},
		},
		"service identity before an inherited token": {
			map[string]string{"si_token": "si"}, map[string]string{"CONSUL_HTTP_TOKEN": "agent", "CONSUL_HTTP_TOKEN_FILE": "/etc/consul.d/token"}, hcl.Consul{}, want{file: "si_token"},
		},
		"a token file of the task": {both, map[string]string{"CONSUL_HTTP_TOKEN_FILE": "DIR/mine", "CONSUL_HTTP_TOKEN": "agent"}, hcl.Consul{}, want{file: "mine"}},
		"a flag":                   {both, map[string]string{"CONSUL_HTTP_TOKEN": "agent"}, hcl.Consul{Token: "flag"}, want{token: "flag"}},
		"a login by flag":          {both, nil, hcl.Consul{Login: &hcl.Login{AuthMethod: "mine"}}, want{login: "mine", jwt: "nomad_mesh.jwt"}},
		"the bootstrap's token":    {map[string]string{"si_token": ""}, map[string]string{"CONSUL_HTTP_TOKEN": "agent"}, hcl.Consul{}, want{token: "boot-token"}},
		"the environment at last": {
			map[string]string{"envoy_bootstrap.json": `{"node":{"id":"p"}}`}, map[string]string{"CONSUL_HTTP_TOKEN": "agent"}, hcl.Consul{}, want{token: "agent"},
		},
		"nothing": {map[string]string{"envoy_bootstrap.json": `{"node":{"id":"p"}}`}, nil, hcl.Consul{}, want{}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := nomadTask(t, hook(c.files))
			for name, value := range c.env {
				t.Setenv(name, strings.Replace(value, "DIR", dir, 1))
			}
			got := await(t, Launch{Consul: c.flags}).Config.Consul
			var have want
			have.token, have.file = string(got.Token), strings.TrimPrefix(got.TokenFile, dir+"/")
			if got.Login != nil {
				have.login, have.jwt = got.Login.AuthMethod, strings.TrimPrefix(got.Login.TokenFile, dir+"/")
			}
			if have != c.want {
				t.Errorf("got %+v, want %+v", have, c.want)
			}
		})
	}
}

func TestVaultIsChosenByAddressAndRole(t *testing.T) {
	pki := map[string]string{"VAULT_ADDR": "https://vault:8200", "OUTRIDER_VAULT_PKI_MOUNT": "pki", "OUTRIDER_VAULT_PKI_ROLE": "mesh"}
	identity := map[string]string{"nomad_v.jwt": unsigned("vault.io")}
	for name, c := range map[string]struct {
		files map[string]string
		env   map[string]string
		flags hcl.Vault
		want  *hcl.Vault
	}{
		"not there":                        {nil, nil, hcl.Vault{}, nil},
		"for templates only":               {identity, map[string]string{"VAULT_ADDR": "https://vault:8200", "VAULT_TOKEN": "t"}, hcl.Vault{}, nil},
		"by the token that Nomad renews":   {map[string]string{"vault_token": "t", "nomad_v.jwt": unsigned("vault.io")}, pki, hcl.Vault{}, &hcl.Vault{Auth: hcl.Auth{Method: "token", TokenFile: "DIR/vault_token"}}},
		"by workload identity":             {identity, pki, hcl.Vault{}, &hcl.Vault{Auth: hcl.Auth{Method: "jwt", Mount: "jwt-nomad", Role: "nomad-workloads", JWTFile: "DIR/nomad_v.jwt"}}},
		"by workload identity, as flagged": {map[string]string{"vault_token": "t", "nomad_v.jwt": unsigned("vault.io")}, pki, hcl.Vault{Auth: hcl.Auth{Mount: "m", Role: "r"}}, &hcl.Vault{Auth: hcl.Auth{Method: "jwt", Mount: "m", Role: "r", JWTFile: "DIR/nomad_v.jwt"}}},
		"by an inherited token at last":    {nil, map[string]string{"VAULT_TOKEN": "t"}, hcl.Vault{Address: "https://vault:8200", PKI: hcl.PKI{Mount: "pki", Role: "mesh"}}, &hcl.Vault{Auth: hcl.Auth{Method: "token", Token: "t"}}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := nomadTask(t, hook(c.files))
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			got := await(t, Launch{Vault: c.flags}).Config.Vault
			if c.want == nil || got == nil {
				if c.want != nil || got != nil {
					t.Fatalf("got %+v, want %+v", got, c.want)
				}
				return
			}
			c.want.Address, c.want.PKI = "https://vault:8200", hcl.PKI{Mount: "pki", Role: "mesh", TTL: 24 * time.Hour}
			c.want.Auth.TokenFile = strings.Replace(c.want.Auth.TokenFile, "DIR", dir, 1)
			c.want.Auth.JWTFile = strings.Replace(c.want.Auth.JWTFile, "DIR", dir, 1)
			if *got != *c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// begin is a launch that has to wait for something outside.
func begin(t *testing.T, l Launch, log *lockedBuffer) (*Prepared, func(ctx context.Context) (Options, error)) {
	t.Helper()
	p, err := l.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	p.findHost = func() (*nomad.HostNetwork, bool, error) { return nil, true, errors.New("operation not permitted") }
	p.sockets = nil
	logger := hclog.New(&hclog.LoggerOptions{Output: log})
	return p, func(ctx context.Context) (Options, error) { return p.Await(ctx, logger) }
}

// A task that ends uses up its restarts; what is missing may still appear.
func TestSidecarTaskWaitsWithASentence(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		env   map[string]string
		says  []string
	}{
		"no bootstrap":     {map[string]string{}, nil, []string{"no such file", "the consul binary on the Nomad agent's PATH", "connect-proxy-api", "-proxy-id"}},
		"empty bootstrap":  {hook(map[string]string{"envoy_bootstrap.json": ""}), nil, []string{"the file is empty", "restart the task"}},
		"garbage":          {hook(map[string]string{"envoy_bootstrap.json": "{garbage"}), nil, []string{"not the JSON that Consul writes", "restart the task"}},
		"no proxy id":      {hook(map[string]string{"envoy_bootstrap.json": "{}"}), nil, []string{"node.id", "-proxy-id"}},
		"no way to Consul": {hook(map[string]string{".envoy_bootstrap.cmd": "connect envoy -http-addr 127.0.0.1:8500"}), nil, []string{"no way to Consul", "client_addr", "unix:///run/consul/http.sock", "raw_exec as root"}},
		"inherited loopback": {
			hook(map[string]string{".envoy_bootstrap.cmd": "connect envoy"}), map[string]string{"CONSUL_HTTP_ADDR": "127.0.0.1:8500"},
			[]string{"CONSUL_HTTP_ADDR is 127.0.0.1:8500, which is the loopback of this group"},
		},
		"vault on a loopback": {
			hook(nil), map[string]string{"VAULT_ADDR": "http://127.0.0.1:8200", "OUTRIDER_VAULT_PKI_MOUNT": "pki", "OUTRIDER_VAULT_PKI_ROLE": "r", "VAULT_TOKEN": "t"},
			[]string{"vault's address http://127.0.0.1:8200 is the loopback of this group"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := nomadTask(t, c.files)
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			synctest.Test(t, func(t *testing.T) {
				log := &lockedBuffer{}
				_, run := begin(t, Launch{}, log)
				ended := make(chan error, 1)
				go func() { _, err := run(t.Context()); ended <- err }()
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if n := strings.Count(log.String(), "looking again"); n < 15 || n > 30 {
					t.Errorf("in ten minutes it has spoken %d times", n)
				}
				for _, want := range c.says {
					if !strings.Contains(log.String(), want) {
						t.Errorf("%q is missing in: %s", want, log)
					}
				}
				if strings.Contains(log.String(), "boot-token") {
					t.Error("a token is in the log")
				}
				// The fix comes from outside.
				for name, text := range hook(nil) {
					write(t, filepath.Join(dir, name), text)
				}
				if c.env["VAULT_ADDR"] != "" {
					return // its address is the job's
				}
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	nomadTask(t, nil)
	synctest.Test(t, func(t *testing.T) {
		_, run := begin(t, Launch{}, &lockedBuffer{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { _, err := run(ctx); ended <- err }()
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestBootstrapWorksOutsideNomad(t *testing.T) {
	dir := nomadTask(t, nil)
	t.Setenv("NOMAD_ALLOC_ID", "")
	path := filepath.Join(dir, "b.json")
	write(t, path, bootstrapText)
	opts := await(t, Launch{Bootstrap: path})
	if opts.Sidecars[0].ProxyID != "api-sidecar-proxy" || opts.Config.Consul.Token != "boot-token" || !cmp.Equal(opts.Sockets, []string{"127.0.0.1:19000"}) || opts.KillTimeout != 0 {
		t.Errorf("%+v, %+v", opts, opts.Config.Consul)
	}
	t.Setenv("CONSUL_HTTP_TOKEN", "mine")
	if got := await(t, Launch{Bootstrap: path}).Config.Consul.Token; got != "mine" {
		t.Error("the token of the environment does not come first")
	}
	write(t, path, strings.Replace(bootstrapText, "127.0.0.1", "0.0.0.0", 1))
	if got := await(t, Launch{Bootstrap: path}).Sockets; got != nil {
		t.Errorf("the admin API is served to everybody at %v", got)
	}
	// Nobody is going to change the file: the error is the last word.
	p, err := Launch{Bootstrap: path + ".none"}.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Await(t.Context(), hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "consul connect envoy -bootstrap") {
		t.Errorf("the error is %v", err)
	}
	if _, err := (Launch{}).Prepare(); !errors.Is(err, ErrWhose) {
		t.Errorf("without anything: %v", err)
	}
}

// What the task lacks is said before Consul or a port says it in its own way.
func TestWhatATaskLacksIsSaid(t *testing.T) {
	nomadTask(t, hook(map[string]string{"envoy_bootstrap.json": `{"admin":{"address":{"socket_address":{"address":"10.0.0.1","port_value":19000}}},"node":{"id":"p"}}`}))
	t.Setenv("NOMAD_ALLOC_INTERFACE_connect_proxy_api", "")
	t.Setenv("NOMAD_ENVOY_ADMIN_ADDR_api", "")
	if err := os.Unsetenv("NOMAD_ALLOC_INTERFACE_connect_proxy_api"); err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	p, run := begin(t, Launch{}, log)
	p.findHost = func() (*nomad.HostNetwork, bool, error) { return nil, false, nomad.ErrNotThere }
	opts, err := run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"this task has no Consul token; if Consul answers 403, give the Nomad agent's consul block a service_identity",
		`this task is in the network of the host; Nomad registers sidecars for groups with network { mode = "bridge" }`,
		"others than this host could reach it", "address=10.0.0.1:19000",
	} {
		if !strings.Contains(strings.ReplaceAll(log.String(), `\"`, `"`), want) {
			t.Errorf("%q is missing in: %s", want, log)
		}
	}
	if len(opts.Sockets) != 1 {
		t.Errorf("the admin API is served at %v", opts.Sockets)
	}
}

func TestACheckIsHastenedOnlyWithTheTokenItWasRegisteredWith(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"Nomad's token":               {map[string]string{"si_token": "si"}, true},
		"a login beside Nomad's":      {map[string]string{"si_token": "si", "nomad_c.jwt": unsigned("consul.io")}, true},
		"a login and nothing else":    {map[string]string{"nomad_c.jwt": unsigned("consul.io")}, false},
		"a token of the bootstrap":    {nil, false},
		"no ACLs, so no token at all": {map[string]string{"envoy_bootstrap.json": `{"node":{"id":"p","cluster":"api"}}`}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := nomadTask(t, hook(c.files))
			got := await(t, Launch{}).Sidecars[0]
			file := ""
			if c.files["si_token"] != "" {
				file = filepath.Join(dir, "si_token")
			}
			if got.Hasten != c.want || got.CheckToken != file {
				t.Errorf("%t with %q", got.Hasten, got.CheckToken)
			}
		})
	}
}
