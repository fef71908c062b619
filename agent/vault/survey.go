// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/outrider-mesh/outrider/connect"
)

// A Survey is what Vault says about itself, and about how leaves are signed, to
// somebody who looks for the reason of a failure. What could not be learnt has its
// error instead.
type Survey struct {
	Address     string
	Version     string
	Date        time.Time // Vault's clock, to the second; zero when it does not say
	Initialized bool
	Sealed      bool

	// Token is that of auth "token"; nil for every other method, of which nothing
	// is tried: a login makes a token, and may use up what it is made with.
	Token    *TokenSurvey
	TokenErr error
	// CredentialsErr says why what the login is made with cannot be read.
	CredentialsErr error

	PKIs []PKISurvey // in the order of the question
}

// A TokenSurvey describes a token by what is no secret.
type TokenSurvey struct {
	TTL       time.Duration // left; 0 means for ever
	Renewable bool
}

// A PKISurvey is what is known of the role that signs one leaf.
type PKISurvey struct {
	PKI PKI
	// Chain is the mount's issuer and what is above it, the issuer first.
	Chain    []*x509.Certificate
	ChainErr error
	// MaySign says that the token may use the role; meaningless with TokenErr, and
	// without Token.
	MaySign    bool
	MaySignErr error
	// Role is what the role allows; nil when that may not be read.
	Role    *RoleSurvey
	RoleErr error // nil when it may not be read
}

// A RoleSurvey is what a role of the PKI engine allows, as far as leaves of the
// mesh depend on it (Vault documentation, PKI secrets engine API: create role).
type RoleSurvey struct {
	URIs      []string // allowed_uri_sans, with * for anything
	RequireCN bool
	KeyType   string // ec, rsa, ed25519, any
}

// Survey asks Vault. It signs nothing, logs in nowhere and changes nothing: the one
// request that is no GET asks what the token may do. Call it on a client that does
// not run. The error is that Vault cannot be reached or is none, in one sentence
// with what to check.
func (c *Client) Survey(ctx context.Context, pkis []PKI) (*Survey, error) {
	s := &Survey{Address: c.cfg.Address}
	if err := c.surveyHealth(ctx, s); err != nil {
		return nil, err
	}
	creds, err := c.cfg.Auth.read()
	if s.CredentialsErr = err; s.Sealed || !s.Initialized {
		return s, nil
	}
	if c.cfg.Auth.Method == TokenMethod && err == nil {
		g, err := c.logIn(ctx, creds) // of a token, which is only looked up
		s.TokenErr = err
		if err == nil {
			s.Token = &TokenSurvey{TTL: g.ttl, Renewable: g.renewable}
			c.login.SetToken(creds.token)
			defer c.login.ClearToken()
		}
	}
	mounts := make(map[string]PKISurvey) // most services share one
	for _, p := range pkis {
		one := PKISurvey{PKI: p, Chain: mounts[p.Mount].Chain, ChainErr: mounts[p.Mount].ChainErr}
		c.surveyPKI(ctx, &one, s.Token != nil, creds.secrets())
		mounts[p.Mount] = one
		s.PKIs = append(s.PKIs, one)
	}
	return s, nil
}

// surveyHealth asks without a token (Vault documentation, sys/health). Every state
// is asked to be a 200.
func (c *Client) surveyHealth(ctx context.Context, s *Survey) error {
	doing := "ask Vault at " + c.cfg.Address + " for its health"
	all := []string{"200"}
	res, err := c.login.Logical().ReadRawWithDataWithContext(ctx, "sys/health", map[string][]string{
		"sealedcode": all, "uninitcode": all, "standbycode": all, "perfstandbycode": all, "drsecondarycode": all,
	})
	if res != nil {
		defer func() { _ = res.Body.Close() }()
		s.Date, _ = http.ParseTime(res.Header.Get("Date")) // zero when it is none
	}
	if err != nil {
		return advise(doing, newFailure(err, nil), "")
	}
	var health struct {
		Initialized, Sealed *bool
		Version             string
	}
	if err := res.DecodeJSON(&health); err != nil || health.Initialized == nil || health.Sealed == nil {
		return fmt.Errorf("%s: something else than Vault answers: correct vault.address", doing)
	}
	s.Initialized, s.Sealed, s.Version = *health.Initialized, *health.Sealed, clean(health.Version, nil)
	return nil
}

// surveyPKI fills in what is not known yet.
func (c *Client) surveyPKI(ctx context.Context, s *PKISurvey, withToken bool, hide secrets) {
	p := s.PKI
	if err := p.check(); err != nil {
		s.ChainErr = err
		return
	}
	if s.Chain == nil && s.ChainErr == nil {
		s.Chain, s.ChainErr = c.surveyChain(ctx, p, hide)
	}
	if !withToken {
		return
	}
	can, err := c.login.Sys().CapabilitiesSelfWithContext(ctx, p.path())
	if err != nil {
		s.MaySignErr = advise("ask Vault what the token may do with "+p.path(), newFailure(err, hide), "")
	}
	s.MaySign = slices.Contains(can, "update") || slices.Contains(can, "root")
	s.Role, s.RoleErr = c.surveyRole(ctx, p, hide)
}

// surveyChain reads what every mount tells without a token (Vault documentation,
// PKI secrets engine API: read issuer certificate chain).
func (c *Client) surveyChain(ctx context.Context, p PKI, hide secrets) ([]*x509.Certificate, error) {
	mount := strings.Trim(p.Mount, "/")
	doing := "read the certificates of " + mount
	var text []byte
	for _, name := range []string{"/ca_chain", "/ca/pem"} {
		res, err := c.login.Logical().ReadRawWithContext(ctx, mount+name)
		if err == nil {
			text, err = io.ReadAll(res.Body)
		}
		if res != nil {
			_ = res.Body.Close()
		}
		if err != nil {
			return nil, advise(doing, newFailure(err, hide), "")
		}
		if len(strings.TrimSpace(string(text))) > 0 {
			break
		}
	}
	chain, err := connect.ParseCertificates(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w: is it a PKI mount with an issuer?", doing, err)
	case len(chain) > maxChain:
		return nil, fmt.Errorf("%s: there are %d, at most %d can be right", doing, len(chain), maxChain)
	}
	return chain, nil
}

// surveyRole reads a role, where the token may: the one of a sidecar need not.
func (c *Client) surveyRole(ctx context.Context, p PKI, hide secrets) (*RoleSurvey, error) {
	path := strings.Trim(p.Mount, "/") + "/roles/" + p.Role
	secret, err := c.login.Logical().ReadWithContext(ctx, path)
	if refusal, ok := errors.AsType[*api.ResponseError](err); ok && refusal.StatusCode == http.StatusForbidden {
		return nil, nil
	}
	if err != nil {
		return nil, advise("read "+path, newFailure(err, hide), "")
	}
	if secret == nil || secret.Data == nil {
		return nil, fmt.Errorf("read %s: there is no such role: create it with allowed_uri_sans, require_cn=false and key_type=ec", path)
	}
	role := &RoleSurvey{}
	role.RequireCN, _ = secret.Data["require_cn"].(bool)
	role.KeyType, _ = secret.Data["key_type"].(string)
	uris, _ := secret.Data["allowed_uri_sans"].([]any)
	for _, u := range uris {
		if text, ok := u.(string); ok {
			role.URIs = append(role.URIs, text)
		}
	}
	return role, nil
}

// Allows reports whether the role signs a leaf for a SPIFFE ID. A star stands for
// any text, slashes too.
func (r *RoleSurvey) Allows(id string) bool {
	return slices.ContainsFunc(r.URIs, func(pattern string) bool { return glob(pattern, id) })
}

func glob(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return strings.HasSuffix(text, last)
}
