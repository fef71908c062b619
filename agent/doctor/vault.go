// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/agent/vault"
	"github.com/outrider-mesh/outrider/connect"
)

// pkis are the roles that sign the leaves of this host, by service.
func (p *patient) pkis() []vault.PKI {
	if p.Config.Vault == nil || p.Config.Vault.PKI.Mount == "" || p.Config.Vault.PKI.Role == "" {
		return nil // VAULT_ADDR alone says nothing of them
	}
	pki := p.Config.Vault.PKI
	var out []vault.PKI
	for _, s := range p.Config.Services {
		out = append(out, vault.PKI{Mount: pki.MountFor(s.Name), Role: pki.RoleFor(s.Name), TTL: pki.TTL})
	}
	return out
}

func (p *patient) vaultFindings() []Finding {
	const check = "Vault"
	switch {
	case p.Vault == nil:
		return nil // leaves come from Consul
	case p.Offline:
		return []Finding{{check, Skipped, errOffline.Error(), ""}}
	case p.vault == nil:
		return []Finding{{check, Fail, p.vaultErr.Error(), "start Vault, or correct vault.address and vault.tls; running sidecars keep their leaf until it expires"}}
	case !p.vault.Initialized:
		return []Finding{{check, Fail, p.vault.Address + " answers, and is not initialized", "vault operator init"}}
	case p.vault.Sealed:
		return []Finding{{check, Fail, p.vault.Address + " answers, and is sealed: it signs nothing", "vault operator unseal, and see why it was sealed"}}
	}
	out := []Finding{{check, OK, fmt.Sprintf("%s answers, version %s, unsealed", p.vault.Address, p.vault.Version), ""}, p.vaultLogin()}
	for i, s := range p.vault.PKIs {
		out = append(out, p.vaultIssuer(s), p.vaultRole(i, s))
	}
	return slices.CompactFunc(out, func(a, b Finding) bool { return a == b })
}

// vaultLogin looks at what can be looked at without logging in.
func (p *patient) vaultLogin() Finding {
	const check = "login to Vault"
	method := p.Config.Vault.Auth.Method
	switch {
	case p.vault.CredentialsErr != nil:
		return Finding{check, Fail, p.vault.CredentialsErr.Error(), "put what the vault block names in its place, readable by the user that the agent runs as"}
	case method != vault.TokenMethod:
		return Finding{check, Skipped, fmt.Sprintf("auth %q is not tried: a login makes a token, and may use up what it is made with; the running agent says whether its last one worked", method), ""}
	case p.vault.TokenErr != nil:
		return Finding{check, Fail, p.vault.TokenErr.Error(), "give a token that Vault knows, or another auth method"}
	case p.vault.Token.TTL == 0:
		return Finding{check, OK, "the token is valid and never ends", ""}
	case !p.vault.Token.Renewable:
		return Finding{check, Warn, fmt.Sprintf("the token is valid for %s and cannot be renewed", p.vault.Token.TTL), "give a periodic token, or have the agent log in: auth \"approle\", \"jwt\" or \"cert\""}
	}
	return Finding{check, OK, fmt.Sprintf("the token is valid for %s and is renewed", p.vault.Token.TTL), ""}
}

// vaultIssuer looks whether leaves of a mount are worth anything in the mesh.
func (p *patient) vaultIssuer(s vault.PKISurvey) Finding {
	const check = "issuer in Vault"
	mount := strings.Trim(s.PKI.Mount, "/")
	if errors.Is(s.ChainErr, context.DeadlineExceeded) {
		return Finding{check, Skipped, fmt.Sprintf("Vault did not tell all within %s: %v", eachWithin, s.ChainErr), ""}
	}
	if s.ChainErr != nil {
		return Finding{check, Fail, s.ChainErr.Error(), "correct vault.pki.mount, or give the mount an issuer"}
	}
	issuer := s.Chain[0]
	if f := p.expiry(check, fmt.Sprintf("the issuer %q of %s", issuer.Subject.CommonName, mount), issuer); f.State != OK {
		return f
	}
	if p.consul == nil || p.consul.Bundle == nil {
		return Finding{check, Skipped, fmt.Sprintf("%q of %s is not compared with Consul's roots, which are not known", issuer.Subject.CommonName, mount), ""}
	}
	if err := p.under(s.Chain, p.consul.Bundle); err != nil {
		return Finding{check, Fail, fmt.Sprintf("%q of %s is not under a root that Consul trusts (%s): leaves it signs are refused", issuer.Subject.CommonName, mount, rootNames(p.consul.Bundle)),
			"let Consul use this Vault as its CA (connect { ca_provider = \"vault\" }), and sign with its intermediate_pki_path"}
	}
	if left := issuer.NotAfter.Sub(p.Now()); left < s.PKI.TTL {
		return Finding{check, Warn, fmt.Sprintf("%q of %s expires in %s, before a leaf of %s would", issuer.Subject.CommonName, mount, left.Round(1e9), s.PKI.TTL), "renew the certificate of the mount's issuer"}
	}
	return Finding{check, OK, fmt.Sprintf("%q of %s is under a root that Consul trusts, and good until %s", issuer.Subject.CommonName, mount, day(s.Chain)), ""}
}

// under verifies that a chain, whose first certificate signs leaves, ends at a
// root of the mesh.
func (p *patient) under(chain []*x509.Certificate, bundle *connect.TrustBundle) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	for _, root := range bundle.Roots {
		for _, c := range root.Intermediates {
			between.AddCert(c)
		}
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: bundle.Pool, Intermediates: between, CurrentTime: p.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

func rootNames(b *connect.TrustBundle) string {
	var names []string
	for _, r := range b.Roots {
		for _, c := range r.Certificates {
			names = append(names, fmt.Sprintf("%q", c.Subject.CommonName))
		}
	}
	return strings.Join(names, ", ")
}

// vaultRole looks whether a role signs the leaf of a service.
func (p *patient) vaultRole(i int, s vault.PKISurvey) Finding {
	const check = "role in Vault"
	name := p.Config.Services[i].Name
	path := strings.Trim(s.PKI.Mount, "/") + "/sign/" + s.PKI.Role
	switch {
	case p.vault.Token == nil:
		return Finding{check, Skipped, fmt.Sprintf("whether the agent may use %s for service %s is not known without its token; the running agent says whether its last leaf was signed", path, name), ""}
	case errors.Is(s.RoleErr, context.DeadlineExceeded):
		return Finding{check, Skipped, fmt.Sprintf("Vault did not tell all within %s: %v", eachWithin, s.RoleErr), ""}
	case s.RoleErr != nil:
		return Finding{check, Fail, s.RoleErr.Error(), "create the role, or correct vault.pki"}
	case s.MaySignErr != nil:
		return Finding{check, Skipped, s.MaySignErr.Error(), ""}
	case !s.MaySign:
		return Finding{check, Fail, fmt.Sprintf("the token may not use %s for service %s", path, name), fmt.Sprintf("give its policy: path %q { capabilities = [\"update\"] }", path)}
	case s.Role == nil:
		return Finding{check, OK, fmt.Sprintf("the token may use %s for service %s; what the role allows may not be read, as it should be", path, name), ""}
	}
	if s.Role.RequireCN {
		return Finding{check, Fail, "the role of " + path + " demands a common name, which leaves of the mesh have not", fmt.Sprintf("vault write %s require_cn=false …", strings.Replace(path, "/sign/", "/roles/", 1))}
	}
	if k := s.Role.KeyType; k != "ec" && k != "any" {
		return Finding{check, Fail, fmt.Sprintf("the role of %s demands keys of type %s, and those of leaves are ec", path, k), fmt.Sprintf("vault write %s key_type=ec key_bits=256 …", strings.Replace(path, "/sign/", "/roles/", 1))}
	}
	id, known := p.identity(name)
	if !known {
		return Finding{check, OK, fmt.Sprintf("the token may use %s for service %s", path, name), ""}
	}
	if !s.Role.Allows(id) {
		return Finding{check, Fail, fmt.Sprintf("the role of %s does not allow %s (allowed_uri_sans: %s)", path, id, strings.Join(s.Role.URIs, ", ")),
			fmt.Sprintf("vault write %s allowed_uri_sans=%q …", strings.Replace(path, "/sign/", "/roles/", 1), id)}
	}
	return Finding{check, OK, fmt.Sprintf("the token may use %s, which allows %s", path, id), ""}
}

// identity is the one a leaf of a service is for, as far as it is known without
// asking for one.
func (p *patient) identity(service string) (string, bool) {
	if p.agent != nil {
		for _, s := range p.agent.Sidecars {
			if s.Service == service && s.Leaf != nil && s.Leaf.Identity != "" {
				return s.Leaf.Identity, true
			}
		}
	}
	c := p.Config.Consul
	dc := c.Datacenter
	if dc == "" && p.consul != nil {
		dc = p.consul.Datacenter
	}
	if p.consul == nil || p.consul.Bundle == nil || dc == "" {
		return "", false
	}
	return connect.Identity{TrustDomain: p.consul.Bundle.TrustDomain, Partition: orDefault(c.Partition), Namespace: orDefault(c.Namespace), Datacenter: dc, Service: service}.String(), true
}

func orDefault(name string) string {
	if name == "" {
		return connect.DefaultName
	}
	return name
}
