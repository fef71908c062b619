// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

// A verdict is the default intention policy and how it was learnt, for people.
type verdict struct {
	action connect.Action
	from   string
}

// Names that no service has, to ask Consul's servers what happens to a
// connection that no intention speaks of.
const (
	probeSource      = "outrider-default-policy-source"
	probeDestination = "outrider-default-policy-destination"
)

// defaultPolicy learns what happens to a connection that no intention speaks
// of. Consul has no endpoint for it, so it is put together, and anything that
// remains in doubt denies:
//
//  1. the operator's word;
//  2. the agent's setting default_intention_policy, in agent/self;
//  3. the default ACL policy, in a header of every answer.
//
// The servers' setting may be stricter than what the local agent knows of.
// Therefore an "allow" holds only when the agent's setting could be read, and
// when the servers let a connection between two unused names pass.
func (c *Client) defaultPolicy(ctx context.Context, header string) (verdict, error) {
	if c.cfg.DefaultIntentionPolicy != "" {
		action, err := connect.ParseAction(c.cfg.DefaultIntentionPolicy)
		return verdict{action, "set in the configuration"}, err
	}
	var self struct {
		DebugConfig struct{ DefaultIntentionPolicy string }
	}
	_, err := c.get(ctx, request{doing: "read the default intention policy", path: "/v1/agent/self", needs: "agent:read"}, watch.Cursor{}, &self)
	switch {
	case denied(err) && header == "allow":
		return verdict{connect.Deny, "the token may not read the agent's default_intention_policy (agent:read): denied to be safe; set it in the configuration"}, nil
	case err != nil && !denied(err) && status(err) != http.StatusNotFound:
		return verdict{}, err
	}
	word, from := self.DebugConfig.DefaultIntentionPolicy, "the agent's default_intention_policy"
	if word == "" {
		word, from = header, "the default ACL policy"
	}
	if word == "" {
		return verdict{connect.Deny, "Consul does not say: denied to be safe; set it in the configuration"}, nil
	}
	action, err := connect.ParseAction(word)
	if err != nil {
		return verdict{}, fmt.Errorf("%s: %w", from, err)
	}
	if action == connect.Allow {
		return c.confirmAllow(ctx, from)
	}
	return verdict{action, from}, nil
}

func (c *Client) confirmAllow(ctx context.Context, from string) (verdict, error) {
	var check struct{ Allowed bool }
	_, err := c.get(ctx, request{
		doing:  "check the default intention policy of the servers",
		path:   "/v1/connect/intentions/check",
		params: url.Values{"source": {probeSource}, "destination": {probeDestination}},
		needs:  "service:read",
	}, watch.Cursor{}, &check)
	switch {
	case denied(err):
		return verdict{connect.Deny, "the token may not ask Consul's servers for their policy (service:read): denied to be safe; set it in the configuration"}, nil
	case status(err) == http.StatusNotFound:
		return verdict{connect.Allow, from}, nil
	case err != nil:
		return verdict{}, err
	case !check.Allowed:
		return verdict{connect.Deny, "Consul's servers deny what no intention speaks of"}, nil
	}
	return verdict{connect.Allow, from}, nil
}

func denied(err error) bool {
	code := status(err)
	return code == http.StatusForbidden || code == http.StatusUnauthorized
}
