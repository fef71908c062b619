// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

// A Policy is all that decides on the calls of one service.
type Policy struct {
	// Rules are in no order, and hold those too that others of the same source
	// stand before; see [connect.SortIntentions].
	Rules         []connect.Intention
	Default       connect.Action
	DefaultFrom   string // how Default was learnt, for people
	Protocol      connect.Protocol
	Normalization connect.Normalization
	Providers     map[string]connect.JWTProvider // all that are known; their keys may not be
}

// Policy reads from Consul what decides on the calls of a service, once. The
// protocol is that of config entries: a registration can have another. The error
// names the ACL permission that is missing, where that is the reason.
func (c *Client) Policy(ctx context.Context, service string) (Policy, error) {
	var p Policy
	if err := segment("service name", service); err != nil {
		return p, fmt.Errorf("read the policy of %q: %w", service, err)
	}
	if err := c.readRules(ctx, service, &p); err != nil {
		return p, err
	}
	if err := c.readProtocol(ctx, service, &p); err != nil {
		return p, err
	}
	mesh, _, err := c.openMesh(struct{}{})(ctx, watch.Cursor{})
	if err != nil {
		return p, err
	}
	p.Normalization = mesh.Normalization
	if !p.Protocol.Speaks() || !slices.ContainsFunc(p.Rules, asksForToken) {
		return p, nil
	}
	sources, _, err := c.openJWTProviders(struct{}{})(ctx, watch.Cursor{})
	if err != nil {
		return p, err
	}
	p.Providers = map[string]connect.JWTProvider{}
	for name, s := range sources {
		p.Providers[name] = s.Provider
	}
	return p, nil
}

func asksForToken(i connect.Intention) bool {
	return i.JWT != nil || slices.ContainsFunc(i.Permissions, func(p connect.Permission) bool { return p.JWT != nil })
}

func (c *Client) readRules(ctx context.Context, service string, p *Policy) error {
	r := request{
		doing: fmt.Sprintf("read intentions for %q", service), path: "/v1/connect/intentions/match",
		params: url.Values{"by": {"destination"}, "name": {service}}, needs: fmt.Sprintf("intentions:read on service %q", service),
	}
	var w map[string][]wireIntention
	m, err := c.get(ctx, r, watch.Cursor{}, &w)
	if err != nil {
		return err
	}
	if m.filtered {
		return fmt.Errorf("%s: Consul left some out that the token may not read: it needs %s", r.doing, r.needs)
	}
	list, ok := w[service]
	if !ok {
		return fmt.Errorf("%s: the answer does not speak of the service", r.doing)
	}
	if p.Rules, err = convertRules(service, list); err != nil {
		return fmt.Errorf("%s: %w", r.doing, err)
	}
	v, err := c.defaultPolicy(ctx, m.defaultPolicy)
	if err != nil {
		return fmt.Errorf("%s: %w", r.doing, err)
	}
	p.Default, p.DefaultFrom = v.action, v.from
	return nil
}

// readProtocol reads how the sidecar of a service is told to serve it: as its
// service-defaults say, or else proxy-defaults.
func (c *Client) readProtocol(ctx context.Context, service string, p *Policy) error {
	var own struct{ Protocol string }
	_, _, err := c.getIfAny(ctx, request{
		doing: fmt.Sprintf("read the service-defaults of %q", service), path: "/v1/config/service-defaults/" + service,
		needs: fmt.Sprintf("service:read on %q", service),
	}, watch.Cursor{}, &own)
	if err != nil {
		return err
	}
	var global writtenProxyDefaults
	if own.Protocol == "" {
		_, _, err = c.getIfAny(ctx, request{
			doing: "read the proxy-defaults", path: "/v1/config/proxy-defaults/global", needs: "of any kind",
		}, watch.Cursor{}, &global)
	}
	p.Protocol = connect.Protocol(either(either(strings.ToLower(own.Protocol), global.protocol()), string(connect.TCP)))
	return err
}
