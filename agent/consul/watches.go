// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

// Intentions is who may call a service.
type Intentions struct {
	Rules       []connect.Intention // in the order of evaluation
	Default     connect.Action      // when no rule matches
	DefaultFrom string              // how Default was learnt, for people
}

// Watches are the watches of one Consul agent, shared by all sidecars of the
// process: Consul's agent allows 200 HTTP connections per client address unless
// configured otherwise, and each blocking query holds one. Values must not be
// written to.
type Watches struct {
	Registrations *watch.Set[string, Registration] // by ID of the sidecar
	Roots         *watch.Set[struct{}, *connect.TrustBundle]
	Intentions    *watch.Set[IntentionsKey, Intentions]
	Mesh          *watch.Set[struct{}, connect.Mesh]
	Chains        *watch.Set[ChainKey, *connect.Chain]
	Endpoints     *watch.Set[EndpointsKey, connect.Instances]
	Gateways      *watch.Set[GatewaysKey, []connect.Endpoint]
	Peers         *watch.Set[PeerKey, connect.Peer]
	Implicit      *watch.Set[ImplicitKey, Implicit]          // upstreams in transparent mode
	JWTProviders  *watch.Set[struct{}, map[string]JWTSource] // all of the mesh, by name
	Defaults      *watch.Set[ServiceKey, ServiceDefaults]    // of local services
}

// NewWatches returns watches that read through c; nothing is read before Run.
func NewWatches(c *Client, logger hclog.Logger) *Watches {
	opts := c.pace
	opts.Logger = orNull(logger).Named("watch")
	return &Watches{
		Registrations: watch.NewSet("registration", c.openRegistration, same[Registration], opts),
		Roots:         watch.NewSet("CA roots", c.openRoots, equalBundles, opts),
		Intentions:    watch.NewSet("intentions", c.openIntentions, same[Intentions], opts),
		Mesh:          watch.NewSet("mesh config entry", c.openMesh, same[connect.Mesh], opts),
		Chains:        watch.NewSet("discovery chain", c.openChain, same[*connect.Chain], opts),
		Endpoints:     watch.NewSet("endpoints", c.openEndpoints, same[connect.Instances], opts),
		Gateways:      watch.NewSet("mesh gateways", c.openGateways, slices.Equal[[]connect.Endpoint], opts),
		Peers:         watch.NewSet("peer", c.openPeer, equalPeers, opts),
		Implicit:      watch.NewSet("implicit upstreams", c.openImplicit, same[Implicit], opts),
		JWTProviders:  watch.NewSet("JWT providers", c.openJWTProviders, same[map[string]JWTSource], opts),
		Defaults:      watch.NewSet("service-defaults", c.openDefaults, same[ServiceDefaults], opts),
	}
}

func same[V any](a, b V) bool { return reflect.DeepEqual(a, b) }

func orNull(logger hclog.Logger) hclog.Logger {
	if logger == nil {
		return hclog.NewNullLogger()
	}
	return logger
}

// Run keeps the watches running until ctx ends, then returns nil. It is an
// error to run them twice at once.
func (w *Watches) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{
		w.Registrations.Run, w.Roots.Run, w.Intentions.Run, w.Mesh.Run, w.Chains.Run, w.Endpoints.Run,
		w.Gateways.Run, w.Peers.Run, w.Implicit.Run, w.JWTProviders.Run, w.Defaults.Run,
	} {
		group.Go(func() error { return run(ctx) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("run the watches of Consul: %w", err)
	}
	return nil
}

// Status returns the state of every watch.
func (w *Watches) Status() []watch.Status {
	return slices.Concat(w.Registrations.Status(), w.Roots.Status(), w.Intentions.Status(),
		w.Mesh.Status(), w.Chains.Status(), w.Endpoints.Status(), w.Gateways.Status(), w.Peers.Status(), w.Implicit.Status(), w.JWTProviders.Status(), w.Defaults.Status())
}

func (c *Client) openRegistration(proxyID string) watch.Fetch[Registration] {
	return func(ctx context.Context, after watch.Cursor) (Registration, watch.Cursor, error) {
		w, m, err := c.service(ctx, proxyID, after)
		if err != nil {
			return Registration{}, watch.Cursor{}, err
		}
		r, err := convertRegistration(w, c.cfg.Datacenter)
		if err != nil {
			return Registration{}, watch.Cursor{}, err
		}
		return r, watch.Cursor{Hash: m.hash}, nil
	}
}

func (c *Client) openRoots(struct{}) watch.Fetch[*connect.TrustBundle] {
	return func(ctx context.Context, after watch.Cursor) (*connect.TrustBundle, watch.Cursor, error) {
		var w wireRoots
		m, err := c.get(ctx, request{doing: "read the CA roots", path: "/v1/agent/connect/ca/roots", needs: "of any kind"}, after, &w)
		if err != nil {
			return nil, watch.Cursor{}, err
		}
		bundle, err := convertRoots(w)
		if err != nil {
			return nil, watch.Cursor{}, fmt.Errorf("read the CA roots: %w", err)
		}
		return bundle, watch.Cursor{Index: m.index}, nil
	}
}

func (c *Client) openIntentions(key IntentionsKey) watch.Fetch[Intentions] {
	doing := fmt.Sprintf("read intentions for %q", key)
	params := tenancy(key.Namespace, key.Partition)
	params.Set("by", "destination")
	params.Set("name", key.Service)
	r := request{doing: doing, path: "/v1/connect/intentions/match", params: params, needs: fmt.Sprintf("intentions:read on service %q", key.Service)}
	return func(ctx context.Context, after watch.Cursor) (Intentions, watch.Cursor, error) {
		var w map[string][]wireIntention
		m, err := c.get(ctx, r, watch.Cursor{Index: after.Index}, &w)
		if err != nil {
			return Intentions{}, watch.Cursor{}, err
		}
		if m.filtered {
			// A rule that we may not see may be the one that denies.
			return Intentions{}, watch.Cursor{}, fmt.Errorf("%s: Consul left some out that the token may not read: it needs %s", doing, r.needs)
		}
		list, ok := w[key.Service]
		if !ok {
			return Intentions{}, watch.Cursor{}, fmt.Errorf("%s: the answer does not speak of the service", doing)
		}
		rules, err := convertIntentions(key.Service, list)
		if err != nil {
			return Intentions{}, watch.Cursor{}, fmt.Errorf("%s: %w", doing, err)
		}
		v, err := c.defaultPolicy(ctx, m.defaultPolicy)
		if err != nil {
			return Intentions{}, watch.Cursor{}, fmt.Errorf("%s: %w", doing, err)
		}
		// The policy has no index of its own; as part of the cursor it makes a
		// new value of the same rules.
		return Intentions{Rules: rules, Default: v.action, DefaultFrom: v.from}, watch.Cursor{Index: m.index, Hash: v.from + v.action.String()}, nil
	}
}

func (c *Client) openChain(key ChainKey) watch.Fetch[*connect.Chain] {
	switch {
	case key.Query:
		return constant(queryChain(key))
	case key.Peer != "":
		return constant(peerChain(key))
	}
	doing := fmt.Sprintf("read the discovery chain of %q", key)
	params := tenancy(key.Namespace, key.Partition)
	if key.Datacenter != "" {
		params.Set("compile-dc", key.Datacenter)
	}
	r := request{doing: doing, path: "/v1/discovery-chain/" + key.Service, params: params, needs: fmt.Sprintf("service:read on %q", key.Service)}
	pace := c.unused.pacer(key.Unused)
	return func(ctx context.Context, after watch.Cursor) (*connect.Chain, watch.Cursor, error) {
		if err := segment("service name", key.Service); err != nil {
			return nil, watch.Cursor{}, fmt.Errorf("%s: %w", doing, err)
		}
		var w struct{ Chain *wireChain }
		m, err := c.getPaced(ctx, r, after, &w, pace)
		if err != nil {
			return nil, watch.Cursor{}, err
		}
		chain, err := convertChain(w.Chain, key.Service, key.MeshGateway)
		if err != nil {
			return nil, watch.Cursor{}, fmt.Errorf("%s: %w", doing, err)
		}
		if pace != nil {
			return chain, pace.cursor(), nil
		}
		return chain, watch.Cursor{Index: m.index}, nil
	}
}

// service reads one service of the agent, blocking by hash.
func (c *Client) service(ctx context.Context, id string, after watch.Cursor) (wireService, meta, error) {
	doing := fmt.Sprintf("read the registration of %q", id)
	if err := segment("service ID", id); err != nil {
		return wireService{}, meta{}, fmt.Errorf("%s: %w", doing, err)
	}
	var w wireService
	m, err := c.get(ctx, request{doing: doing, path: "/v1/agent/service/" + id, params: url.Values{}, needs: fmt.Sprintf("service:read on the service of %q", id)}, after, &w)
	switch {
	case status(err) == http.StatusNotFound:
		return w, m, fmt.Errorf("%w: %w at the agent %s: check the ID, and that whoever registers the service does so there, with a sidecar", err, errNotRegistered, c.where())
	case err != nil:
		return w, m, err
	case w.ID != id:
		return w, m, fmt.Errorf("%s: the answer is about %q", doing, w.ID)
	}
	return w, m, nil
}

var errNotRegistered = errors.New("it is not registered")
