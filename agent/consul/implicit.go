// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

// Implicit is what intentions let a service call.
type Implicit struct {
	Services []connect.ServiceName // sorted
	// Destinations are addresses outside the mesh that terminating gateways lead
	// to (Consul, service-defaults: destination), sorted.
	Destinations []netip.AddrPort
	Notes        []string // what is left out, in words
}

// An ImplicitKey names the service whose upstreams are meant.
type ImplicitKey struct {
	Service, Namespace, Partition string
	Datacenter                    string // its own
}

// ServiceImplicitKey is the key of the implicit upstreams of s.
func ServiceImplicitKey(s connect.Service) ImplicitKey {
	return ImplicitKey{Service: s.Name, Namespace: s.Namespace, Partition: s.Partition, Datacenter: s.Datacenter}
}

// String names the key in logs and status.
func (k ImplicitKey) String() string { return "of " + inTenancy(k.Service, k.Namespace, k.Partition) }

// A wireTopology is Consul's own answer to what a service may call. It knows
// names that only config entries route, which the catalog does not list.
type wireTopology struct {
	Upstreams []struct {
		Name, Namespace, Partition, Datacenter string

		Intention struct{ Allowed, HasPermissions bool }
	}
	FilteredByACLs bool
}

// openImplicit reads what a service in transparent mode may call: with one
// query, that Consul answers anew when an intention or an upstream changes. An
// agent that does not answer it, or not us, is asked for the parts.
func (c *Client) openImplicit(key ImplicitKey) watch.Fetch[Implicit] {
	r := request{
		doing: fmt.Sprintf("read what intentions let %q call", inTenancy(key.Service, key.Namespace, key.Partition)),
		path:  "/v1/internal/ui/service-topology/" + key.Service, params: tenancy(key.Namespace, key.Partition),
		needs: fmt.Sprintf("service:read on %q", key.Service),
	}
	r.params.Set("kind", "")
	pace := pacer{every: again}
	return func(ctx context.Context, after watch.Cursor) (Implicit, watch.Cursor, error) {
		if err := segment("service name", key.Service); err != nil {
			return Implicit{}, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
		}
		after, err := pace.wait(ctx, after)
		if err != nil {
			return Implicit{}, watch.Cursor{}, err
		}
		var w wireTopology
		m, err := c.get(ctx, r, watch.Cursor{Index: after.Index}, &w)
		implicit, next := convertTopology(key, w), watch.Cursor{Index: m.index}
		switch status(err) {
		case http.StatusNotFound, http.StatusForbidden:
			implicit, err = c.implicitByParts(ctx, key)
			next = pace.cursor()
		}
		if err == nil {
			err = c.addDestinations(ctx, key, &implicit)
		}
		if err != nil {
			return Implicit{}, watch.Cursor{}, err
		}
		if next.Hash == "" {
			// Destinations have an index of their own, which is not waited on: as part
			// of the cursor they make a new value of the same topology.
			next.Hash = fmt.Sprint(implicit.Destinations, implicit.Notes)
		}
		return implicit, next, nil
	}
}

func convertTopology(key ImplicitKey, w wireTopology) Implicit {
	var names []connect.ServiceName
	for _, u := range w.Upstreams {
		// With permissions, it is for the destination to say which requests pass.
		if (u.Intention.Allowed || u.Intention.HasPermissions) && (u.Datacenter == "" || u.Datacenter == key.Datacenter) {
			names = append(names, connect.ServiceName{Name: u.Name, Namespace: orDefault(u.Namespace), Partition: strings.ToLower(orDefault(u.Partition))})
		}
	}
	i := bound(key, names)
	if w.FilteredByACLs {
		i.Notes = append(i.Notes, "Consul left out implicit upstreams that the token may not read: it needs service:read on them")
	}
	return i
}

// bound sorts what a service may call, without itself and without Consul's
// servers, and leaves out what is too much.
func bound(key ImplicitKey, names []connect.ServiceName) Implicit {
	own := connect.ServiceName{Name: key.Service, Namespace: orDefault(key.Namespace), Partition: strings.ToLower(orDefault(key.Partition))}
	names = slices.DeleteFunc(names, func(n connect.ServiceName) bool {
		return n == own || n.Name == "" || n.Name == "consul" || segment("service name", n.Name) != nil
	})
	slices.SortFunc(names, func(a, b connect.ServiceName) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Partition, b.Partition))
	})
	i := Implicit{Services: slices.Compact(names)}
	if left := len(i.Services) - maxImplicit; left > 0 {
		i.Notes = append(i.Notes, fmt.Sprintf("intentions let %q call %d services, of which the first %d are served in transparent mode; left out are %q and %d more: allow fewer, or name what is called as upstreams with a port",
			key.Service, len(i.Services), maxImplicit, i.Services[maxImplicit].Name, left-1))
		i.Services = i.Services[:maxImplicit:maxImplicit]
	}
	return i
}

// maxImplicit bounds the implicit upstreams of one sidecar, so that with those
// that have a listener there are as many as there are watches of one kind.
const maxImplicit = 960

// implicitByParts puts together from intentions and the catalog what a service
// may call. Services without instances are not in it.
func (c *Client) implicitByParts(ctx context.Context, key ImplicitKey) (Implicit, error) {
	params := tenancy(key.Namespace, key.Partition)
	params.Set("by", "source")
	params.Set("name", key.Service)
	doing := fmt.Sprintf("read intentions of what %q may call", key.Service)
	var rules map[string][]wireIntention
	m, err := c.get(ctx, request{doing: doing, path: "/v1/connect/intentions/match", params: params, needs: fmt.Sprintf("intentions:read on service %q", key.Service)}, watch.Cursor{}, &rules)
	if err != nil {
		return Implicit{}, err
	}
	policy, err := c.defaultPolicy(ctx, m.defaultPolicy)
	if err != nil {
		return Implicit{}, fmt.Errorf("%s: %w", doing, err)
	}
	var catalog map[string][]string
	if _, err := c.get(ctx, request{doing: "list the services of the catalog", path: "/v1/catalog/services", params: tenancy(key.Namespace, key.Partition), needs: "service:read on what is called"}, watch.Cursor{}, &catalog); err != nil {
		return Implicit{}, err
	}
	var names []connect.ServiceName
	for name := range catalog {
		if !strings.HasSuffix(name, "-sidecar-proxy") && mayCall(rules[key.Service], name, policy.action) {
			names = append(names, connect.ServiceName{Name: name, Namespace: orDefault(key.Namespace), Partition: strings.ToLower(orDefault(key.Partition))})
		}
	}
	return bound(key, names), nil
}

// mayCall judges a destination by the rule of highest precedence for it.
func mayCall(rules []wireIntention, name string, fallback connect.Action) bool {
	best, allowed := -1, fallback == connect.Allow
	for _, r := range rules {
		if (r.DestinationName == name || r.DestinationName == everyService) && r.Precedence > best {
			best, allowed = r.Precedence, r.Action == connect.Allow.String() || len(r.Permissions) > 0
		}
	}
	return allowed
}
