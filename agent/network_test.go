// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/nomad"
	"github.com/outrider-mesh/outrider/hcl"
)

// Either sign is enough that the loopback is that of the group: a process that
// cannot see who started it, and an environment that says nothing.
func TestEitherSignOfANetworkOfItsOwnCounts(t *testing.T) {
	for name, c := range map[string]struct {
		apart, told bool
		host        *nomad.HostNetwork
		hostErr     error
		dials       bool
	}{
		"ancestors are hidden":       {false, true, nil, errors.New("hidden"), true},
		"the environment is silent":  {true, false, nil, errors.New("not permitted"), true},
		"the host may be entered":    {true, true, &nomad.HostNetwork{}, nil, true},
		"it is in that of the host":  {false, false, nil, nomad.ErrNotThere, false},
		"the environment tells host": {true, false, &nomad.HostNetwork{}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			nomadTask(t, hook(nil))
			if !c.told {
				if err := os.Unsetenv("NOMAD_ALLOC_INTERFACE_connect_proxy_api"); err != nil {
					t.Fatal(err)
				}
			}
			p, err := Launch{}.Prepare()
			if err != nil {
				t.Fatal(err)
			}
			p.sockets = nil
			p.findHost = func() (*nomad.HostNetwork, bool, error) { return c.host, c.apart, c.hostErr }
			opts, err := p.Await(t.Context(), hclog.NewNullLogger())
			if err != nil || (opts.Dial != nil) != c.dials {
				t.Errorf("dials by itself %t, %v", opts.Dial != nil, err)
			}
		})
	}
}

// waiting runs a launch that cannot begin for a moment, and returns what it says.
func waiting(t *testing.T, l Launch) string {
	t.Helper()
	log := &lockedBuffer{}
	_, run := begin(t, l, log)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if opts, err := run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("began with %+v, %v", opts.Config.Consul, err)
	}
	return log.String()
}

func TestAServerWhoseFilesTheTaskDoesNotSeeIsNotUsed(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "ca.pem")
	nomadTask(t, hook(map[string]string{".envoy_bootstrap.env": `["CONSUL_HTTP_SSL=true","CONSUL_CACERT=` + missing + `"]`}))
	if log := waiting(t, Launch{}); !strings.Contains(log, missing) {
		t.Errorf("the file is not named: %s", log)
	}
}

func TestFilesOfTLSGoWithTheAddressThatTheyWereWrittenBeside(t *testing.T) {
	dir := t.TempDir()
	theirs, mine := filepath.Join(dir, "theirs.pem"), filepath.Join(dir, "mine.pem")
	write(t, theirs, "x")
	config := filepath.Join(dir, "agent.hcl")
	write(t, config, "consul {\n  address = \"10.0.0.9:8500\"\n}\n")
	secured := filepath.Join(dir, "secured.hcl")
	write(t, secured, "consul {\n  address = \"https://10.0.0.8:8501\"\n  tls {\n    ca_file = \""+theirs+"\"\n  }\n}\n")
	env := map[string]string{".envoy_bootstrap.env": `["CONSUL_HTTP_SSL=true","CONSUL_CACERT=` + theirs + `"]`}
	for name, c := range map[string]struct {
		launch        Launch
		address, file string
	}{
		"Nomad's":    {Launch{}, "https://10.0.0.1:8501", theirs},
		"of a flag":  {Launch{Consul: hcl.Consul{TLS: &hcl.TLS{CAFile: mine}}}, "https://10.0.0.1:8501", mine},
		"of neither": {Launch{Configs: []string{config}}, "10.0.0.9:8500", ""},
		"of a file":  {Launch{Configs: []string{secured}}, "https://10.0.0.8:8501", theirs},
		"flag first": {Launch{Configs: []string{secured}, Consul: hcl.Consul{TLS: &hcl.TLS{CAFile: mine}}}, "https://10.0.0.8:8501", mine},
	} {
		t.Run(name, func(t *testing.T) {
			nomadTask(t, hook(env))
			got := await(t, c.launch).Config.Consul
			file := ""
			if got.TLS != nil {
				file = got.TLS.CAFile
			}
			if got.Address != c.address || file != c.file {
				t.Errorf("%s with %q, want %s with %q", got.Address, file, c.address, c.file)
			}
		})
	}
}

// What a file or a flag says of credentials is the last word, whatever Nomad gives.
func TestCredentialsOfAFileComeBeforeThoseOfNomad(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	write(t, token, "mine")
	for name, c := range map[string]struct{ block, file, login, vault string }{
		"token file":    {`consul { token_file = "` + token + `" }`, token, "", ""},
		"login":         {"consul {\n  login {\n    auth_method = \"mine\"\n    token_file = \"" + token + "\"\n  }\n}", "", "mine", ""},
		"nothing":       {`log { level = "info" }`, "", "nomad-workloads", ""},
		"a whole Vault": {"vault {\n  address = \"https://v:8200\"\n  auth \"token\" {\n    token_file = \"" + token + "\"\n  }\n  pki {\n    mount = \"pki\"\n    role = \"mesh\"\n  }\n}", "", "nomad-workloads", token},
	} {
		t.Run(name, func(t *testing.T) {
			nomadTask(t, hook(map[string]string{"si_token": "si", "vault_token": "v", "nomad_c.jwt": unsigned("consul.io"), "nomad_v.jwt": unsigned("vault.io")}))
			t.Setenv("CONSUL_HTTP_TOKEN", "agent")
			config := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".hcl")
			write(t, config, c.block+"\n")
			cfg := await(t, Launch{Configs: []string{config}}).Config
			login, vault := "", ""
			if cfg.Consul.Login != nil {
				login = cfg.Consul.Login.AuthMethod
			}
			if cfg.Vault != nil {
				vault = cfg.Vault.Auth.TokenFile
			}
			if cfg.Consul.TokenFile != c.file || login != c.login || cfg.Consul.Token != "" || vault != c.vault {
				t.Errorf("token %q, file %q, login %q, Vault %q", cfg.Consul.Token, cfg.Consul.TokenFile, login, vault)
			}
		})
	}
}

// A token file that the Nomad agent was started with may hold far more than a
// sidecar needs; it must not stay beside the token that was chosen.
func TestAnInheritedTokenFileGivesWayToTheBootstrap(t *testing.T) {
	nomadTask(t, hook(nil))
	t.Setenv("CONSUL_HTTP_TOKEN_FILE", "/etc/consul.d/token")
	if got := await(t, Launch{}).Config.Consul; got.Token != "boot-token" || got.TokenFile != "" {
		t.Errorf("token of the bootstrap %t, file %q", got.Token == "boot-token", got.TokenFile)
	}
}

func TestALoginThatWasAskedForIsNotReplacedByAnInheritedToken(t *testing.T) {
	nomadTask(t, hook(nil))
	t.Setenv("VAULT_TOKEN", "agent")
	p, err := Launch{Vault: hcl.Vault{Address: "https://v:8200", PKI: hcl.PKI{Mount: "pki", Role: "r"}, Auth: hcl.Auth{Role: "mesh"}}}.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	p.findHost = func() (*nomad.HostNetwork, bool, error) { return nil, true, errors.New("no") }
	if _, err := p.Await(t.Context(), hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "nothing to log in with") {
		t.Errorf("the error is %v", err)
	}
}

func TestServicesAreForTheAgentToRun(t *testing.T) {
	config := filepath.Join(t.TempDir(), "agent.hcl")
	write(t, config, "service {\n  name = \"web\"\n  port = 80\n  connect {\n    sidecar_service {}\n  }\n}\n")
	if _, err := (Launch{ProxyID: "p", Configs: []string{config}}).Prepare(); err == nil || !strings.Contains(err.Error(), "give sidecar one without") {
		t.Errorf("the error is %v", err)
	}
}

func TestAReadyAddressThatOthersReachIsNotServed(t *testing.T) {
	for address, want := range map[string]string{"10.0.0.1:19101": "", "0.0.0.0:19101": "", ":19101": "", "127.0.0.1:19101": "127.0.0.1:19101"} {
		nomadTask(t, hook(nil))
		t.Setenv("NOMAD_ENVOY_READY_ADDR_api", address)
		if got := await(t, Launch{}).Ready; got != want {
			t.Errorf("%s: served at %q", address, got)
		}
	}
}

func TestAnAddressThatIsServedAlreadyIsNotServedTwice(t *testing.T) {
	dir := nomadTask(t, hook(nil))
	if got := await(t, Launch{Admin: "127.0.0.2:19001"}).Sockets; len(got) != 1 || got[0] != "unix://"+dir+"/outrider.sock" {
		t.Errorf("served at %v", got)
	}
}

func TestTenanciesOfTheBootstrapFillInOnlyWhatIsNotSaid(t *testing.T) {
	config := filepath.Join(t.TempDir(), "agent.hcl")
	write(t, config, "consul {\n  namespace = \"mine\"\n}\n")
	nomadTask(t, hook(map[string]string{"envoy_bootstrap.json": `{"node":{"id":"p","metadata":{"namespace":"team","partition":"edge"}}}`}))
	if got := await(t, Launch{Configs: []string{config}}).Config.Consul; got.Namespace != "mine" || got.Partition != "edge" {
		t.Errorf("namespace %q, partition %q", got.Namespace, got.Partition)
	}
	if got := await(t, Launch{}).Config.Consul; got.Namespace != "team" {
		t.Errorf("namespace %q", got.Namespace)
	}
}

func TestATokenThatIsGivenComesBeforeThatOfABootstrapOutsideNomad(t *testing.T) {
	dir := nomadTask(t, nil)
	t.Setenv("NOMAD_ALLOC_ID", "")
	path := filepath.Join(dir, "b.json")
	write(t, path, bootstrapText)
	for _, given := range []hcl.Consul{{Token: "mine"}, {TokenFile: "/mine"}, {Login: &hcl.Login{AuthMethod: "m", TokenFile: "/jwt"}}} {
		if got := await(t, Launch{Bootstrap: path, Consul: given}).Config.Consul; got.Token != given.Token || got.TokenFile != given.TokenFile {
			t.Errorf("token of the bootstrap %t, file %q", got.Token == "boot-token", got.TokenFile)
		}
	}
}
