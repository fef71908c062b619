// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// A jwtProvider says how tokens of one issuer are verified (Consul, JWT provider
// config entry).
type jwtProvider struct {
	head
	JSONWebKeySet    *keySet          `json:",omitempty"`
	Issuer           string           `json:",omitempty"`
	Audiences        []string         `json:",omitempty"`
	Locations        []*tokenLocation `json:",omitempty"`
	Forwarding       *tokenForwarding `json:",omitempty"`
	ClockSkewSeconds int              `json:",omitempty"`
	CacheConfig      *tokenCache      `json:",omitempty"`
}

type keySet struct {
	Local  *localKeys  `json:",omitempty"`
	Remote *remoteKeys `json:",omitempty"`
}

type localKeys struct {
	JWKS     string `json:",omitempty"`
	Filename string `json:",omitempty"`
}

type remoteKeys struct {
	URI                 string       `json:",omitempty"`
	RequestTimeoutMs    int          `json:",omitempty"`
	CacheDuration       span         `json:",omitempty"`
	FetchAsynchronously bool         `json:",omitempty"`
	UseSNI              bool         `json:",omitempty"`
	RetryPolicy         *keyRetries  `json:",omitempty"`
	JWKSCluster         *keysCluster `json:",omitempty"`
}

type keyRetries struct {
	NumRetries         int         `json:",omitempty"`
	RetryPolicyBackOff *keyBackOff `json:",omitempty"`
}

type keyBackOff struct {
	BaseInterval span `json:",omitempty"`
	MaxInterval  span `json:",omitempty"`
}

type keysCluster struct {
	DiscoveryType   string            `json:",omitempty"`
	TLSCertificates *keysCertificates `json:",omitempty"`
	ConnectTimeout  span              `json:",omitempty"`
}

type keysCertificates struct {
	CaCertificateProviderInstance *providerInstance `json:",omitempty"`
	TrustedCA                     *trustedCA        `json:",omitempty"`
}

type providerInstance struct {
	InstanceName    string `json:",omitempty"`
	CertificateName string `json:",omitempty"`
}

type trustedCA struct {
	Filename            string `json:",omitempty"`
	EnvironmentVariable string `json:",omitempty"`
	InlineString        string `json:",omitempty"`
	InlineBytes         string `json:",omitempty"` // base64
}

type tokenLocation struct {
	Header     *tokenHeader `json:",omitempty"`
	QueryParam *named       `json:",omitempty"`
	Cookie     *named       `json:",omitempty"`
}

type tokenHeader struct {
	Name        string `json:",omitempty"`
	ValuePrefix string `json:",omitempty"`
	Forward     bool   `json:",omitempty"`
}

type named struct {
	Name string `json:",omitempty"`
}

type tokenForwarding struct {
	HeaderName              string `json:",omitempty"`
	PadForwardPayloadHeader bool   `json:",omitempty"`
}

type tokenCache struct {
	Size int `json:",omitempty"`
}

const defaultClockSkew = 30 // seconds

func (e *jwtProvider) complete() {
	if e.ClockSkewSeconds == 0 {
		e.ClockSkewSeconds = defaultClockSkew
	}
}

func (e *jwtProvider) validate() error {
	if err := e.JSONWebKeySet.validate(); err != nil {
		return err
	}
	if f := e.Forwarding; f != nil && f.HeaderName == "" {
		return refuse("Header name required for forwarding config")
	}
	var wrong []string
	for _, l := range e.Locations {
		if text := l.wrong(); text != "" {
			wrong = append(wrong, text)
		}
	}
	return several(wrong)
}

// several is what Consul says when several things may be wrong at once, nil
// when none is.
func several(wrong []string) error {
	switch len(wrong) {
	case 0:
		return nil
	case 1:
		return refuse("1 error occurred:\n\t* %s\n\n", wrong[0])
	}
	return refuse("%d errors occurred:\n\t* %s\n\n", len(wrong), strings.Join(wrong, "\n\t* "))
}

// wrong says what is wrong with a location, "" for nothing.
func (l *tokenLocation) wrong() string {
	switch {
	case l == nil || count(word(l.Header != nil), word(l.QueryParam != nil), word(l.Cookie != nil)) != 1:
		return "must set exactly one of: JWT location header, query param or cookie"
	case l.Header != nil && l.Header.Name == "":
		return "JWT location header name must be specified"
	case l.QueryParam != nil && l.QueryParam.Name == "":
		return "JWT location query param name must be specified"
	case l.Cookie != nil && l.Cookie.Name == "":
		return "JWT location cookie name must be specified"
	}
	return ""
}

func (k *keySet) validate() error {
	switch {
	case k == nil:
		return refuse("JSONWebKeySet is required")
	case (k.Local == nil) == (k.Remote == nil):
		return refuse("must specify exactly one of Local or Remote JSON Web key set")
	case k.Remote != nil:
		return k.Remote.validate()
	case count(k.Local.JWKS, k.Local.Filename) != 1:
		return refuse("must specify exactly one of String or filename for local keyset")
	}
	if _, err := base64.StdEncoding.DecodeString(k.Local.JWKS); err != nil {
		return refuse("JWKS must be valid base64 encoded string")
	}
	return nil
}

func (k *remoteKeys) validate() error {
	if k.URI == "" {
		return refuse("Remote JWKS URI is required")
	}
	if _, err := url.ParseRequestURI(k.URI); err != nil {
		return refuse("Remote JWKS URI is invalid: %w, uri: %s", err, k.URI)
	}
	c := k.JWKSCluster
	if c == nil {
		return nil
	}
	types := []string{"", "STRICT_DNS", "STATIC", "LOGICAL_DNS", "EDS", "ORIGINAL_DST"}
	if !slices.Contains(types, c.DiscoveryType) {
		return refuse("unsupported jwks cluster discovery type: %q", c.DiscoveryType)
	}
	tls := c.TLSCertificates
	if tls == nil {
		return nil
	}
	if (tls.CaCertificateProviderInstance == nil) == (tls.TrustedCA == nil) {
		return refuse("must specify exactly one of: CaCertificateProviderInstance or TrustedCA for JKWS' TLSCertificates")
	}
	if ca := tls.TrustedCA; ca != nil && count(ca.Filename, ca.EnvironmentVariable, ca.InlineString, ca.InlineBytes) != 1 {
		return refuse("must specify exactly one of: Filename, EnvironmentVariable, InlineString or InlineBytes for JWKS' TrustedCA")
	}
	return nil
}

// A jwtRequirement asks for a token of one of several providers.
type jwtRequirement struct {
	Providers []*jwtClaims `json:",omitempty"`
}

type jwtClaims struct {
	Name         string
	VerifyClaims []*verifyClaim `json:",omitempty"`
}

type verifyClaim struct {
	Path  []string
	Value string
}

// requirements are all that an entry asks of tokens.
func (e *serviceIntentions) requirements() []*jwtRequirement {
	all := []*jwtRequirement{e.JWT}
	for _, s := range e.Sources {
		for _, p := range s.Permissions {
			all = append(all, p.JWT)
		}
	}
	return slices.DeleteFunc(all, func(r *jwtRequirement) bool { return r == nil })
}

// checkProviders refuses requirements that nobody can meet: each provider must
// have a name, and be there.
func (e *serviceIntentions) checkProviders(all entries) error {
	var wrong []string
	for _, r := range e.requirements() {
		for _, p := range r.Providers {
			switch {
			case p == nil || p.Name == "":
				wrong = append(wrong, "JWT provider name is required")
			case all[entryKey{kindJWTProvider, p.Name}] == nil:
				wrong = append(wrong, "Referenced JWT Provider does not exist. Provider Name: "+p.Name)
			}
		}
	}
	return several(wrong)
}

// checkUnused refuses to lose a provider that an intention needs.
func (e entries) checkUnused(provider string) error {
	for _, each := range e.list(kindIntentions) {
		intentions := each.(*serviceIntentions)
		for _, r := range intentions.requirements() {
			if slices.ContainsFunc(r.Providers, func(p *jwtClaims) bool { return p != nil && p.Name == provider }) {
				return fmt.Errorf("cannot delete jwt provider config entry referenced by an intention. Provider name: %s, intention name: %s", provider, intentions.Name)
			}
		}
	}
	return nil
}
