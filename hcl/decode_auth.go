// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// methods are the logins to Vault.
func methods() []string {
	return []string{"token", "approle", "jwt", "cert", "aws", "gcp", "azure"}
}

// methodList is methods in words.
func methodList() string {
	all := methods()
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}

// knownMethod reports whether a login method is supported.
func knownMethod(method string) bool { return slices.Contains(methods(), method) }

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
				`Write the method as the one label of the block: auth "approle" { … }. The methods are `+methodList()+".")
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
	default:
		s.byMachine(auth)
	}
	s.end()
}

// byMachine decodes the logins in which the machine itself is the credential: a
// certificate that it has, or what its cloud says of it.
func (s *scope) byMachine(auth *Auth) {
	const keys = "The machine proves itself by the role that the cloud gave it, so no key is written down. Remove the line."
	switch auth.Method {
	case "cert":
		s.str("name", &auth.Role)
		s.str("cert_file", &auth.CertFile)
		s.str("key_file", &auth.KeyFile)
		s.refuse("%q is not accepted here", []refusal{{"role", `Vault calls the role of a certificate its name: name = "…".`}})
	case "aws":
		s.str("role", &auth.Role)
		s.str("region", &auth.Region)
		s.str("header_value", &auth.HeaderValue)
		const iam = `The login is of type iam, by the role of the machine's instance profile. Remove the line, and make the role in Vault with auth_type=iam.`
		s.refuse("%q is not accepted here", []refusal{
			{"access_key", keys}, {"secret_key", keys}, {"session_token", keys}, {"type", iam}, {"nonce", iam},
		})
	case "gcp":
		s.str("role", &auth.Role)
		s.str("service_account", &auth.ServiceAccount)
		const gce = `The login is of type gce, by the metadata of the machine. Remove the line, and make the role in Vault with type=gce.`
		s.refuse("%q is not accepted here", []refusal{{"credentials", keys}, {"type", gce}, {"jwt_exp", gce}})
	case "azure":
		s.str("role", &auth.Role)
		s.str("resource", &auth.Resource)
		s.refuse("%q is not accepted here", []refusal{{"client_secret", keys}})
	}
}
