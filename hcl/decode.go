// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// config decodes everything. Absent blocks are decoded too, as empty ones, so
// that their defaults come from the same table.
func (d *decoder) config() *Config {
	cfg := &Config{}
	s := d.scope(&object{fields: d.fields})
	log, _ := s.block("log")
	d.log(log, &cfg.Log)
	consul, _ := s.block("consul")
	d.consul(consul, &cfg.Consul)
	if o, given := s.block("vault"); given {
		cfg.Vault = &Vault{}
		d.vault(o, cfg.Vault)
	}
	admin, _ := s.block("admin")
	d.admin(admin, &cfg.Admin)
	if o, given := s.block("telemetry"); given {
		cfg.Telemetry = &Telemetry{}
		d.telemetry(o, cfg.Telemetry)
	}
	drain, _ := s.block("drain")
	d.drain(drain, &cfg.Drain)
	for _, o := range s.blocks("service") {
		cfg.Services = append(cfg.Services, d.service(o))
	}
	s.refuse("%q is not accepted here", []refusal{
		{"services", `Write one block for each: service { … }, and repeat it as often as needed.`},
	})
	s.end()
	return cfg
}

func (d *decoder) log(o *object, log *Log) {
	s := d.scope(o)
	s.str("level", &log.Level)
	s.str("format", &log.Format)
	s.end()
}

func (d *decoder) consul(o *object, consul *Consul) {
	s := d.scope(o)
	s.str("address", &consul.Address)
	s.secret("token", &consul.Token)
	s.str("token_file", &consul.TokenFile)
	s.str("datacenter", &consul.Datacenter)
	s.str("namespace", &consul.Namespace)
	s.str("partition", &consul.Partition)
	s.str("default_intention_policy", &consul.DefaultIntentionPolicy)
	consul.TLS = d.tls(s)
	consul.Login = d.consulLogin(s)
	s.end()
}

// consulLogin decodes the login block of consul; nil when it is absent.
func (d *decoder) consulLogin(outer *scope) *Login {
	o, given := outer.block("login")
	if !given {
		return nil
	}
	login := &Login{}
	s := d.scope(o)
	s.str("auth_method", &login.AuthMethod)
	s.str("token_file", &login.TokenFile)
	const inline = `A JWT expires, so it is read from its file at each login: token_file = "…".`
	const rules = "Consul decides by the binding rules of the auth method what the token may do. Remove the line."
	s.refuse("%q is not accepted here", []refusal{
		{"token", inline}, {"jwt", inline}, {"bearer_token", inline}, {"bearer", inline},
		{"bearer_token_file", `Write token_file = "…".`},
		{"method", `Write auth_method = "…".`},
		{"mount", `That is Vault's word. Consul's auth methods have a name: auth_method = "…".`},
		{"role", rules}, {"policy", rules}, {"policies", rules},
	})
	s.end()
	return login
}

// tls decodes the tls block of a scope; nil when it is absent.
func (d *decoder) tls(outer *scope) *TLS {
	o, given := outer.block("tls")
	if !given {
		return nil
	}
	tls := &TLS{}
	s := d.scope(o)
	s.str("ca_file", &tls.CAFile)
	s.str("ca_path", &tls.CAPath)
	s.str("cert_file", &tls.CertFile)
	s.str("key_file", &tls.KeyFile)
	s.str("server_name", &tls.ServerName)
	const why = "The certificate of a server is always verified. Name its CA with ca_file, and its host name with server_name where that differs from the address."
	s.refuse("%q is not supported", []refusal{
		{"tls_skip_verify", why}, {"skip_verify", why}, {"insecure", why}, {"insecure_skip_verify", why}, {"verify", why},
	})
	s.end()
	return tls
}

func (d *decoder) vault(o *object, vault *Vault) {
	s := d.scope(o)
	s.str("address", &vault.Address)
	s.str("namespace", &vault.Namespace)
	vault.TLS = d.tls(s)
	d.auth(s, &vault.Auth)
	pki, _ := s.block("pki")
	p := d.scope(pki)
	p.template("mount", &vault.PKI.Mount)
	p.template("role", &vault.PKI.Role)
	p.duration("ttl", &vault.PKI.TTL)
	p.end()
	const why = `A login is written as a block: auth "token" { token_file = "…" }.`
	s.refuse("%q is not accepted here", []refusal{{"token", why}, {"token_file", why}})
	s.end()
}

// auth decodes the login: a block with the method as its label, or an object
// with the method as its only name.
func (d *decoder) auth(outer *scope, auth *Auth) {
	fields := outer.take("auth")
	path := outer.path("auth")
	var first *hcl.Range
	for _, f := range fields {
		head := f.value()
		if first != nil {
			d.err(head, "Second login to Vault", fmt.Sprintf("The first one is at %s. Keep one of the two.", where(*first)))
			continue
		}
		first = &head
		d.pos[path] = place{at: head}
		if f.block == nil || len(f.block.Labels) != 1 {
			d.bad(path, head, "The login needs its method",
				`Write the method as the one label of the block: auth "approle" { … }, auth "jwt" { … } or auth "token" { … }.`)
			continue
		}
		auth.Method = f.block.Labels[0]
		d.pos[path+".method"] = place{at: f.block.LabelRanges[0]}
		d.login(&object{path: path, def: head, fields: bodyFields(f.block.Body)}, auth)
	}
}

func (d *decoder) login(o *object, auth *Auth) {
	s := d.scope(o)
	if !knownMethod(auth.Method) {
		return // its names are not ours to judge; validation reports the method
	}
	s.str("mount", &auth.Mount)
	if auth.Mount == "" && auth.Method != "token" {
		auth.Mount = auth.Method
	}
	auth.Mount = strings.Trim(strings.TrimPrefix(auth.Mount, "auth/"), "/")
	switch auth.Method {
	case "token":
		s.secret("token", &auth.Token)
		s.str("token_file", &auth.TokenFile)
	case "approle":
		s.str("role_id", &auth.RoleID)
		s.str("role_id_file", &auth.RoleIDFile)
		s.secret("secret_id", &auth.SecretID)
		s.str("secret_id_file", &auth.SecretIDFile)
	case "jwt":
		s.str("role", &auth.Role)
		s.str("token_file", &auth.JWTFile)
		const why = `A JWT expires, so it is read from its file at each login: token_file = "…".`
		s.refuse("%q is not accepted here", []refusal{{"token", why}, {"jwt", why}})
	}
	s.end()
}

// knownMethod reports whether a login method is supported.
func knownMethod(method string) bool {
	return method == "token" || method == "approle" || method == "jwt"
}

func (d *decoder) admin(o *object, admin *Admin) {
	s := d.scope(o)
	s.str("address", &admin.Address)
	s.end()
}

func (d *decoder) telemetry(o *object, telemetry *Telemetry) {
	s := d.scope(o)
	s.str("prometheus_address", &telemetry.PrometheusAddress)
	s.str("otlp_endpoint", &telemetry.OTLPEndpoint)
	s.end()
}

func (d *decoder) drain(o *object, drain *Drain) {
	s := d.scope(o)
	s.duration("propagation", &drain.Propagation)
	s.duration("timeout", &drain.Timeout)
	s.end()
}
