// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

// A Survey is what a Consul agent says about itself to somebody who looks for
// the reason of a failure. What could not be learnt has its error instead.
type Survey struct {
	Address string
	Leader  string // address of the cluster's leader; "" while it has none
	// Date is the agent's clock, to the second; zero when it does not say.
	Date time.Time

	// Version and Datacenter need agent:read, which the token of a sidecar has not.
	Version    string
	Datacenter string
	VersionErr error

	// Token is that of the configuration; nil when there is none, and with
	// TokenErr.
	Token    *TokenSurvey
	TokenErr error

	// Roots counts the roots of the mesh's CA, an expired one too.
	Roots    int
	RootsErr error // among others when Consul's connect.enabled is false
	// Bundle is what the roots come to; nil with RootsErr, and when they cannot be
	// understood.
	Bundle *connect.TrustBundle

	// Failing are the checks of this host that do not pass, of services that the
	// token may read.
	Failing    []FailingCheck
	FailingErr error
}

// A TokenSurvey describes an ACL token by what is no secret.
type TokenSurvey struct {
	Accessor string
	Grants   []string  // names of policies, roles and identities
	Expires  time.Time // zero means never
	// Disabled says that Consul has no ACLs, so that it looks at no token.
	Disabled bool
}

// Survey asks the agent. The error is that it cannot be reached or is none, in
// one sentence with what to check.
func (c *Client) Survey(ctx context.Context) (*Survey, error) {
	s := &Survey{Address: c.where()}
	// Answered without any token.
	ask := request{doing: "ask Consul for its leader", path: "/v1/status/leader", needs: "none"}
	if err := c.read(ctx, ask, &s.Leader); err != nil {
		return nil, err
	}
	s.Date = c.date(ctx)
	s.Version, s.Datacenter, s.VersionErr = c.surveyVersion(ctx)
	s.Token, s.TokenErr = c.surveyToken(ctx)
	s.Roots, s.Bundle, s.RootsErr = c.surveyRoots(ctx)
	s.Failing, s.FailingErr = c.FailingChecks(ctx)
	return s, nil
}

func (c *Client) read(ctx context.Context, r request, out any) error {
	_, err := c.get(ctx, r, watch.Cursor{}, out)
	return err
}

// date returns the time that the agent's answers carry (RFC 9110, Date).
func (c *Client) date(ctx context.Context) time.Time {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.url("/v1/status/leader", nil).String(), nil)
	if err != nil {
		return time.Time{}
	}
	response, err := c.http.Do(req)
	if err != nil {
		return time.Time{}
	}
	defer func() { _ = response.Body.Close() }()
	at, _ := http.ParseTime(response.Header.Get("Date")) // zero when it is none
	return at
}

func (c *Client) surveyVersion(ctx context.Context) (version, datacenter string, err error) {
	var self struct {
		Config struct{ Version, Datacenter string }
	}
	err = c.read(ctx, request{doing: "ask Consul for its version", path: "/v1/agent/self", needs: "agent:read"}, &self)
	return self.Config.Version, self.Config.Datacenter, err
}

func (c *Client) surveyRoots(ctx context.Context) (int, *connect.TrustBundle, error) {
	var roots wireRoots
	if err := c.read(ctx, request{doing: "read the roots of the mesh", path: "/v1/agent/connect/ca/roots", needs: "of any valid token"}, &roots); err != nil {
		return 0, nil, err
	}
	bundle, err := convertRoots(roots)
	if err != nil {
		return len(roots.Roots), nil, nil
	}
	return len(roots.Roots), bundle, nil
}

func (c *Client) surveyToken(ctx context.Context) (*TokenSurvey, error) {
	if c.cfg.Token == "" && c.cfg.TokenFile == "" && c.cfg.Login == nil {
		return nil, nil
	}
	type link struct{ Name, ServiceName, NodeName, TemplateName string }
	var token struct {
		AccessorID                        string
		Policies, Roles                   []link
		ServiceIdentities, NodeIdentities []link
		TemplatedPolicies                 []link
		ExpirationTime                    time.Time
	}
	err := c.read(ctx, request{doing: "ask Consul about the token", path: "/v1/acl/token/self", needs: "of the token itself"}, &token)
	if refusal, ok := errors.AsType[*statusError](err); ok && refusal.code == http.StatusUnauthorized && strings.Contains(refusal.body, "ACL support disabled") {
		return &TokenSurvey{Disabled: true}, nil
	}
	if err != nil {
		return nil, err
	}
	t := &TokenSurvey{Accessor: token.AccessorID, Expires: token.ExpirationTime}
	add := func(what string, links []link, name func(link) string) {
		for _, l := range links {
			t.Grants = append(t.Grants, fmt.Sprintf("%s %s", what, name(l)))
		}
	}
	add("policy", token.Policies, func(l link) string { return l.Name })
	add("role", token.Roles, func(l link) string { return l.Name })
	add("service identity", token.ServiceIdentities, func(l link) string { return l.ServiceName })
	add("node identity", token.NodeIdentities, func(l link) string { return l.NodeName })
	add("templated policy", token.TemplatedPolicies, func(l link) string { return l.TemplateName })
	return t, nil
}
