// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/nomad"
	"github.com/outrider-mesh/outrider/hcl"
)

// defaultAuthMethod and defaultVaultMount are what Nomad's own documentation
// calls them, in Consul and in Vault.
const (
	defaultAuthMethod = "nomad-workloads"
	defaultVaultMount = "jwt-nomad"
	defaultVaultRole  = "nomad-workloads"
)

// reach finds the way to Consul, and to Vault where its address is a loopback
// one, from the network that the task is in.
func (p *Prepared) reach(ctx context.Context, log hclog.Logger, opts *Options) error {
	host, apart, hostErr := p.findHost()
	own := apart || p.task.OwnNetwork
	if !own {
		log.Warn("this task is in the network of the host; Nomad registers sidecars for groups with network { mode = \"bridge\" } or \"cni/…\", " +
			"and a port that was registered for such a network may be taken or missing here")
	}
	var way nomad.Way
	err := p.retry(ctx, log, func() error {
		facts := nomad.Facts{Explicit: p.given.address, ExplicitFrom: p.given.from, OwnNetwork: own, HostError: hostErr, Sockets: nomad.Sockets(p.sockets)}
		facts.Nomad, facts.NomadError = p.task.OwnServer()
		if facts.NomadError == nil {
			facts.NomadError = facts.Nomad.Usable()
		}
		var err error
		way, err = nomad.Reach(facts)
		if v := p.config.Vault; v != nil && own && hostErr != nil && nomad.IsLoopback(v.Address) {
			err = errors.Join(err, fmt.Errorf("vault's address %s is the loopback of this group and not of the host, whose network cannot be entered: %w; "+
				"give VAULT_ADDR an address of the host, or run the task by raw_exec as root", v.Address, hostErr))
		}
		return err
	})
	if err != nil {
		return err
	}
	p.take(way)
	switch {
	case own && host != nil:
		opts.Dial = host.Dial
	case own:
		opts.Dial = nomad.DialOutside
	}
	log.Info("reaching Consul", "address", p.config.Consul.Address, "named_by", way.From, "in_network_of_host", way.OnHost)
	return nil
}

// take makes way the consul block. Files of TLS go with the address that they
// were written beside, unless a flag or a file has named others.
func (p *Prepared) take(way nomad.Way) {
	if way.Address != "" {
		p.config.Consul.Address = way.Address
	}
	if s := way.Server; s != nil && p.launch.Consul.TLS == nil && len(p.launch.Configs) == 0 && s.CAFile+s.CAPath+s.CertFile+s.KeyFile != "" {
		p.config.Consul.TLS = &hcl.TLS{CAFile: s.CAFile, CAPath: s.CAPath, CertFile: s.CertFile, KeyFile: s.KeyFile}
	}
}

// credentials chooses the tokens of the task.
func (p *Prepared) credentials(log hclog.Logger, boot nomad.Bootstrap) error {
	identities, err := p.task.Identities()
	if err != nil {
		return fmt.Errorf("list the workload identities of the task: %w", err)
	}
	log.Info("Consul credentials", "from", p.consulCredentials(boot, identities))
	if c := p.config.Consul; c.Token == "" && c.TokenFile == "" && c.Login == nil {
		log.Warn("this task has no Consul token; if Consul answers 403, give the Nomad agent's consul block a service_identity, or the task identity { aud = [\"consul.io\"] file = true }, " +
			"and run \"nomad setup consul\" once")
	}
	return p.vaultCredentials(log, identities)
}

// hasten has the check looked at early that Nomad has registered: with the token
// that Nomad used, and not at all where only another one is known.
func (p *Prepared) hasten(ref *Sidecar) {
	c := p.config.Consul
	ref.CheckToken = p.task.SecretFile("si_token")
	ref.Hasten = ref.CheckToken != "" || c.Token == "" && c.TokenFile == "" && c.Login == nil
}

// consulCredentials takes, in this order: what a flag or a configuration file
// says; CONSUL_HTTP_TOKEN_FILE if that is a file of the task; a workload
// identity for Consul, which logs in again when its token ends; the token that
// Nomad got for the service; the one in the bootstrap; what the environment says
// besides, which may be the Nomad agent's own. It returns which of them it was.
func (p *Prepared) consulCredentials(boot nomad.Bootstrap, identities []nomad.Identity) string {
	c := &p.config.Consul
	identity, found := nomad.ForAudience(nomad.ConsulAudience, identities)
	method := cmp.Or(os.Getenv("CONSUL_LOGIN_AUTH_METHOD"), defaultAuthMethod)
	token := p.task.SecretFile("si_token")
	switch {
	case p.given.credentials:
		if c.Login != nil {
			l := hcl.Login{AuthMethod: cmp.Or(c.Login.AuthMethod, method), TokenFile: cmp.Or(c.Login.TokenFile, identity.File)}
			c.Login = &l
		}
		return "flags or configuration"
	case c.TokenFile != "" && p.task.Owns(c.TokenFile):
		c.Token = ""
		return "CONSUL_HTTP_TOKEN_FILE"
	case found:
		c.Token, c.TokenFile = "", ""
		c.Login = &hcl.Login{AuthMethod: method, TokenFile: identity.File}
		return fmt.Sprintf("workload identity %q by auth method %q", identity.Name, method)
	case token != "":
		c.Token, c.TokenFile = "", token
		return "Nomad's service identity token"
	case boot.Token != "":
		c.Token, c.TokenFile = hcl.Secret(boot.Token), ""
		return "the token in the bootstrap"
	case p.given.environment:
		return "the environment, perhaps the Nomad agent's own"
	}
	return "none"
}

// chooseVault puts flags over the environment's vault block. That of a file is
// whole.
func (p *Prepared) chooseVault() error {
	l, cfg := p.launch.Vault, p.config
	mount := cmp.Or(l.PKI.Mount, os.Getenv("OUTRIDER_VAULT_PKI_MOUNT"))
	role := cmp.Or(l.PKI.Role, os.Getenv("OUTRIDER_VAULT_PKI_ROLE"))
	if p.given.vaultFile {
		cfg.Vault.Address = cmp.Or(l.Address, cfg.Vault.Address)
		cfg.Vault.PKI.Mount, cfg.Vault.PKI.Role = cmp.Or(l.PKI.Mount, cfg.Vault.PKI.Mount), cmp.Or(l.PKI.Role, cfg.Vault.PKI.Role)
		return nil
	}
	if cfg.Vault == nil && l.Address != "" {
		cfg.Vault = &hcl.Vault{PKI: hcl.PKI{TTL: 24 * time.Hour}, Auth: hcl.Auth{Method: "token", Token: hcl.Secret(os.Getenv("VAULT_TOKEN"))}}
	}
	if cfg.Vault == nil {
		if mount != "" || role != "" {
			return errors.New("a Vault PKI mount or role is given, but not where Vault is; set VAULT_ADDR or -vault-addr, or leave them out to take Consul's leaf")
		}
		return nil
	}
	cfg.Vault.Address = cmp.Or(l.Address, cfg.Vault.Address)
	cfg.Vault.PKI.Mount, cfg.Vault.PKI.Role = mount, role
	if p.underTask && mount == "" && role == "" {
		// A job that uses Vault for its templates says nothing about its leaf.
		cfg.Vault = nil
		return nil
	}
	return CheckVault(cfg.Vault)
}

// vaultCredentials takes, in this order: what a configuration file says; the
// identity that -vault-auth-mount or -vault-auth-role is for; the token that Nomad
// keeps in the secrets directory; a workload identity for Vault; VAULT_TOKEN,
// which may be the Nomad agent's own.
func (p *Prepared) vaultCredentials(log hclog.Logger, identities []nomad.Identity) error {
	v := p.config.Vault
	if v == nil {
		log.Info("the leaf comes from Consul's CA; a Vault address with -vault-pki-mount and -vault-pki-role would take it from Vault")
		return nil
	}
	if p.given.vaultFile {
		return nil
	}
	identity, found := nomad.ForAudience(nomad.VaultAudience, identities)
	token, asked := p.task.SecretFile("vault_token"), p.launch.Vault.Auth
	jwt := asked.Mount != "" || asked.Role != ""
	switch {
	case token != "" && !jwt:
		v.Auth = hcl.Auth{Method: "token", TokenFile: token}
	case found:
		v.Auth = hcl.Auth{
			Method: "jwt", JWTFile: identity.File,
			Mount: cmp.Or(asked.Mount, os.Getenv("VAULT_JWT_MOUNT"), defaultVaultMount),
			Role:  cmp.Or(asked.Role, os.Getenv("VAULT_JWT_ROLE"), defaultVaultRole),
		}
	case v.Auth.Token == "" || jwt:
		return errors.New("the leaf is to come from Vault, but the task has nothing to log in with: give it a vault {} block, or identity { aud = [\"vault.io\"] file = true }")
	}
	log.Info("Vault credentials", "method", v.Auth.Method, "file", cmp.Or(v.Auth.TokenFile, v.Auth.JWTFile))
	return nil
}
