// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/consul/api"
)

// Maintenance puts one service of the agent into maintenance, or takes it out:
// while it is in, callers elsewhere do not choose it, and what is open stays.
// reason is shown in Consul. See [IsNotRegistered].
func (c *Client) Maintenance(ctx context.Context, id string, on bool, reason string) error {
	query := new(api.QueryOptions).WithContext(ctx)
	var err error
	if on {
		err = c.api.Agent().EnableServiceMaintenanceOpts(id, reason, query)
	} else {
		err = c.api.Agent().DisableServiceMaintenanceOpts(id, query)
	}
	if status(err) == http.StatusNotFound {
		return fmt.Errorf("set maintenance of %q to %t: %w at the agent %s", id, on, errNotRegistered, c.where())
	}
	if err != nil {
		return fmt.Errorf("set maintenance of %q to %t: %w", id, on, explain(err, fmt.Sprintf("service:write on the service of %q", id), c.where()))
	}
	return nil
}

// IsNotRegistered reports whether err says that Consul's agent does not know the
// service.
func IsNotRegistered(err error) bool { return errors.Is(err, errNotRegistered) }
