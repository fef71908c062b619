// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

const (
	// again is how long to wait before something is asked for again that there
	// is no news to wait for.
	again = 10 * time.Second
	// queryPace is the pace of prepared queries, which Consul cannot be asked to
	// wait with: that of its own proxies.
	queryPace = 30 * time.Second
	// paused begins the cursor of an answer that is not waited on.
	paused = "asked again later: "
)

// A pacer makes cursors for answers that cannot be waited on. One goroutine at a
// time uses it, as it does a Fetch.
type pacer struct {
	every time.Duration
	count int
}

// wait waits where the answer before was such a one, and returns the cursor to
// ask with.
func (p *pacer) wait(ctx context.Context, after watch.Cursor) (watch.Cursor, error) {
	if !strings.HasPrefix(after.Hash, paused) {
		return after, nil
	}
	timer := time.NewTimer(p.every)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return watch.Cursor{}, ctx.Err()
	case <-timer.C:
		return watch.Cursor{}, nil
	}
}

// cursor is another one each time: whether there is news is told by the values.
func (p *pacer) cursor() watch.Cursor {
	p.count++
	return watch.Cursor{Hash: paused + strconv.Itoa(p.count)}
}

// constant is the watch of something that never changes.
func constant[V any](v V) watch.Fetch[V] {
	return func(ctx context.Context, after watch.Cursor) (V, watch.Cursor, error) {
		if after != (watch.Cursor{}) {
			<-ctx.Done()
			var none V
			return none, watch.Cursor{}, ctx.Err()
		}
		return v, watch.Cursor{Index: 1}, nil
	}
}

// openEndpoints reads the instances of a target. One of which nothing has been
// heard and Consul says that it cannot be asked about must not keep the whole
// sidecar waiting, a failover target say: then the answer is why.
func (c *Client) openEndpoints(key EndpointsKey) watch.Fetch[connect.Instances] {
	if key.Query {
		return c.openQuery(key)
	}
	r := request{
		doing: fmt.Sprintf("read the endpoints of %q", key), path: "/v1/health/connect/" + key.Service, params: tenancy(key.Namespace, key.Partition),
		needs: fmt.Sprintf("service:read on %q and node:read on its nodes", key.Service),
	}
	if key.Peer != "" {
		r.params = tenancy("", key.LocalPartition) // the importing side's own
		r.params.Set("peer", key.Peer)
	} else {
		r.params.Set("dc", key.Datacenter)
	}
	if key.Filter != "" {
		r.params.Set("filter", key.Filter)
	}
	known, pace, slow := false, pacer{every: again}, c.unused.pacer(key.Unused)
	return func(ctx context.Context, after watch.Cursor) (connect.Instances, watch.Cursor, error) {
		if err := segment("service name", key.Service); err != nil {
			return connect.Instances{}, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
		}
		after, err := pace.wait(ctx, after)
		if err != nil {
			return connect.Instances{}, watch.Cursor{}, err
		}
		var w []wireEndpoint
		m, err := c.getPaced(ctx, r, after, &w, slow)
		if err != nil && !known && noPath(err) {
			return connect.Instances{Endpoints: standIn(key.Datacenter, noPathTo(key.Datacenter))}, pace.cursor(), nil
		}
		if err != nil {
			return connect.Instances{}, watch.Cursor{}, err
		}
		known = true
		if slow != nil {
			return convertInstances(key, w), slow.cursor(), nil
		}
		return convertInstances(key, w), watch.Cursor{Index: m.index}, nil
	}
}

func noPath(err error) bool { return strings.Contains(err.Error(), "No path to datacenter") }

func noPathTo(datacenter string) string {
	return fmt.Sprintf("Consul has no path to datacenter %q", datacenter)
}

// standIn is an endpoint list that only says why there is none.
func standIn(id, reason string) []connect.Endpoint {
	return []connect.Endpoint{{ID: id, Unusable: reason}}
}

// openQuery runs a prepared query again and again (Consul, prepared queries).
func (c *Client) openQuery(key EndpointsKey) watch.Fetch[connect.Instances] {
	r := request{
		doing: fmt.Sprintf("run the prepared query %q", key.Service), path: "/v1/query/" + key.Service + "/execute", params: tenancy("", ""),
		needs: fmt.Sprintf("query:read on %q, service:read on what it finds and node:read on the nodes", key.Service),
	}
	r.params.Set("connect", "true")
	r.params.Set("dc", either(key.Datacenter, key.Local))
	known, pace := false, pacer{every: again}
	return func(ctx context.Context, after watch.Cursor) (connect.Instances, watch.Cursor, error) {
		if err := segment("name of the prepared query", key.Service); err != nil {
			return connect.Instances{}, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
		}
		if _, err := pace.wait(ctx, after); err != nil {
			return connect.Instances{}, watch.Cursor{}, err
		}
		domain, err := c.ownTrustDomain(ctx)
		if err != nil {
			return connect.Instances{}, watch.Cursor{}, fmt.Errorf("%s: %w", r.doing, err)
		}
		var w wireQuery
		_, err = c.get(ctx, r, watch.Cursor{}, &w)
		if reason, missing := absent(err, known); missing {
			return connect.Instances{Endpoints: standIn(key.Service, reason)}, pace.cursor(), nil
		}
		if err != nil {
			return connect.Instances{}, watch.Cursor{}, err
		}
		known = true
		if pace.every = queryPace; len(w.Nodes) == 0 {
			pace.every = again // nothing is served meanwhile
		}
		return convertFound(key, w, domain), pace.cursor(), nil
	}
}

// absent says why there is nothing to serve where an error is Consul's answer,
// and not the lack of one: that something does not exist, at any time, or
// anything else when it could never be read.
func absent(err error, known bool) (reason string, yes bool) {
	code := status(err)
	switch {
	case err == nil || code == 0:
		return "", false
	case code == 404 || !known:
		return err.Error(), true
	}
	return "", false
}

// ownTrustDomain reads what SPIFFE IDs of our own cluster begin with.
func (c *Client) ownTrustDomain(ctx context.Context) (string, error) {
	bundle, _, err := c.openRoots(struct{}{})(ctx, watch.Cursor{})
	if err != nil {
		return "", err
	}
	return bundle.TrustDomain, nil
}

// maxIdentities bounds the SPIFFE IDs of which one will do for a target.
const maxIdentities = 256

var errManyIdentities = errors.New("its instances are of too many identities")
