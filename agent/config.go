// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"errors"
	"time"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/metadata"
	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/hcl"
)

func consulConfig(c hcl.Consul) consul.Config {
	cfg := consul.Config{
		Address: c.Address, Token: string(c.Token), TokenFile: c.TokenFile,
		Datacenter: c.Datacenter, Namespace: c.Namespace, Partition: c.Partition,
		DefaultIntentionPolicy: c.DefaultIntentionPolicy,
	}
	if l := c.Login; l != nil {
		cfg.Login = &consul.Login{AuthMethod: l.AuthMethod, TokenFile: l.TokenFile}
	}
	if t := c.TLS; t != nil {
		cfg.TLS = consul.TLS{CAFile: t.CAFile, CAPath: t.CAPath, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName}
	}
	return cfg
}

func vaultConfig(v hcl.Vault) vault.Config {
	cfg := vault.Config{Address: v.Address, Namespace: v.Namespace, Auth: vault.Auth{
		Method: v.Auth.Method, Mount: v.Auth.Mount,
		Token: string(v.Auth.Token), TokenFile: v.Auth.TokenFile,
		RoleID: v.Auth.RoleID, RoleIDFile: v.Auth.RoleIDFile,
		SecretID: string(v.Auth.SecretID), SecretIDFile: v.Auth.SecretIDFile,
		Role: v.Auth.Role, JWTFile: v.Auth.JWTFile, CertFile: v.Auth.CertFile, KeyFile: v.Auth.KeyFile,
		Region: v.Auth.Region, HeaderValue: v.Auth.HeaderValue, ServiceAccount: v.Auth.ServiceAccount, Resource: v.Auth.Resource,
	}, Machine: machine{metadata.New(0)}}
	if t := v.TLS; t != nil {
		cfg.TLS = vault.TLS{CAFile: t.CAFile, CAPath: t.CAPath, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName}
	}
	return cfg
}

// EnvironmentConfig is the configuration of a sidecar that is told everything
// by the environment, as "consul connect proxy" and Vault's own command are:
// CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, …, VAULT_ADDR, VAULT_TOKEN, …. It has no
// admin address, and a vault block without PKI mount and role where VAULT_ADDR
// is set. Settings that would make it unsafe are errors.
func EnvironmentConfig() (*hcl.Config, error) {
	c := consul.ConfigFromEnv()
	if c.TLS.InsecureSkipVerify {
		return nil, errors.New("CONSUL_HTTP_SSL_VERIFY=false would let anybody pose as Consul; name its CA in CONSUL_CACERT instead")
	}
	if c.HTTPAuth != "" {
		return nil, errors.New("CONSUL_HTTP_AUTH is not supported; reach the agent directly and use a token")
	}
	cfg := &hcl.Config{
		Log: hcl.Log{Level: "info", Format: "text"},
		Consul: hcl.Consul{
			Address: c.Address, Token: hcl.Secret(c.Token), TokenFile: c.TokenFile,
			Datacenter: c.Datacenter, Namespace: c.Namespace, Partition: c.Partition,
		},
		Drain: hcl.Drain{Propagation: 2 * time.Second, Timeout: 30 * time.Second},
	}
	if c.TLS != (consul.TLS{}) {
		cfg.Consul.TLS = &hcl.TLS{CAFile: c.TLS.CAFile, CAPath: c.TLS.CAPath, CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile, ServerName: c.TLS.ServerName}
	}
	if v, ok := vault.ConfigFromEnv(); ok {
		cfg.Vault = &hcl.Vault{
			Address: v.Address, Namespace: v.Namespace,
			Auth: hcl.Auth{Method: v.Auth.Method, Mount: v.Auth.Mount, Token: hcl.Secret(v.Auth.Token), TokenFile: v.Auth.TokenFile},
			PKI:  hcl.PKI{TTL: 24 * time.Hour},
		}
		if v.TLS != (vault.TLS{}) {
			cfg.Vault.TLS = &hcl.TLS{CAFile: v.TLS.CAFile, CAPath: v.TLS.CAPath, CertFile: v.TLS.CertFile, KeyFile: v.TLS.KeyFile, ServerName: v.TLS.ServerName}
		}
	}
	return cfg, nil
}

// CheckVault reports why a vault block that did not come from a file cannot
// sign leaves; nil is no Vault, and fine.
func CheckVault(v *hcl.Vault) error {
	if v != nil && (v.PKI.Mount == "" || v.PKI.Role == "") {
		return errors.New("VAULT_ADDR is set, but not which PKI role signs the leaf; give -vault-pki-mount and -vault-pki-role, or unset VAULT_ADDR to take Consul's leaf")
	}
	return nil
}
