// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/connect/retry"
	"github.com/outrider-mesh/outrider/connect/wire"
)

// clusters are what HTTP keeps from one snapshot to the next: the pools of
// connections and the counts that limits are about.
type clusters struct {
	client *wire.Client

	mu      sync.Mutex
	byKey   map[balance.Key]*cluster
	budgets map[connect.UpstreamID]*retry.Budget
}

// cluster is one target of one upstream, or one address of the application.
type cluster struct {
	share       wire.Share
	requests    atomic.Int64
	maxRequests atomic.Int64

	mu    sync.Mutex
	pools map[poolKey]*wire.Pool
	proof string // of the latest plan
}

type poolKey struct {
	network, address string
	h2               bool
}

// poolIdle is how long a connection without a request is kept: shorter than any
// proxy of the mesh keeps its side, so that seldom a request meets its end.
const (
	poolIdle  = 50 * time.Second
	poolSweep = 10 * time.Second
)

// maxResponseHeader bounds the header of a response in bytes.
const maxResponseHeader = 256 << 10

func (cs *clusters) init(memory wire.Memory) {
	cs.client = wire.NewClient(maxResponseHeader, memory)
	cs.byKey = make(map[balance.Key]*cluster)
	cs.budgets = make(map[connect.UpstreamID]*retry.Budget)
}

// of returns the cluster of a key, which it makes if need be. A new one has the
// limits of where nothing is configured: requests may come to it before settle
// does.
func (cs *clusters) of(key balance.Key) *cluster {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c := cs.byKey[key]
	if c == nil {
		c = &cluster{pools: make(map[poolKey]*wire.Pool)}
		c.share.Limit(defaultLimit, defaultLimit)
		c.maxRequests.Store(defaultLimit)
		cs.byKey[key] = c
	}
	return c
}

func (cs *clusters) budget(id connect.UpstreamID) *retry.Budget {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	b := cs.budgets[id]
	if b == nil {
		b = retry.New(retry.DefaultLeast, retry.DefaultPercent)
		cs.budgets[id] = b
	}
	return b
}

// pool returns the pool of an address. A new one dials as told; that of one
// which is there is changed by settle, when the snapshot is in force.
func (cs *clusters) pool(c *cluster, key poolKey, dial wire.Dial) *wire.Pool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pools[key]
	if p == nil {
		p = cs.client.NewPool(&c.share, key.h2, dial)
		c.pools[key] = p
	}
	return p
}

// wanted is one pool that a runtime uses, and how it dials from now on.
type wanted struct {
	key  poolKey
	dial wire.Dial
}

// clusterPlan is what a runtime makes of a cluster once it is in force.
type clusterPlan struct {
	limits connect.Upstream // its Max… fields
	pools  []wanted
	proof  string // whom connections lead to: those to anybody else are not kept
}

// settle brings clusters and pools in line with a runtime about to be in force. With fresh,
// our leaf or the roots are new, and connections are replaced as they fall idle.
func (cs *clusters) settle(rt *runtime, fresh bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for key, c := range cs.byKey {
		plan, used := rt.clusters[key]
		if !used {
			c.close()
			delete(cs.byKey, key)
			continue
		}
		c.settle(plan, fresh)
	}
	for id := range cs.budgets {
		if rt.upstreams[id] == nil {
			delete(cs.budgets, id)
		}
	}
}

func (c *cluster) settle(plan *clusterPlan, fresh bool) {
	c.share.Limit(orDefaultLimit(plan.limits.MaxConnections), orDefaultLimit(plan.limits.MaxPending))
	c.maxRequests.Store(int64(orDefaultLimit(plan.limits.MaxRequests)))
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh = fresh || c.proof != plan.proof
	c.proof = plan.proof
	keep := make(map[poolKey]bool, len(plan.pools))
	for _, w := range plan.pools {
		keep[w.key] = true
		c.pools[w.key].Renew(w.dial, fresh)
	}
	for key, pool := range c.pools {
		if !keep[key] {
			pool.Retire()
			delete(c.pools, key)
		}
	}
}

// defaultLimit is Envoy's of connections, of pending and of concurrent requests
// (Consul, upstream configuration: limits).
const defaultLimit = 1024

func orDefaultLimit(n int) int {
	if n < 0 {
		return defaultLimit
	}
	return n
}

// enter claims one of the concurrent requests of the cluster.
func (c *cluster) enter() bool {
	if c.requests.Add(1) <= c.maxRequests.Load() {
		return true
	}
	c.requests.Add(-1)
	return false
}

func (c *cluster) leave() { c.requests.Add(-1) }

// close ends a cluster that no snapshot has any more: gently, requests go on.
func (c *cluster) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, pool := range c.pools {
		pool.Retire()
		delete(c.pools, key)
	}
}

func (cs *clusters) each(f func(*wire.Pool)) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	for _, c := range cs.byKey {
		c.mu.Lock()
		for _, pool := range c.pools {
			f(pool)
		}
		c.mu.Unlock()
	}
}

func (cs *clusters) sweep(now time.Time) {
	cs.each(func(p *wire.Pool) { p.Sweep(now.Add(-poolIdle)) })
}

func (cs *clusters) cut() { cs.each((*wire.Pool).Close) }
