// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// A validator checks a decoded configuration: each rule once, each violation a
// diagnostic with its place and its remedy.
type validator struct {
	cfg     *Config
	pos     positions
	literal map[string]bool
	diags   hcl.Diagnostics
}

func (v *validator) all() {
	v.oneOf("log.level", v.cfg.Log.Level, "trace", "debug", "info", "warn", "error")
	v.oneOf("log.format", v.cfg.Log.Format, "text", "json")
	v.consul()
	if v.cfg.Vault != nil {
		v.vault(v.cfg.Vault)
	}
	v.admin()
	if v.cfg.Telemetry != nil {
		v.telemetry(v.cfg.Telemetry)
	}
	v.accessLog(v.cfg.AccessLog)
	v.limits()
	v.services()
	v.listeners()
}

// err adds an error about the value at a path.
func (v *validator) err(path, summary, detail string) {
	v.add(hcl.DiagError, path, summary, detail)
}

// warn adds a warning about the value at a path; "" is the whole configuration.
func (v *validator) warn(path, summary, detail string) {
	v.add(hcl.DiagWarning, path, summary, detail)
}

func (v *validator) add(severity hcl.DiagnosticSeverity, path, summary, detail string) {
	d := &hcl.Diagnostic{Severity: severity, Summary: summary, Detail: detail}
	if at := v.pos.near(path); at.Filename != "" {
		d.Subject = &at
	}
	v.diags = append(v.diags, d)
}

// given reports whether a path was written, whatever its value.
func (v *validator) given(path string) bool {
	_, ok := v.pos[path]
	return ok
}

// broken reports whether the value at a path failed to decode: its zero value
// says nothing then.
func (v *validator) broken(path string) bool { return v.pos[path].bad }

// where names the place of a path in words.
func (v *validator) where(path string) string { return where(v.pos.near(path)) }

// oneOf checks a value against a closed set; an empty one passes when the set
// holds "".
func (v *validator) oneOf(path, value string, set ...string) {
	if slices.Contains(set, value) || v.broken(path) {
		return
	}
	words := slices.DeleteFunc(slices.Clone(set), func(s string) bool { return s == "" })
	detail := "Write one of " + strings.Join(words, ", ") + "."
	if near := suggest(value, words); near != "" && value != "" {
		detail = fmt.Sprintf("Did you mean %q? The values are %s.", near, strings.Join(words, ", "))
	}
	v.err(path, fmt.Sprintf("Unknown %s %q", path[strings.LastIndex(path, ".")+1:], value), detail)
}

// exactlyOne checks that one of two names is given.
func (v *validator) exactlyOne(path, first, second string) {
	one, two := v.given(path+"."+first), v.given(path+"."+second)
	switch {
	case one && two:
		v.err(path+"."+second, fmt.Sprintf("Both %q and %q", first, second),
			fmt.Sprintf("%s stands at %s. Keep one of the two.", first, v.where(path+"."+first)))
	case !one && !two:
		v.err(path, fmt.Sprintf("Neither %q nor %q", first, second), fmt.Sprintf("Write one of the two, best %s = \"…\".", second))
	}
}

// inline warns about a secret that stands in the configuration itself.
func (v *validator) inline(path string, value Secret, remedy string) {
	if value != "" && v.literal[path] {
		v.warn(path, "Secret in the configuration", "Everyone who can read this file can use it. "+remedy)
	}
}

func (v *validator) consul() {
	c := v.cfg.Consul
	if v.given("consul.token") && v.given("consul.token_file") {
		v.exactlyOne("consul", "token", "token_file")
	}
	if c.Login != nil {
		v.login(*c.Login)
	}
	v.inline("consul.token", c.Token, `Put it into a file of its own, and name that: token_file = "…".`)
	v.oneOf("consul.default_intention_policy", c.DefaultIntentionPolicy, "", "allow", "deny")
	v.tls("consul.tls", c.TLS)
	if v.broken("consul.address") {
		return
	}
	const remedy = "Write host:port, http://host:port, https://host:port or unix:///path."
	scheme, rest, found := strings.Cut(c.Address, "://")
	switch {
	case !found:
		v.hostPort("consul.address", c.Address, remedy)
		if c.TLS == nil {
			v.clearText("consul.address", c.Address, "Consul")
		}
	case scheme == "unix":
		if !filepath.IsAbs(rest) {
			v.err("consul.address", "Socket path is not absolute", "Write unix:// and the path from the root: unix:///run/consul/http.sock.")
		}
	default:
		v.url("consul.address", c.Address, c.TLS, "Consul", remedy)
	}
}

// login checks the login block of consul, and that it is the only source of the
// token.
func (v *validator) login(login Login) {
	const path = "consul.login"
	for _, other := range []string{"token", "token_file"} {
		if v.given("consul." + other) {
			v.err("consul."+other, fmt.Sprintf("Both %q and a login", other), fmt.Sprintf(
				"The login block at %s gets the ACL token. Keep one of the two; a file with a JWT belongs inside the block.", v.where(path)))
		}
	}
	if login.AuthMethod == "" && !v.broken(path+".auth_method") {
		v.err(path+".auth_method", "No auth method to log in with", `Name the auth method of Consul: auth_method = "…". "nomad-workloads" is the one that "nomad setup consul" makes.`)
	}
	if login.TokenFile == "" && !v.broken(path+".token_file") {
		v.err(path+".token_file", "No JWT to log in with", `Name the file that holds it: token_file = "…". A Nomad task finds that of an identity block with file = true below secrets/.`)
	}
}

// tls checks that a client certificate comes with its key.
func (v *validator) tls(path string, tls *TLS) {
	if tls != nil {
		v.pair(path, tls.CertFile, tls.KeyFile)
	}
}

// pair checks that a certificate comes with its key.
func (v *validator) pair(path, cert, key string) {
	if (cert == "") != (key == "") && !v.broken(path+".cert_file") && !v.broken(path+".key_file") {
		v.err(path, "Half a client certificate", "cert_file and key_file are used together. Write both or neither.")
	}
}

// url checks the http or https URL of a server.
func (v *validator) url(path, address string, tls *TLS, server, remedy string) {
	u, err := url.Parse(address)
	switch {
	case address == "":
		v.err(path, "No address of "+server, remedy)
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		v.err(path, "Not an address of "+server, remedy)
	case u.User != nil:
		v.err(path, "Address with a user name", "Remove the part before the @, and use a token.")
	case u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		v.err(path, "Address with a path", "Remove what follows the port.")
	case u.Port() != "" && !validPort(u.Port()):
		v.err(path, "Port out of range", "A port is a number from 1 to 65535.")
	case u.Scheme == "http" && tls != nil:
		v.err(path, "TLS settings for an address without TLS", fmt.Sprintf("Write https:// or remove the tls block at %s.", v.where(strings.TrimSuffix(path, "address")+"tls")))
	case u.Scheme == "http":
		v.clearText(path, u.Host, server)
	}
}

// clearText warns when tokens would cross a network unencrypted.
func (v *validator) clearText(path, host, server string) {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if !loopback(host) {
		v.warn(path, "Unencrypted connection to "+server, "Tokens cross the network in clear text. Write https://, or use an agent on this host.")
	}
}

// hostPort checks an address of the form host:port.
func (v *validator) hostPort(path, address, remedy string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || strings.ContainsAny(host, "/@ ") {
		v.err(path, "Not an address", remedy)
		return false
	}
	if !validPort(port) {
		v.err(path, "Port out of range", "A port is a number from 1 to 65535.")
		return false
	}
	return true
}

func validPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return err == nil && port > 0
}

// loopback reports whether a host name or address stays on this host.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

func (v *validator) admin() {
	const path, remedy = "admin.address", "Write unix:// and an absolute path, or an address of this host: 127.0.0.1:19100."
	address := v.cfg.Admin.Address
	if v.broken(path) {
		return
	}
	if socket, ok := strings.CutPrefix(address, "unix://"); ok {
		if !filepath.IsAbs(socket) {
			v.err(path, "Socket path is not absolute", remedy)
		}
		return
	}
	if !v.hostPort(path, address, remedy) {
		return
	}
	if host, _, _ := net.SplitHostPort(address); !loopback(host) {
		v.err(path, "Admin address open to the network", "Whoever reaches it sees and steers this agent. "+remedy)
	}
}
