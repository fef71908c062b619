// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

// maxGatewayNames bounds the services of mesh gateways of one datacenter, each
// of which is a question to Consul.
const maxGatewayNames = 32

// gatewayNames lists the services that are mesh gateways. They are called
// "mesh-gateway" by convention only.
func (c *Client) gatewayNames(ctx context.Context, key GatewaysKey) ([]string, error) {
	params := tenancy("", "")
	params.Set("dc", key.Datacenter)
	params.Set("filter", `ServiceKind == "mesh-gateway"`)
	var w map[string][]string
	_, err := c.get(ctx, request{
		doing: fmt.Sprintf("list the mesh gateways of datacenter %q", key.Datacenter), path: "/v1/catalog/services", params: params,
		needs: "service:read on the mesh gateways",
	}, watch.Cursor{}, &w)
	if err != nil {
		return nil, err
	}
	if len(w) > maxGatewayNames {
		return nil, fmt.Errorf("datacenter %q has mesh gateways of %d names, at most %d are served", key.Datacenter, len(w), maxGatewayNames)
	}
	return slices.Sorted(maps.Keys(w)), nil
}

// gateways reads the instances of one mesh gateway service.
func (c *Client) gateways(ctx context.Context, key GatewaysKey, name string, after watch.Cursor) ([]connect.Endpoint, meta, error) {
	doing := fmt.Sprintf("read the mesh gateways %q of datacenter %q", name, key.Datacenter)
	if err := segment("service name", name); err != nil {
		return nil, meta{}, fmt.Errorf("%s: %w", doing, err)
	}
	params := tenancy("", "")
	params.Set("dc", key.Datacenter)
	var w []wireEndpoint
	m, err := c.get(ctx, request{
		doing: doing, path: "/v1/health/service/" + name, params: params,
		needs: fmt.Sprintf("service:read on %q and node:read on its nodes", name),
	}, after, &w)
	if err != nil {
		return nil, meta{}, err
	}
	return convertGateways(key, w), m, nil
}

// convertGateways reads mesh gateways. What their checks say is not asked, as
// with Consul's own proxies: only who calls one sees whether it can be called.
func convertGateways(key GatewaysKey, list []wireEndpoint) []connect.Endpoint {
	out := make([]connect.Endpoint, 0, len(list))
	for _, w := range list {
		if w.Service.Kind != "mesh-gateway" {
			continue
		}
		e := locate(EndpointsKey{Local: key.Local, LocalPartition: key.LocalPartition}, w)
		if e.Unusable == "" {
			e.Weight = 1
		}
		out = append(out, e)
	}
	sortEndpoints(out)
	return out
}

// openGateways reads the mesh gateways of a datacenter. While they are of one
// name, as they nearly always are, Consul says when they change; the names
// themselves are looked at again at each answer.
func (c *Client) openGateways(key GatewaysKey) watch.Fetch[[]connect.Endpoint] {
	g := gatewayReader{client: c, key: key, pace: pacer{every: again}}
	return g.fetch
}

// A gatewayReader is what openGateways remembers between answers.
type gatewayReader struct {
	client *Client
	key    GatewaysKey
	pace   pacer
	name   string // the only one, by the answer before
	known  bool
}

func (g *gatewayReader) fetch(ctx context.Context, after watch.Cursor) ([]connect.Endpoint, watch.Cursor, error) {
	after, err := g.pace.wait(ctx, after)
	if err != nil {
		return nil, watch.Cursor{}, err
	}
	if after.Index != 0 {
		list, m, err := g.client.gateways(ctx, g.key, g.name, after)
		if err != nil {
			return nil, watch.Cursor{}, err
		}
		names, err := g.client.gatewayNames(ctx, g.key)
		if err != nil || slices.Equal(names, []string{g.name}) {
			return list, watch.Cursor{Index: m.index}, err
		}
	}
	list, next, err := g.all(ctx)
	if reason, missing := absent(err, g.known); missing {
		if noPath(err) {
			reason = noPathTo(g.key.Datacenter)
		}
		return standIn(g.key.Datacenter, reason), g.pace.cursor(), nil
	}
	g.known = g.known || err == nil
	return list, next, err
}

// all reads the gateways of every name.
func (g *gatewayReader) all(ctx context.Context) ([]connect.Endpoint, watch.Cursor, error) {
	names, err := g.client.gatewayNames(ctx, g.key)
	if err != nil {
		return nil, watch.Cursor{}, err
	}
	var out []connect.Endpoint
	next := g.pace.cursor()
	for _, name := range names {
		list, m, err := g.client.gateways(ctx, g.key, name, watch.Cursor{})
		if err != nil {
			return nil, watch.Cursor{}, err
		}
		out = append(out, list...)
		if len(names) == 1 {
			g.name, next = name, watch.Cursor{Index: m.index}
		}
	}
	sortEndpoints(out)
	return out, next, nil
}
