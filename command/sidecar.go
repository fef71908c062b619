// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"errors"
	"flag"
	"os"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/hcl"
)

// sidecarFlags are those of "consul connect proxy" that make sense here, with
// the same names, and a few of ours.
type sidecarFlags struct {
	configs    list
	serviceID  string
	proxyID    string
	httpAddr   string
	token      string
	tokenFile  string
	caFile     string
	caPath     string
	clientCert string
	clientKey  string
	serverName string
	vaultMount string
	vaultRole  string
	admin      string
	logLevel   string
	logJSON    bool
}

func (f *sidecarFlags) register(fs *flag.FlagSet) {
	fs.Var(&f.configs, "config", "configuration `PATH` for the consul, vault, log, admin and drain blocks; may be given several times")
	fs.StringVar(&f.serviceID, "sidecar-for", os.Getenv("CONNECT_SIDECAR_FOR"), "`ID` of the service whose sidecar this is (CONNECT_SIDECAR_FOR)")
	fs.StringVar(&f.proxyID, "proxy-id", os.Getenv("CONNECT_PROXY_ID"), "`ID` of the sidecar's own registration (CONNECT_PROXY_ID)")
	fs.StringVar(&f.httpAddr, "http-addr", "", "`ADDRESS` of the Consul agent (CONSUL_HTTP_ADDR)")
	fs.StringVar(&f.token, "token", "", "ACL `TOKEN`; prefer -token-file (CONSUL_HTTP_TOKEN)")
	fs.StringVar(&f.tokenFile, "token-file", "", "`FILE` with the ACL token (CONSUL_HTTP_TOKEN_FILE)")
	fs.StringVar(&f.caFile, "ca-file", "", "`FILE` with the CA of Consul's HTTPS (CONSUL_CACERT)")
	fs.StringVar(&f.caPath, "ca-path", "", "`DIRECTORY` with CAs of Consul's HTTPS (CONSUL_CAPATH)")
	fs.StringVar(&f.clientCert, "client-cert", "", "`FILE` with the client certificate for Consul (CONSUL_CLIENT_CERT)")
	fs.StringVar(&f.clientKey, "client-key", "", "`FILE` with the key of -client-cert (CONSUL_CLIENT_KEY)")
	fs.StringVar(&f.serverName, "tls-server-name", "", "`NAME` in Consul's certificate (CONSUL_TLS_SERVER_NAME)")
	fs.StringVar(&f.vaultMount, "vault-pki-mount", "", "PKI `MOUNT` that signs the leaf; with VAULT_ADDR and VAULT_TOKEN")
	fs.StringVar(&f.vaultRole, "vault-pki-role", "", "PKI `ROLE` that signs the leaf; ${service} stands for the service's name")
	fs.StringVar(&f.admin, "admin", os.Getenv("OUTRIDER_ADMIN"), "`ADDRESS` of the admin API: unix:///path or a loopback host:port; none when empty (OUTRIDER_ADMIN)")
	fs.StringVar(&f.logLevel, "log-level", "", "trace, debug, info, warn or error")
	fs.BoolVar(&f.logJSON, "log-json", false, "log as JSON")
}

func runSidecar(i invocation) int {
	var f sidecarFlags
	fs := i.flags("sidecar", "-sidecar-for ID | -proxy-id ID")
	f.register(fs)
	if code, ok := i.parse(fs); !ok {
		return code
	}
	switch {
	case fs.NArg() > 0:
		return i.misuse("sidecar: unexpected argument %q", fs.Arg(0))
	case f.serviceID == "" && f.proxyID == "":
		return i.misuse("sidecar: whose sidecar? give -sidecar-for SERVICE_ID or -proxy-id PROXY_ID")
	}
	cfg, code, ok := i.load(f.config)
	if !ok {
		return code
	}
	return i.serve(agent.Options{Config: cfg, Sidecars: []agent.Sidecar{{ServiceID: f.serviceID, ProxyID: f.proxyID}}}, nil)
}

// config is the environment's, overridden by files, overridden by flags.
func (f *sidecarFlags) config() (*hcl.Config, error) {
	cfg, err := agent.EnvironmentConfig()
	if err != nil {
		return nil, err
	}
	if len(f.configs) > 0 {
		if cfg, err = hcl.Load(f.configs...); err != nil {
			return nil, err
		}
		if len(cfg.Services) > 0 {
			return nil, errors.New("sidecar: the configuration has service stanzas, which \"outrider agent\" runs and registers; give sidecar one without")
		}
	}
	f.override(cfg)
	return cfg, agent.CheckVault(cfg.Vault)
}

func (f *sidecarFlags) override(cfg *hcl.Config) {
	set := func(to *string, v string) {
		if v != "" {
			*to = v
		}
	}
	set(&cfg.Consul.Address, f.httpAddr)
	if f.token != "" {
		cfg.Consul.Token, cfg.Consul.TokenFile = hcl.Secret(f.token), ""
	}
	if f.tokenFile != "" {
		cfg.Consul.Token, cfg.Consul.TokenFile = "", f.tokenFile
	}
	if f.caFile+f.caPath+f.clientCert+f.clientKey+f.serverName != "" {
		tls := hcl.TLS{}
		if cfg.Consul.TLS != nil {
			tls = *cfg.Consul.TLS
		}
		set(&tls.CAFile, f.caFile)
		set(&tls.CAPath, f.caPath)
		set(&tls.CertFile, f.clientCert)
		set(&tls.KeyFile, f.clientKey)
		set(&tls.ServerName, f.serverName)
		cfg.Consul.TLS = &tls
	}
	if cfg.Vault != nil {
		set(&cfg.Vault.PKI.Mount, f.vaultMount)
		set(&cfg.Vault.PKI.Role, f.vaultRole)
	}
	cfg.Admin.Address = f.admin
	set(&cfg.Log.Level, f.logLevel)
	if f.logJSON {
		cfg.Log.Format = "json"
	}
}
