// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/agent/watch"
)

// FindProxy returns the ID of the one sidecar that is registered at the agent
// for a service, as `consul connect proxy -sidecar-for` looks for it: the ID of
// the service is compared without regard to case, and none or several are an
// error.
func (c *Client) FindProxy(ctx context.Context, serviceID string) (string, error) {
	doing := fmt.Sprintf("find the sidecar of service %q", serviceID)
	var services map[string]wireService
	_, err := c.get(ctx, request{doing: doing, path: "/v1/agent/services", needs: "service:read"}, watch.Cursor{}, &services)
	if err != nil {
		return "", err
	}
	var found []string
	for id, s := range services {
		if s.Kind == kindProxy && s.Proxy != nil && strings.EqualFold(s.Proxy.DestinationServiceID, serviceID) {
			found = append(found, id)
		}
	}
	slices.Sort(found)
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s at the agent %s: %w: register it with connect { sidecar_service {} }, and check that the token may read it", doing, c.where(), errNoSidecar)
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("%s at the agent %s: there are %d, %s: choose one with -proxy-id", doing, c.where(), len(found), strings.Join(found, ", "))
}
