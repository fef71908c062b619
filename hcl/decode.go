// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

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
	accessLog, _ := s.block("access_log")
	d.accessLog(accessLog, &cfg.AccessLog)
	drain, _ := s.block("drain")
	d.drain(drain, &cfg.Drain)
	limits, _ := s.block("limits")
	d.limits(limits, &cfg.Limits)
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
	s.address("address", &consul.Address)
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

func (d *decoder) admin(o *object, admin *Admin) {
	s := d.scope(o)
	s.str("address", &admin.Address)
	s.end()
}

func (d *decoder) telemetry(o *object, telemetry *Telemetry) {
	s := d.scope(o)
	s.address("prometheus_address", &telemetry.PrometheusAddress)
	s.str("otlp_endpoint", &telemetry.OTLPEndpoint)
	s.str("otlp_protocol", &telemetry.OTLPProtocol)
	s.str("otlp_headers_file", &telemetry.OTLPHeadersFile)
	s.str("otlp_ca_file", &telemetry.OTLPCAFile)
	s.fraction("sample_ratio", &telemetry.SampleRatio)
	s.refuse("%q is not accepted here", []refusal{
		{"otlp_headers", `Headers are secrets as a rule. Write them to a file, one "Name: value" a line: otlp_headers_file = "…".`},
		{"otlp_insecure", `The scheme says it: http:// is without TLS, https:// with it.`},
	})
	s.end()
}

func (d *decoder) drain(o *object, drain *Drain) {
	s := d.scope(o)
	s.duration("propagation", &drain.Propagation)
	s.duration("timeout", &drain.Timeout)
	s.end()
}
