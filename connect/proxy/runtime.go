// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/connect/mtls"
	"github.com/outrider-mesh/outrider/connect/policy"
	"github.com/outrider-mesh/outrider/connect/route"
)

// runtime is a snapshot in the form that connections use. It is immutable.
type runtime struct {
	version   uint64
	snapshot  *connect.Snapshot
	policy    *policy.Policy
	inbound   *tls.Config
	app       app
	maxConns  int
	upstreams map[connect.UpstreamID]*upstream
	binds     map[bind]bindOptions
	keys      map[balance.Key]bool
}

// app is how the local application is reached.
type app struct {
	network, address string
	timeout          time.Duration
}

// upstream is one compiled upstream. problem says why connections are refused
// for reason; legs are empty then.
type upstream struct {
	id       connect.UpstreamID
	maxConns int
	legs     []leg
	reason   connect.Reason
	problem  string
}

// leg is one target with what it takes to connect to it.
type leg struct {
	target  connect.Target
	tls     *tls.Config
	group   *balance.Group
	timeout time.Duration
}

// bind is where a listener is bound.
type bind struct {
	network, address string
	chosen           connect.UpstreamID // tells listeners apart whose port the system chooses
}

type bindOptions struct {
	upstream connect.UpstreamID // "" for the inbound listener
	mode     fs.FileMode        // of a unix socket; 0 leaves it
}

// compile interprets a snapshot. It starts nothing, dials nothing and reads no
// clock. An upstream that cannot be served is no error: its listener stays,
// closes what it accepts, and says why.
func compile(s *connect.Snapshot, registry *balance.Registry, limits Limits) (*runtime, error) {
	if s.Leaf == nil || s.Bundle == nil {
		return nil, errors.New("it has no leaf or no trust bundle")
	}
	rt := &runtime{
		version: s.Version, snapshot: s,
		policy:    policy.Compile(s.Intentions, s.DefaultAction, s.Bundle.TrustDomain),
		inbound:   mtls.Server(s.Leaf, s.Bundle, s.Mesh.Incoming),
		app:       compileApp(s.Service),
		maxConns:  orLimit(s.Service.MaxInboundConnections, limits.Inbound),
		upstreams: make(map[connect.UpstreamID]*upstream, len(s.Upstreams)),
		binds:     make(map[bind]bindOptions, len(s.Upstreams)+1),
		keys:      make(map[balance.Key]bool, len(s.Upstreams)),
	}
	rt.binds[tcpBind("", s.Service.BindAddress, s.Service.BindPort)] = bindOptions{}
	for _, u := range s.Upstreams {
		at := tcpBind(u.ID, u.BindAddress, u.BindPort)
		if u.BindSocketPath != "" {
			at = bind{network: "unix", address: u.BindSocketPath}
		}
		if other, taken := rt.binds[at]; taken && u.Problem == "" {
			u.Problem = fmt.Sprintf("%s is bound by %s already", at.address, listenerName(other.upstream))
		} else if !taken {
			rt.binds[at] = bindOptions{upstream: u.ID, mode: u.BindSocketMode}
		}
		rt.upstreams[u.ID] = rt.compileUpstream(u, registry, limits)
	}
	return rt, nil
}

func (rt *runtime) compileUpstream(u connect.Upstream, registry *balance.Registry, limits Limits) *upstream {
	out := &upstream{id: u.ID, maxConns: limits.Outbound}
	if u.MaxConnections >= 0 {
		out.maxConns = u.MaxConnections
	}
	if u.Problem != "" {
		out.reason, out.problem = connect.NoRoute, u.Problem
		return out
	}
	chain := rt.snapshot.Chains[u.ID]
	if chain == nil {
		out.reason, out.problem = connect.NotReady, "its discovery chain has not been heard of yet"
		return out
	}
	to, err := route.Compile(chain, u)
	if err != nil {
		out.reason, out.problem = connect.NoRoute, err.Error()
		return out
	}
	for i, l := range to.Legs {
		key := balance.Key{Upstream: u.ID, Target: l.Target.ID}
		rt.keys[key] = true
		out.legs = append(out.legs, leg{
			target:  l.Target,
			timeout: l.ConnectTimeout,
			tls:     mtls.Client(rt.snapshot.Leaf, rt.snapshot.Bundle, rt.snapshot.Mesh.Outgoing, l.Target.SNI, l.Target.Identity(rt.snapshot.Bundle.TrustDomain)),
			group: balance.NewGroup(registry, key, rt.snapshot.Endpoints[l.Target.ID], balance.Options{
				LoadBalancer: to.LoadBalancer, Health: u.PassiveHealth, Fallback: i < len(to.Legs)-1,
			}),
		})
	}
	return out
}

func compileApp(s connect.Service) app {
	if s.LocalSocketPath != "" {
		return app{"unix", s.LocalSocketPath, s.LocalConnectTimeout}
	}
	return app{"tcp", net.JoinHostPort(s.LocalAddress, strconv.Itoa(s.LocalPort)), s.LocalConnectTimeout}
}

func tcpBind(id connect.UpstreamID, host string, port int) bind {
	at := bind{network: "tcp", address: net.JoinHostPort(host, strconv.Itoa(port))}
	if port == 0 {
		at.chosen = id
	}
	return at
}

func orLimit(n, fallback int) int {
	if n > 0 {
		return n
	}
	return fallback
}

func listenerName(id connect.UpstreamID) string {
	if id == "" {
		return "the inbound listener"
	}
	return fmt.Sprintf("upstream %q", id)
}
