// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"strings"
	"time"
)

// A Config is the whole configuration of an agent: decoded, defaults filled in,
// validated. It is plain data and belongs to the caller of [Load]; treat it as
// immutable once it is shared.
type Config struct {
	Log       Log
	Consul    Consul
	Vault     *Vault // nil: the leaf comes from Consul's CA
	Admin     Admin
	Telemetry *Telemetry // nil when absent
	AccessLog AccessLog  `json:",omitzero"`
	Drain     Drain
	Limits    Limits    `json:",omitzero"`
	Services  []Service // in the order of the files

	// Warnings are the diagnostics that did not prevent the load; nil when
	// there are none.
	Warnings *Error `json:"-"`
}

// A Secret is a value that must not be printed. Every way of formatting it, JSON
// included, shows "(hidden)" or, when it is empty, nothing; convert it to a
// string where it is handed over.
type Secret string

// hidden stands for a secret in everything that is shown.
const hidden = "(hidden)"

// String implements fmt.Stringer without the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString implements fmt.GoStringer without the secret.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// MarshalText implements encoding.TextMarshaler without the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Log says how the agent logs.
type Log struct {
	Level  string // trace, debug, info, warn, error
	Format string // text, json
}

// Consul says how the local Consul agent is reached.
type Consul struct {
	// Address is host:port, http://…, https://… or unix://…; host:port means
	// https when TLS is set, else http.
	Address    string
	Token      Secret // "" with TokenFile "" means anonymous
	TokenFile  string // read by the agent, again on each reload
	Datacenter string // "" means the one of the Consul agent
	Namespace  string // Consul Enterprise; "" means default
	Partition  string // Consul Enterprise; "" means default
	TLS        *TLS   // nil: system roots, no client certificate
	Login      *Login // nil: Token or TokenFile

	// DefaultIntentionPolicy is what happens to a connection that no intention
	// covers: allow, deny, or "" to ask Consul and to deny when it cannot tell.
	DefaultIntentionPolicy string
}

// A Login gets the ACL token from an auth method of Consul, for a JWT.
type Login struct {
	AuthMethod string
	TokenFile  string // holds the JWT, read at each login
}

// TLS says which certificates are used towards a server. Verification cannot be
// turned off.
type TLS struct {
	CAFile     string // PEM; "" with CAPath "" means the system roots
	CAPath     string // directory of PEM files
	CertFile   string // PEM; set together with KeyFile
	KeyFile    string // PEM
	ServerName string // "" means the host of the address
}

// Vault says where leaves are signed when Consul's own CA is not asked.
type Vault struct {
	Address   string // http://… or https://…
	Namespace string // Vault Enterprise or HCP; "" means root
	TLS       *TLS   // nil: system roots, no client certificate
	Auth      Auth
	PKI       PKI
}

// Auth says how the agent logs in to Vault. Fields that do not belong to Method
// are empty.
type Auth struct {
	Method string // token, approle, jwt, cert, aws, gcp, azure
	Mount  string // path of the auth method, without "auth/"; unused by token

	Token     Secret // token: this or TokenFile
	TokenFile string

	RoleID       string // approle: this or RoleIDFile
	RoleIDFile   string
	SecretID     Secret // approle: this or SecretIDFile
	SecretIDFile string

	// Role is the role to log in with: of jwt, aws, gcp and azure. For cert it is
	// the name of the certificate role, and "" lets Vault find it.
	Role    string
	JWTFile string // jwt: file with the JWT, read at each login; token_file in HCL

	CertFile string // cert: PEM, with KeyFile; "" means that of TLS
	KeyFile  string

	Region         string // aws: of the STS that Vault asks; "" means the global one
	HeaderValue    string // aws: Vault's iam_server_id_header_value; "" sends none
	ServiceAccount string // gcp: "" means the default one of the machine
	Resource       string // azure: what the token is for
}

// servicePlaceholder is what ${service} becomes in a PKI role or mount.
const servicePlaceholder = "${service}"

// PKI says which role of which Vault PKI mount signs the leaves. Mount and Role
// are templates: they may hold the literal text ${service}.
type PKI struct {
	Mount string
	Role  string
	TTL   time.Duration // requested lifetime of a leaf; more than zero
}

// RoleFor returns the role that signs the leaf of a service, by its name.
func (p PKI) RoleFor(service string) string {
	return strings.ReplaceAll(p.Role, servicePlaceholder, service)
}

// MountFor returns the mount that signs the leaf of a service, by its name.
func (p PKI) MountFor(service string) string {
	return strings.ReplaceAll(p.Mount, servicePlaceholder, service)
}

// Admin says where the agent answers status, explain and the like.
type Admin struct {
	Address string // unix:///absolute/path, or host:port on the loopback
}

// Telemetry says where measurements go.
type Telemetry struct {
	PrometheusAddress string // host:port to listen on; "" for none
	// OTLPEndpoint is the http(s) URL of the collector that traces go to; "" leaves
	// it to the environment variables of OpenTelemetry.
	OTLPEndpoint    string
	OTLPProtocol    string // http/protobuf or grpc
	OTLPHeadersFile string // lines "Name: value" for the collector; "" for none
	OTLPCAFile      string // who signs the collector's certificate; "" is the system's roots
	// SampleRatio is the part of the requests that are traced, from 0 to 1, of those
	// on which no caller has decided; nil leaves it to the environment.
	SampleRatio *float64
}

// Drain says how long an ending agent waits.
type Drain struct {
	Propagation time.Duration // between failing health and no longer accepting
	Timeout     time.Duration // for open connections to end by themselves
}
