// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

func (c *Client) openMesh(struct{}) watch.Fetch[connect.Mesh] {
	r := request{doing: "read the mesh config entry", path: "/v1/config/mesh", needs: "of any kind"}
	return func(ctx context.Context, after watch.Cursor) (connect.Mesh, watch.Cursor, error) {
		var w []wireMesh
		m, err := c.get(ctx, r, after, &w)
		if err != nil {
			return connect.Mesh{}, watch.Cursor{}, err
		}
		mesh, err := convertMesh(w)
		if err != nil {
			return connect.Mesh{}, watch.Cursor{}, err
		}
		return mesh, watch.Cursor{Index: m.index}, nil
	}
}

func (c *Client) openJWTProviders(struct{}) watch.Fetch[map[string]JWTSource] {
	r := request{doing: "read the JWT providers", path: "/v1/config/jwt-provider", needs: "mesh:read, or service:write on any service"}
	return func(ctx context.Context, after watch.Cursor) (map[string]JWTSource, watch.Cursor, error) {
		var w []wireJWTProvider
		m, err := c.get(ctx, r, after, &w)
		if err != nil {
			return nil, watch.Cursor{}, err
		}
		if m.filtered {
			// Without this, what is not seen would count as not there, and
			// replace keys that are in use.
			return nil, watch.Cursor{}, fmt.Errorf("%s: Consul left some out that the token may not read: it needs %s", r.doing, r.needs)
		}
		sources, err := convertJWTProviders(w)
		if err != nil {
			return nil, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
		}
		return sources, watch.Cursor{Index: m.index}, nil
	}
}

// openDefaults reads an entry that need not be there. Its absence has an index
// too, and is waited on like the entry.
func (c *Client) openDefaults(key ServiceKey) watch.Fetch[ServiceDefaults] {
	r := request{
		doing: fmt.Sprintf("read the service-defaults of %q", key), path: "/v1/config/service-defaults/" + key.Service,
		params: tenancy(key.Namespace, key.Partition), needs: fmt.Sprintf("service:read on %q", key.Service),
	}
	return func(ctx context.Context, after watch.Cursor) (ServiceDefaults, watch.Cursor, error) {
		if err := segment("service name", key.Service); err != nil {
			return ServiceDefaults{}, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
		}
		var w wireDefaults
		found, m, err := c.getIfAny(ctx, r, after, &w)
		if err != nil {
			return ServiceDefaults{}, watch.Cursor{}, err
		}
		var d ServiceDefaults
		if found {
			if d, err = convertDefaults(w, key.Service); err != nil {
				return ServiceDefaults{}, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
			}
		}
		return d, watch.Cursor{Index: m.index}, nil
	}
}
