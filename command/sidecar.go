// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/hcl"
)

// sidecarFlags are those of "consul connect proxy" that make sense here, with
// the same names, and a few of ours.
type sidecarFlags struct {
	launch  agent.Launch
	configs list
	token   string
	tls     hcl.TLS
	login   hcl.Login
	logJSON bool
}

func (f *sidecarFlags) register(fs *flag.FlagSet) {
	l := &f.launch
	fs.Var(&f.configs, "config", "configuration `PATH` for the consul, vault, log, admin and drain blocks; may be given several times")
	fs.StringVar(&l.ServiceID, "sidecar-for", os.Getenv("CONNECT_SIDECAR_FOR"), "`ID` of the service whose sidecar this is (CONNECT_SIDECAR_FOR)")
	fs.StringVar(&l.ProxyID, "proxy-id", os.Getenv("CONNECT_PROXY_ID"), "`ID` of the sidecar's own registration (CONNECT_PROXY_ID); else the bootstrap's, under Nomad")
	fs.StringVar(&l.Bootstrap, "bootstrap", "", "`FILE` that \"consul connect envoy -bootstrap\" wrote; under Nomad envoy_bootstrap.json in the secrets directory")
	fs.StringVar(&l.Admin, "admin", os.Getenv("OUTRIDER_ADMIN"), "`ADDRESS` of the admin API: unix:///path or a loopback host:port; none when empty, Nomad's beside it under Nomad (OUTRIDER_ADMIN)")
	fs.DurationVar(&l.KillTimeout, "kill-timeout", 0, "the `TIME` after which a process that was asked to stop is killed: draining ends a second before; 5s under Nomad, never elsewhere (OUTRIDER_KILL_TIMEOUT)")
	fs.StringVar(&l.Log.Level, "log-level", "", "trace, debug, info, warn or error")
	fs.BoolVar(&f.logJSON, "log-json", false, "log as JSON")
	f.registerConsul(fs)
	f.registerVault(fs)
}

func (f *sidecarFlags) registerConsul(fs *flag.FlagSet) {
	c := &f.launch.Consul
	fs.StringVar(&c.Address, "http-addr", "", "`ADDRESS` of the Consul agent (CONSUL_HTTP_ADDR)")
	fs.StringVar(&f.token, "token", "", "ACL `TOKEN`; prefer -token-file (CONSUL_HTTP_TOKEN)")
	fs.StringVar(&c.TokenFile, "token-file", "", "`FILE` with the ACL token (CONSUL_HTTP_TOKEN_FILE)")
	fs.StringVar(&f.login.AuthMethod, "login-auth-method", "", "Consul auth `METHOD` to log in to with a JWT (CONSUL_LOGIN_AUTH_METHOD under Nomad, else nomad-workloads)")
	fs.StringVar(&f.login.TokenFile, "login-token-file", "", "`FILE` with that JWT; under Nomad the workload identity for consul.io")
	fs.StringVar(&f.tls.CAFile, "ca-file", "", "`FILE` with the CA of Consul's HTTPS (CONSUL_CACERT)")
	fs.StringVar(&f.tls.CAPath, "ca-path", "", "`DIRECTORY` with CAs of Consul's HTTPS (CONSUL_CAPATH)")
	fs.StringVar(&f.tls.CertFile, "client-cert", "", "`FILE` with the client certificate for Consul (CONSUL_CLIENT_CERT)")
	fs.StringVar(&f.tls.KeyFile, "client-key", "", "`FILE` with the key of -client-cert (CONSUL_CLIENT_KEY)")
	fs.StringVar(&f.tls.ServerName, "tls-server-name", "", "`NAME` in Consul's certificate (CONSUL_TLS_SERVER_NAME)")
}

func (f *sidecarFlags) registerVault(fs *flag.FlagSet) {
	v := &f.launch.Vault
	fs.StringVar(&v.Address, "vault-addr", "", "`ADDRESS` of Vault (VAULT_ADDR)")
	fs.StringVar(&v.Auth.Mount, "vault-auth-mount", "", "`MOUNT` of Vault's JWT auth method for the workload identity, under Nomad (VAULT_JWT_MOUNT, else jwt-nomad)")
	fs.StringVar(&v.Auth.Role, "vault-auth-role", "", "`ROLE` of that auth method (VAULT_JWT_ROLE, else nomad-workloads)")
	fs.StringVar(&v.PKI.Mount, "vault-pki-mount", "", "PKI `MOUNT` that signs the leaf (OUTRIDER_VAULT_PKI_MOUNT); with VAULT_ADDR")
	fs.StringVar(&v.PKI.Role, "vault-pki-role", "", "PKI `ROLE` that signs the leaf (OUTRIDER_VAULT_PKI_ROLE); ${service} stands for the service's name")
}

func runSidecar(i invocation) int {
	var f sidecarFlags
	fs := i.flags("sidecar", "[-sidecar-for ID | -proxy-id ID]")
	f.register(fs)
	if code, ok := i.parse(fs); !ok {
		return code
	}
	if fs.NArg() > 0 {
		return i.misuse("sidecar: unexpected argument %q", fs.Arg(0))
	}
	launch, err := f.finish()
	if err != nil {
		return i.misuse("sidecar: %v", err)
	}
	return i.launch("sidecar", launch)
}

// finish reads what is not a flag of its own.
func (f *sidecarFlags) finish() (agent.Launch, error) {
	l := f.launch
	l.Configs = f.configs
	l.Consul.Token = hcl.Secret(f.token)
	if f.token != "" && l.Consul.TokenFile != "" {
		l.Consul.Token = "" // the file may be renewed
	}
	if f.tls != (hcl.TLS{}) {
		l.Consul.TLS = &f.tls
	}
	if f.login != (hcl.Login{}) {
		if l.Consul.Token != "" || l.Consul.TokenFile != "" {
			return l, errors.New("a token and a login are both given; give one of them")
		}
		if f.login.AuthMethod == "" {
			f.login.AuthMethod = os.Getenv("CONSUL_LOGIN_AUTH_METHOD")
		}
		l.Consul.Login = &f.login
	}
	if f.logJSON {
		l.Log.Format = "json"
	}
	return l, setKillTimeout(&l)
}

func setKillTimeout(l *agent.Launch) error {
	if text := os.Getenv("OUTRIDER_KILL_TIMEOUT"); text != "" && l.KillTimeout == 0 {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("OUTRIDER_KILL_TIMEOUT is %q; give a duration such as 30s", text)
		}
		l.KillTimeout = d
	}
	if l.KillTimeout < 0 {
		return fmt.Errorf("the kill timeout is %s; give a duration such as 30s", l.KillTimeout)
	}
	return nil
}

// launch runs one sidecar, when what it needs is there.
func (i invocation) launch(command string, l agent.Launch) int {
	sockets, code, ok := i.inherit()
	if !ok {
		return code
	}
	l.Load = func(paths ...string) (*hcl.Config, error) {
		return agent.NewLoader(paths...).Load(context.Background())
	}
	prepared, err := l.Prepare()
	if errors.Is(err, agent.ErrWhose) {
		return i.misuse("%s: %v", command, err)
	}
	cfg, code, ok := i.load(func() (*hcl.Config, error) {
		if err != nil {
			return nil, err
		}
		return prepared.Config(), nil
	})
	if !ok {
		sockets.Fail("its configuration has mistakes")
		return code
	}
	return i.serve(sockets, newLogger(cfg.Log, i.stderr), inRoom(prepared.Memory(), prepared.Await))
}
