// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"slices"
	"strings"
)

func (v *validator) vault(vault *Vault) {
	const remedy = `Write the URL of the server: address = "https://vault.service.consul:8200".`
	v.tls("vault.tls", vault.TLS)
	if !v.broken("vault.address") {
		v.url("vault.address", vault.Address, vault.TLS, "Vault", remedy)
	}
	v.auth(vault)
	if vault.PKI.Role == "" && !v.broken("vault.pki.role") {
		v.err("vault.pki.role", "No PKI role", `Name the role that signs the leaves: pki { role = "mesh-${service}" }. ${service} stands for the name of each service.`)
	}
	for path, value := range map[string]string{"vault.pki.role": vault.PKI.Role, "vault.pki.mount": vault.PKI.Mount} {
		if strings.Contains(value, "..") || strings.ContainsAny(value, "?#%\\ ") || strings.HasSuffix(path, "role") && strings.Contains(value, "/") {
			v.err(path, "Not a path in Vault", "Write the name as Vault shows it, without .., spaces or URL characters.")
		}
	}
	if vault.PKI.TTL <= 0 && !v.broken("vault.pki.ttl") {
		v.err("vault.pki.ttl", "The leaf has no lifetime", `Write a duration above zero: ttl = "24h".`)
	}
}

func (v *validator) auth(vault *Vault) {
	auth := vault.Auth
	switch {
	case v.broken("vault.auth"):
	case !v.given("vault.auth"):
		v.err("vault", "No login to Vault", `Add a block with the method as its label: auth "approle" { … }. The methods are `+methodList()+".")
	case auth.Method == "token":
		v.exactlyOne("vault.auth", "token", "token_file")
		v.inline("vault.auth.token", auth.Token, `Put it into a file of its own, and name that: token_file = "…".`)
	case auth.Method == "approle":
		v.exactlyOne("vault.auth", "role_id", "role_id_file")
		v.exactlyOne("vault.auth", "secret_id", "secret_id_file")
		v.inline("vault.auth.secret_id", auth.SecretID, `Put it into a file of its own, and name that: secret_id_file = "…".`)
	case auth.Method == "jwt":
		if auth.Role == "" && !v.broken("vault.auth.role") {
			v.err("vault.auth.role", "No role to log in with", `Name the role of the JWT auth method: role = "…".`)
		}
		if auth.JWTFile == "" && !v.broken("vault.auth.token_file") {
			v.err("vault.auth.token_file", "No JWT to log in with", `Name the file that holds it: token_file = "…". A Nomad task finds its own below secrets/.`)
		}
	case knownMethod(auth.Method):
		v.byMachine(vault)
	case slices.Contains([]string{"kubernetes", "ldap", "userpass", "github", "oci", "alicloud"}, auth.Method):
		v.err("vault.auth.method", fmt.Sprintf("Login %q is not supported", auth.Method), "The methods are "+methodList()+".")
	default:
		detail := "The methods are " + methodList() + "."
		if near := suggest(auth.Method, methods()); near != "" {
			detail = fmt.Sprintf("Did you mean %q? %s", near, detail)
		}
		v.err("vault.auth.method", fmt.Sprintf("Unknown login %q", auth.Method), detail)
	}
}

// byMachine checks the logins in which the machine itself is the credential.
func (v *validator) byMachine(vault *Vault) {
	const path = "vault.auth"
	auth := vault.Auth
	if auth.Method == "cert" {
		v.certLogin(vault)
		return
	}
	if auth.Role == "" && !v.broken(path+".role") {
		v.err(path+".role", "No role to log in with", fmt.Sprintf(`Name the role of the %s auth method: role = "…".`, auth.Method))
	}
	v.characters(path+".region", auth.Region, "-", "eu-central-1")
	v.characters(path+".service_account", auth.ServiceAccount, "-._@", "default, or an address such as mesh@project.iam.gserviceaccount.com")
	for name, text := range map[string]string{"header_value": auth.HeaderValue, "resource": auth.Resource, "role": auth.Role} {
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f }) || strings.TrimSpace(text) != text {
			v.err(path+"."+name, fmt.Sprintf("Wrong value of %q", name), "It becomes part of a request. Write printable ASCII characters, without spaces at the ends.")
		}
	}
}

// certLogin checks that there is one certificate to show, and to whom.
func (v *validator) certLogin(vault *Vault) {
	const path = "vault.auth"
	auth := vault.Auth
	v.pair(path, auth.CertFile, auth.KeyFile)
	own, shared := v.given(path+".cert_file"), vault.TLS != nil && vault.TLS.CertFile != ""
	switch {
	case own && shared:
		v.err(path+".cert_file", "Two client certificates", fmt.Sprintf("cert_file stands at %s too, and a connection shows one. Keep one of the two.", v.where("vault.tls.cert_file")))
	case !own && !shared && !v.given(path+".key_file"):
		v.err(path, "No certificate to log in with", `Name it and its key: cert_file = "…" and key_file = "…".`)
	}
	if strings.HasPrefix(vault.Address, "http://") {
		v.err("vault.address", "Login by certificate without TLS", "Write https://: the certificate is shown when TLS begins.")
	}
}

// characters checks that a text has letters, digits and the given characters
// only; "" passes.
func (v *validator) characters(path, text, others, example string) {
	bad := func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune(others, r)
	}
	if strings.ContainsFunc(text, bad) {
		v.err(path, fmt.Sprintf("Wrong value of %q", path[strings.LastIndex(path, ".")+1:]), "It becomes part of a request. Write something like "+example+".")
	}
}
