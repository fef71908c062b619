// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"unicode"

	"github.com/hashicorp/vault/api"
)

// maxErrorText bounds what of an answer of Vault goes into an error, in bytes.
const maxErrorText = 300

// A failure is an exchange with Vault that did not succeed: an error response,
// or no usable response at all. Its text is safe to log.
type failure struct {
	status int // of the HTTP response; 0 when there was none
	text   string
	err    error // nil for a response, whose raw body must not be found by unwrapping
}

func (f *failure) Error() string { return f.text }

func (f *failure) Unwrap() error { return f.err }

// newFailure turns an error of the API package into one line without secrets.
func newFailure(err error, hide secrets) *failure {
	if resp, ok := errors.AsType[*api.ResponseError](err); ok {
		text := clean(strings.Join(resp.Errors, "; "), hide)
		if text == "" {
			text = strings.ToLower(http.StatusText(resp.StatusCode))
		}
		return &failure{status: resp.StatusCode, text: fmt.Sprintf("Vault answered %d: %s", resp.StatusCode, text)}
	}
	inner := err
	if at, ok := errors.AsType[*url.Error](err); ok {
		inner = at.Err // The URL says nothing that our own words do not.
	}
	return &failure{text: clean(inner.Error(), hide), err: inner}
}

// secrets are texts that never reach an error.
type secrets []string

// minSecret keeps a placeholder such as "root" from blanking ordinary words.
const minSecret = 8

// clean makes one bounded line of a text that others wrote. Secrets are blanked
// first: a server, or something that stands in for it, may echo the request.
func clean(text string, hide secrets) string {
	for _, secret := range hide {
		if len(secret) >= minSecret {
			text = strings.ReplaceAll(text, secret, "[hidden]")
		}
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + " …"
	}
	return text
}

// remedy says what to do about a failure whatever was asked, or "".
func (f *failure) remedy() string {
	var unknownCA x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var dns *net.DNSError
	var network net.Error
	switch {
	case f.status == http.StatusServiceUnavailable:
		return "unseal Vault, or wait until it has started"
	case f.status == http.StatusTooManyRequests:
		return "raise the rate limit quota of Vault for this mount"
	case f.status >= http.StatusInternalServerError:
		return "look at Vault's own log"
	case f.status == http.StatusNotFound:
		return "check that the mount exists in this namespace"
	case errors.Is(f.err, syscall.ECONNREFUSED):
		return "start Vault, or correct vault.address"
	case errors.As(f.err, &dns):
		return "correct vault.address, or the name resolution of this host"
	case errors.As(f.err, &unknownCA):
		return "set tls.ca_file to the CA of Vault's own certificate"
	case errors.As(f.err, &wrongName):
		return "set tls.server_name to a name in Vault's own certificate"
	case strings.Contains(f.text, "json:"), strings.Contains(f.text, "invalid character"):
		return "something else than Vault answers at vault.address: correct it"
	case strings.Contains(f.text, "HTTP response to HTTPS client"):
		return "use http:// in vault.address, or give Vault a TLS listener"
	case errors.As(f.err, &network) && network.Timeout():
		return "check the network between this host and Vault"
	}
	return ""
}

// advise wraps a failure: doing what, why, and what to do.
func advise(doing string, f *failure, remedy string) error {
	if remedy == "" {
		remedy = f.remedy()
	}
	if remedy == "" {
		return fmt.Errorf("%s: %w", doing, f)
	}
	return fmt.Errorf("%s: %w: %s", doing, f, remedy)
}

// permanent reports whether the same request would be refused again.
func (f *failure) permanent() bool {
	return f.status == http.StatusBadRequest || f.status == http.StatusForbidden || f.status == http.StatusNotFound
}

// tokenGone reports whether Vault does not know the token: it has ended, was
// revoked, or was never one. A token whose policy lacks a path gets another
// answer; older servers give both the same.
func (f *failure) tokenGone() bool {
	return f.status == http.StatusForbidden && strings.Contains(f.text, "invalid token")
}

// loginRemedy says what to do when Vault refuses to log us in.
func loginRemedy(auth Auth, f *failure) string {
	if f.status != http.StatusBadRequest && f.status != http.StatusForbidden {
		return ""
	}
	switch auth.Method {
	case TokenMethod:
		return "the token has ended, was revoked, or may not read auth/token/lookup-self: give a new one"
	case AppRoleMethod:
		return "check role id and secret id: a secret id can expire, be used up, or be bound to other addresses"
	case CertMethod:
		return fmt.Sprintf("check that a role of auth/%s trusts the CA of the certificate and allows its names, and that it has not expired", auth.mount())
	case AWSMethod:
		return fmt.Sprintf("check role %q of auth/%s: auth_type=iam, bound_iam_principal_arn with the role of the instance profile, header_value, and region where Vault has an sts_region", auth.Role, auth.mount())
	case GCPMethod:
		return fmt.Sprintf("check role %q of auth/%s: type=gce, its bound projects, zones and service accounts, and that Vault may read the instances of the project", auth.Role, auth.mount())
	case AzureMethod:
		return fmt.Sprintf("check role %q of auth/%s: its bound subscriptions, resource groups and service principals, and that resource is that of the mount's configuration", auth.Role, auth.mount())
	}
	return fmt.Sprintf("check role %q of auth/%s: its bound claims and audiences, its keys, and whether the JWT has expired", auth.Role, auth.mount())
}

// signRemedy says what to do when Vault refuses to sign a CSR for identity.
func signRemedy(pki PKI, identity string, f *failure) string {
	role := fmt.Sprintf("role %q of %s", pki.Role, strings.Trim(pki.Mount, "/"))
	switch {
	case f.tokenGone():
		return "the token has ended or was revoked, and another login is tried"
	case f.status == http.StatusForbidden:
		return fmt.Sprintf("grant update on %s to the token's policy", pki.path())
	case f.status != http.StatusBadRequest:
		return ""
	}
	text := strings.ToLower(f.text)
	switch {
	case strings.Contains(text, "uri subject alternative name"), strings.Contains(text, "allowed_uri_sans"):
		return fmt.Sprintf("set allowed_uri_sans=%q on %s", identity, role)
	case strings.Contains(text, "unknown role"):
		return fmt.Sprintf("create %s with allowed_uri_sans=%q, require_cn=false and key_type=ec", role, identity)
	case strings.Contains(text, "common_name"):
		return fmt.Sprintf("set require_cn=false on %s", role)
	case strings.Contains(text, "requires keys of type"):
		return fmt.Sprintf("set key_type=ec and key_bits=256 on %s", role)
	case strings.Contains(text, "beyond the expiration"):
		return "ask for a shorter ttl, or renew the CA certificate of the mount"
	}
	return "check " + role
}
