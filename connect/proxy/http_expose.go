// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
)

// exposed is a listener without TLS and without intentions, for the paths that
// the service exposes on one port.
type exposed struct {
	paths []exposedPath
}

type exposedPath struct {
	path  string
	local bool // loopback and from only
	from  []netip.Addr
	app   *appPools
}

// exposeID names the listener of an exposed port among those of the upstreams.
func exposeID(port int) connect.UpstreamID {
	return connect.UpstreamID(exposePrefix + strconv.Itoa(port))
}

const exposePrefix = "expose:"

// exposePaths binds one listener for each exposed port.
func (c *compiler) exposePaths(rt *runtime, s connect.Service) {
	for _, e := range s.Expose {
		id := exposeID(e.ListenerPort)
		at := tcpBind(id, s.BindAddress, e.ListenerPort)
		if other, taken := rt.binds[at]; taken && other.upstream != id {
			rt.problems = append(rt.problems, fmt.Sprintf("exposed path %q: %s is bound by %s already", e.Path, at.address, listenerName(other.upstream)))
			continue
		}
		rt.binds[at] = bindOptions{upstream: id}
		x := rt.exposed[id]
		if x == nil {
			x = &exposed{}
			rt.exposed[id] = x
		}
		address := net.JoinHostPort(s.LocalAddress, strconv.Itoa(e.LocalPathPort))
		p := exposedPath{path: e.Path, local: e.LocalOnly, app: c.appPools(rt, "tcp", address, s)}
		if e.Protocol != connect.HTTP2 {
			p.app = &appPools{cluster: p.app.cluster, address: p.app.address, h1: p.app.h1}
		}
		for _, text := range e.AllowFrom {
			if a, err := netip.ParseAddr(text); err == nil {
				p.from = append(p.from, a.Unmap())
			}
		}
		x.paths = append(x.paths, p)
	}
}

// appPools makes or finds the pools of one address of the application.
func (c *compiler) appPools(rt *runtime, network, address string, s connect.Service) *appPools {
	key := balance.Key{Target: connect.TargetID(network + ":" + address)}
	made, dial := c.clusters.of(key), c.dial.toApp(network, address, s.LocalConnectTimeout)
	plan := rt.clusters[key]
	if plan == nil {
		limit := s.MaxInboundConnections
		if limit == 0 {
			limit = rt.maxConns
		}
		plan = &clusterPlan{limits: connect.Upstream{MaxConnections: limit, MaxPending: limit, MaxRequests: limit}}
		rt.clusters[key] = plan
		for _, h2 := range []bool{false, true} {
			plan.pools = append(plan.pools, wanted{poolKey{network, address, h2}, dial})
		}
	}
	return &appPools{
		cluster: made, address: address,
		h1: c.clusters.pool(made, poolKey{network, address, false}, dial),
		h2: c.clusters.pool(made, poolKey{network, address, true}, dial),
	}
}

// handleExposed serves a request of anybody to an exposed path. The path must
// match to the letter: nothing is normalised towards what is exposed.
func (p *Proxy) handleExposed(w http.ResponseWriter, r *http.Request) {
	p.exchange(w, r, (*exchange).exposed)
}

func (x *exchange) exposed() {
	at := x.rt.exposed[x.c.upstream]
	head := x.head()
	if !x.wellFormed(&head) {
		return
	}
	path := head.PathOnly()
	if at == nil || x.upgrade {
		x.refuse(noRoute())
		return
	}
	from, _ := x.c.addresses()
	i := slices.IndexFunc(at.paths, func(e exposedPath) bool { return e.path == path && e.admits(from.Addr()) })
	if i < 0 {
		x.refuse(noRoute())
		return
	}
	if !x.normal(connect.Normalization{KeepPath: true}, &head) {
		return
	}
	x.record.Path = head.Path
	x.timers.start(x.rt.appTimeout, x.rt.appIdle, x.end)
	out := head
	out.Header = maps.Clone(head.Header)
	delete(out.Header, xfcc)
	x.rt.policy.Strip(out.Header)
	x.toApp(at.paths[i].app, out)
}

func (e *exposedPath) admits(from netip.Addr) bool {
	from = from.Unmap()
	return !e.local || from.IsLoopback() || slices.Contains(e.from, from)
}
