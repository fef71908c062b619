// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/outrider-mesh/outrider/agent/watch"
)

const (
	// aliasCheck begins the name of the check by which a sidecar is as healthy as
	// its service; the service's ID follows (Consul, sidecar service: defaults).
	aliasCheck = "Connect Sidecar Aliasing "
	// publishPace is how long Consul has to publish a result before it counts as
	// forgotten; on a healthy agent that takes milliseconds.
	publishPace = time.Second
)

// PublishHealth has Consul publish what it knows of a new sidecar. An agent whose
// check is registered twice within milliseconds, as Nomad may do, takes a result
// that it has not published yet for published, and corrects that with its next
// full synchronisation only, minutes later: until then callers elsewhere are told
// that the sidecar is critical. The report is whether the alias check had to be
// registered again; what that check is, stays.
//
// token is as in [Client.HastenCheck].
func (c *Client) PublishHealth(ctx context.Context, proxyID, token string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, hasteWithin)
	defer cancel()
	w, _, err := c.service(ctx, proxyID, watch.Cursor{})
	if err != nil || w.Proxy == nil || w.Proxy.DestinationServiceID == "" {
		return false, err
	}
	tick := time.NewTicker(publishPace)
	defer tick.Stop()
	again, behind := false, false
	for {
		here, err := c.sidecarCheck(ctx, proxyID, aliasCheck, "alias")
		if err != nil || here.CheckID == "" {
			return again, err
		}
		published, err := c.published(ctx, w.Service, here)
		if err != nil || published == api.HealthPassing && here.Status == published {
			return again, err
		}
		differs := published != here.Status
		if behind && differs { // for a whole tick
			check := &api.AgentCheckRegistration{ID: here.CheckID, Name: here.Name, Notes: here.Notes, ServiceID: proxyID}
			check.AliasService, check.Status = w.Proxy.DestinationServiceID, here.Status
			if err := c.registerCheck(ctx, check, token); err != nil {
				return again, err
			}
			again = true
		}
		behind = differs && !behind
		select {
		case <-ctx.Done():
			return again, fmt.Errorf("have Consul publish the health of %q: the catalog says %q, the agent %q: %w", proxyID, published, here.Status, ctx.Err())
		case <-tick.C:
		}
	}
}

// published returns the status of a check in the catalog, where callers see it;
// "" for one that is not there.
func (c *Client) published(ctx context.Context, service string, check agentCheck) (string, error) {
	r := request{
		doing: fmt.Sprintf("read the published checks of %q", check.ServiceID), path: "/v1/health/checks/" + service,
		params: url.Values{"filter": {fmt.Sprintf("CheckID == %s and ServiceID == %s", strconv.Quote(check.CheckID), strconv.Quote(check.ServiceID))}},
		needs:  "service:read on " + strconv.Quote(service),
	}
	if err := segment("service", service); err != nil {
		return "", fmt.Errorf("%s: %w", r.doing, err)
	}
	var all []struct{ Status string }
	if _, err := c.get(ctx, r, watch.Cursor{}, &all); err != nil || len(all) == 0 {
		return "", err
	}
	return all[0].Status, nil
}
