// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package vault gets the leaf of each local service from the PKI engine of
// Vault and keeps one Vault token alive for all of them. It is the only
// importer of Vault's API packages; it never writes a key or a token to disk,
// to a log or to an error, and never decides what a leaf is used for.
package vault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"
)

// The auth methods.
const (
	TokenMethod   = "token"
	AppRoleMethod = "approle"
	JWTMethod     = "jwt"
	CertMethod    = "cert"
	AWSMethod     = "aws"
	GCPMethod     = "gcp"
	AzureMethod   = "azure"
)

// A Config says where Vault is and how to log in. It is a plain value: the
// caller keeps it, nothing here writes to it.
type Config struct {
	// Address is an http, https or unix URL. It carries no user name, password
	// or query.
	Address string
	// Namespace of Vault Enterprise or HCP Vault; "" sends none.
	Namespace string
	TLS       TLS
	Auth      Auth
	// Machine proves what this machine is; nil where aws, gcp and azure are not
	// used.
	Machine Machine
	// Dial makes the connections to Vault's address; nil means from where the
	// process is.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// TLS is how Vault's own certificate is checked, and the client certificate
// that is shown to it. Zero means the system's CA certificates and no client
// certificate. There is no way to switch the check off.
type TLS struct {
	CAFile     string // PEM; wins over CAPath
	CAPath     string // directory of PEM files
	CertFile   string // together with KeyFile
	KeyFile    string
	ServerName string // expected name; "" means the host of the address
}

// Auth is one auth method of Vault. Of each pair of value and file exactly one
// is set; files are read again when their content changes.
type Auth struct {
	Method string // token, approle, jwt, cert, aws, gcp or azure
	Mount  string // without "auth/"; "" means the name of the method

	Token, TokenFile string // token

	RoleID, RoleIDFile     string // approle
	SecretID, SecretIDFile string

	// Role is that of jwt, aws, gcp and azure; for cert it is the name of the
	// certificate role, and "" lets Vault try all.
	Role    string
	JWTFile string // jwt

	CertFile, KeyFile string // cert; "" means those of TLS

	Region      string // aws: whose STS Vault asks; "" means the global endpoint
	HeaderValue string // aws: iam_server_id_header_value of the mount; "" sends none

	ServiceAccount string // gcp: "" means the default one of the machine

	Resource string // azure: what the token is for; "" means https://management.azure.com/
}

// PKI is where the leaf of one service is signed.
type PKI struct {
	Mount string // of the PKI engine, such as "connect-intermediate"
	Role  string // one path segment, such as "mesh-web"
	// TTL is asked for; the role may cut it. 0 leaves it to the role.
	TTL time.Duration
}

// ConfigFromEnv reads the variables that Vault's own command line reads (Vault
// documentation, environment variables): VAULT_ADDR, VAULT_TOKEN,
// VAULT_NAMESPACE, VAULT_CACERT, VAULT_CAPATH, VAULT_CLIENT_CERT,
// VAULT_CLIENT_KEY and VAULT_TLS_SERVER_NAME. VAULT_SKIP_VERIFY is not read: a
// token is sent to nobody unknown. The result is false when VAULT_ADDR is unset.
func ConfigFromEnv() (Config, bool) {
	address := os.Getenv("VAULT_ADDR")
	if address == "" {
		return Config{}, false
	}
	return Config{
		Address:   address,
		Namespace: os.Getenv("VAULT_NAMESPACE"),
		TLS: TLS{
			CAFile:     os.Getenv("VAULT_CACERT"),
			CAPath:     os.Getenv("VAULT_CAPATH"),
			CertFile:   os.Getenv("VAULT_CLIENT_CERT"),
			KeyFile:    os.Getenv("VAULT_CLIENT_KEY"),
			ServerName: os.Getenv("VAULT_TLS_SERVER_NAME"),
		},
		Auth: Auth{Method: TokenMethod, Token: os.Getenv("VAULT_TOKEN")},
	}, true
}

func (c Config) check() error {
	u, err := url.Parse(c.Address)
	if err != nil {
		// The cause quotes the address, which may hold a password.
		return errors.New("vault address is not a URL: want something like https://vault.service.consul:8200")
	}
	switch {
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("vault address must carry no user name, password or query: credentials belong into the auth block")
	case u.Scheme == "unix" && u.Path != "":
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
	default:
		return fmt.Errorf("vault address %q: want http://host:port, https://host:port or unix:///path", u.Redacted())
	}
	if c.Auth.Method == CertMethod && u.Scheme != "https" {
		return fmt.Errorf("vault address %q: auth \"cert\" shows its certificate when TLS begins, so write https://", u.Redacted())
	}
	if c.Auth.ofCloud() && c.Machine == nil {
		return fmt.Errorf("vault auth %q: nothing here proves what this machine is", c.Auth.Method)
	}
	return c.Auth.check()
}

func (a Auth) check() error {
	if err := checkPath("mount", a.mount()); err != nil {
		return fmt.Errorf("vault auth %q: %w", a.Method, err)
	}
	switch a.Method {
	case TokenMethod:
		return one("token", "token", a.Token, "token_file", a.TokenFile)
	case AppRoleMethod:
		return errors.Join(
			one("approle", "role_id", a.RoleID, "role_id_file", a.RoleIDFile),
			one("approle", "secret_id", a.SecretID, "secret_id_file", a.SecretIDFile))
	case JWTMethod:
		if a.Role == "" || a.JWTFile == "" {
			return errors.New(`vault auth "jwt" needs role and jwt_file`)
		}
		return nil
	case CertMethod:
		if a.CertFile == "" || a.KeyFile == "" {
			return errors.New(`vault auth "cert" needs cert_file and key_file`)
		}
		return nil
	case AWSMethod, GCPMethod, AzureMethod:
		if a.Role == "" {
			return fmt.Errorf("vault auth %q needs a role", a.Method)
		}
		return a.checkProof()
	}
	return fmt.Errorf("vault auth method is %q: want token, approle, jwt, cert, aws, gcp or azure", a.Method)
}

// ofCloud reports whether the credential is what the cloud says of the machine.
func (a Auth) ofCloud() bool {
	return a.Method == AWSMethod || a.Method == GCPMethod || a.Method == AzureMethod
}

// checkProof checks what becomes part of a host name, a path or a header.
func (a Auth) checkProof() error {
	for _, part := range []struct{ name, text, others string }{
		{"region", a.Region, "-"},
		{"service_account", a.ServiceAccount, "-._@"},
		{"role", a.Role, "-._@/:+= "},
		{"header_value", a.HeaderValue, "-._@/:+= ,;()"},
	} {
		bad := func(r rune) bool {
			return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(part.others, r)
		}
		if strings.ContainsFunc(part.text, bad) || strings.Contains(part.text, "..") {
			return fmt.Errorf("vault auth %q: %s %q has characters that it cannot have", a.Method, part.name, part.text)
		}
	}
	return nil
}

func one(method, name, value, fileName, file string) error {
	if (value == "") == (file == "") {
		return fmt.Errorf("vault auth %q needs exactly one of %s and %s", method, name, fileName)
	}
	return nil
}

func (a Auth) mount() string {
	if a.Mount == "" {
		return a.Method
	}
	return strings.Trim(a.Mount, "/")
}

func (p PKI) check() error {
	if err := checkPath("pki mount", p.Mount); err != nil {
		return err
	}
	if err := checkPath("pki role", p.Role); err != nil {
		return err
	}
	if strings.Contains(p.Role, "/") {
		return fmt.Errorf("pki role %q must not contain a slash", p.Role)
	}
	if p.TTL < 0 || p.TTL > 0 && p.TTL < time.Second {
		return fmt.Errorf("pki ttl %s: want 0 or at least one second", p.TTL)
	}
	return nil
}

func (p PKI) path() string { return strings.Trim(p.Mount, "/") + "/sign/" + p.Role }

// checkPath keeps a name that was composed from others, such as
// "mesh-${service}", from reaching another path of Vault.
func checkPath(what, path string) error {
	trimmed := strings.Trim(path, "/")
	if trimmed == "" {
		return fmt.Errorf("%s is empty", what)
	}
	for segment := range strings.SplitSeq(trimmed, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("%s %q is not a path of Vault", what, path)
		}
	}
	bad := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("?#%", r) }
	if strings.ContainsFunc(trimmed, bad) {
		return fmt.Errorf("%s %q is not a path of Vault", what, path)
	}
	return nil
}
