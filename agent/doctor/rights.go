// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/consul"
)

const (
	// expiresSoon is when a token that nobody renews is worth a word.
	expiresSoon = 24 * time.Hour
	// rotateSoon is when a CA should have been replaced: leaves cannot outlive it,
	// and everybody has to learn of the next one.
	rotateSoon = 14 * 24 * time.Hour
)

// tokenRights are what one token has to give for the services of this host.
type tokenRights struct {
	whose   string // "" for the token of the configuration
	wants   []consul.Right
	allowed []bool
	err     error
}

// askRights asks for each token of the configuration once.
func (p *patient) askRights(ctx context.Context) {
	client, err := p.Consul("")
	if err != nil {
		return // the survey has told
	}
	own := tokenRights{}
	for _, s := range p.Config.Services {
		wants := []consul.Right{{Resource: "service", Access: "write", Name: s.Name}}
		if side := s.Connect.SidecarService; side != nil {
			wants = append(wants, consul.Right{Resource: "service", Access: "write", Name: cmp.Or(side.Name, s.Name+"-sidecar-proxy")})
		}
		if s.Token != "" {
			one := tokenRights{whose: s.Name, wants: wants}
			one.allowed, one.err = client.Rights(ctx, string(s.Token), wants)
			p.rights = append(p.rights, one)
			wants = nil
		}
		own.wants = append(own.wants, wants...)
		own.wants = append(own.wants, consul.Right{Resource: "intention", Access: "read", Name: s.Name})
		if side := s.Connect.SidecarService; side != nil {
			for _, u := range side.Proxy.Upstreams {
				if u.DestinationType == "" || u.DestinationType == "service" {
					own.wants = append(own.wants, consul.Right{Resource: "service", Access: "read", Name: u.DestinationName})
				}
			}
		}
	}
	if len(own.wants) > 0 {
		// Endpoints are on any node.
		own.wants = append(own.wants, consul.Right{Resource: "node", Access: "read", Name: "any-node"})
		own.wants = distinct(own.wants)
		own.allowed, own.err = client.Rights(ctx, "", own.wants)
		p.rights = append(p.rights, own)
	}
}

func distinct(all []consul.Right) (out []consul.Right) {
	for _, r := range all {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// consulRights says what a token lacks for this configuration.
func (p *patient) consulRights() []Finding {
	const check = "rights of the Consul token"
	var out []Finding
	for _, r := range p.rights {
		whose := "the token"
		if r.whose != "" {
			whose = "the token of service " + r.whose
		}
		if r.err != nil {
			out = append(out, Finding{check, Skipped, r.err.Error(), ""})
			continue
		}
		var missing, rules []string
		for i, ok := range r.allowed {
			if w := r.wants[i]; !ok {
				missing = append(missing, fmt.Sprintf("%s:%s on %s", w.Resource, w.Access, w.Name))
				rules = append(rules, rule(w))
			}
		}
		if len(missing) == 0 {
			out = append(out, Finding{check, OK, fmt.Sprintf("%s has all %d that this configuration needs", whose, len(r.allowed)), ""})
			continue
		}
		slices.Sort(rules)
		out = append(out, Finding{check, Fail, whose + " lacks " + strings.Join(missing, ", "),
			"give it a service identity of each service (consul acl token create -service-identity=NAME), or a policy with " + strings.Join(slices.Compact(rules), " ")})
	}
	if len(out) == 0 && p.consul != nil && p.consul.Token != nil && !p.consul.Token.Disabled {
		out = append(out, Finding{check, Skipped, "no service is configured, so none is needed", ""})
	}
	return out
}

// rule is the policy that gives a right, in Consul's language.
func rule(r consul.Right) string {
	switch r.Resource {
	case "node":
		return `node_prefix "" { policy = "read" }`
	case "intention":
		return fmt.Sprintf(`service %q { intentions = "read" }`, r.Name)
	}
	return fmt.Sprintf(`%s %q { policy = %q }`, r.Resource, r.Name, r.Access)
}

// roots looks at the certificates of the mesh's CA.
func (p *patient) roots() []Finding {
	const check = "CA of the mesh"
	if p.consul == nil || p.consul.Bundle == nil {
		return nil // the check of the service mesh has told
	}
	var out []Finding
	for _, root := range p.consul.Bundle.Roots {
		name := fmt.Sprintf("root %q", cmp.Or(root.Name, root.ID))
		for n, cert := range slices.Concat(root.Certificates, root.Intermediates) {
			if n >= len(root.Certificates) {
				name = fmt.Sprintf("intermediate %q", cert.Subject.CommonName)
			}
			// An old root is trusted on while leaves under it live, and may end.
			if f := p.expiry(check, name, cert); f.State != OK && root.Active {
				out = append(out, f)
			}
		}
	}
	active := p.consul.Bundle.Active()
	if active == nil {
		return append(out, Finding{check, Warn, fmt.Sprintf("none of %d roots is active", len(p.consul.Bundle.Roots)), "see the log of the Consul servers for the CA"})
	}
	if len(out) == 0 {
		out = append(out, Finding{check, OK, fmt.Sprintf("trust domain %s, root %q is active and good until %s", p.consul.Bundle.TrustDomain, cmp.Or(active.Name, active.ID), day(active.Certificates)), ""})
	}
	return out
}

// expiry judges the validity of one CA certificate.
func (p *patient) expiry(check, name string, cert *x509.Certificate) Finding {
	const remedy = "rotate the CA: consul connect ca set-config, or the issuer of the PKI mount in Vault"
	now := p.Now()
	switch {
	case now.After(cert.NotAfter):
		return Finding{check, Fail, fmt.Sprintf("%s expired at %s: no leaf under it is valid", name, cert.NotAfter.UTC().Format(time.RFC3339)), remedy}
	case now.Before(cert.NotBefore):
		return Finding{check, Fail, fmt.Sprintf("%s is valid from %s on, which is in the future here", name, cert.NotBefore.UTC().Format(time.RFC3339)), "compare the clock of this host with that of the CA"}
	case cert.NotAfter.Sub(now) < rotateSoon:
		return Finding{check, Warn, fmt.Sprintf("%s expires at %s", name, cert.NotAfter.UTC().Format(time.RFC3339)), remedy}
	}
	return Finding{check, OK, fmt.Sprintf("%s is good until %s", name, cert.NotAfter.UTC().Format(time.DateOnly)), ""}
}

func day(certs []*x509.Certificate) string {
	if len(certs) == 0 {
		return "an unknown day"
	}
	return certs[0].NotAfter.UTC().Format(time.DateOnly)
}
