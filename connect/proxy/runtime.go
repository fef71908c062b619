// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/balance"
	"github.com/outrider-mesh/outrider/connect/measure"
	"github.com/outrider-mesh/outrider/connect/mtls"
	"github.com/outrider-mesh/outrider/connect/policy"
	"github.com/outrider-mesh/outrider/connect/route"
	"github.com/outrider-mesh/outrider/connect/wire"
)

// runtime is a snapshot in the form that connections use. It is immutable.
type runtime struct {
	version   uint64
	snapshot  *connect.Snapshot
	self      connect.Identity // ours
	policy    *policy.Policy
	rules     *measure.Rules
	inbound   *tls.Config
	callers   mtls.Callers // whom inbound lets prove themselves
	app       app
	maxConns  int
	upstreams map[connect.UpstreamID]*upstream
	binds     map[bind]bindOptions
	keys      map[balance.Key]bool

	transparent *transparent // nil unless in transparent mode

	http       *httpService // nil for a service of TCP
	exposed    map[connect.UpstreamID]*exposed
	appTimeout time.Duration // of a response of the application; 0 means none
	appIdle    time.Duration // of a stream without a byte either way; 0 means none
	maxHeader  int           // bytes of a request's header
	clusters   map[balance.Key]*clusterPlan
	// problems are what of the snapshot is not in force, in words.
	problems []string
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
	measure  *measure.Upstream
	maxConns int
	legs     []leg         // of a TCP upstream
	http     *httpUpstream // nil for a TCP upstream
	reason   connect.Reason
	problem  string
}

// leg is one target with what it takes to connect to it.
type leg struct {
	target    connect.Target
	endpoints []connect.Endpoint // usable or not
	through   string             // what they are if not instances, in words
	tls       *tls.Config
	proved    connect.Identity // whom an endpoint has proved to be when TLS is up; zero where that may be several
	group     *balance.Group
	timeout   time.Duration
	measure   *measure.Target

	// HTTP only.
	cluster *cluster
	pools   map[*balance.State]*wire.Pool // by endpoint of the group; never written to
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

// dialler is how the proxy makes connections; compile only puts it in place.
type dialler interface {
	toEndpoint(address string, cfg *tls.Config, timeout time.Duration) wire.Dial
	toApp(network, address string, timeout time.Duration) wire.Dial
}

// compiler turns one snapshot into a runtime. What it takes from registry and
// clusters outlives snapshots.
type compiler struct {
	registry *balance.Registry
	clusters *clusters
	dial     dialler
	limits   Limits
	measure  *measure.Set
	before   *runtime // nil for the first
}

// compile interprets a snapshot. It starts nothing, dials nothing and reads no
// clock. An upstream that cannot be served is no error: its listener stays,
// refuses what it accepts, and says why.
func (c *compiler) compile(s *connect.Snapshot) (*runtime, error) {
	if s.Leaf == nil || s.Bundle == nil {
		return nil, errors.New("it has no leaf or no trust bundle")
	}
	who := callers(s)
	rt := &runtime{
		version: s.Version, snapshot: s,
		policy:     c.policy(s),
		self:       s.Service.Identity(s.Bundle.TrustDomain),
		rules:      c.measure.Rules(s.Intentions),
		callers:    who,
		inbound:    mtls.Server(s.Leaf, who, s.Mesh.Incoming, offered(s.Service.Protocol)...),
		app:        compileApp(s.Service),
		maxConns:   orLimit(s.Service.MaxInboundConnections, c.limits.Inbound),
		upstreams:  make(map[connect.UpstreamID]*upstream, len(s.Upstreams)),
		binds:      make(map[bind]bindOptions, len(s.Upstreams)+1),
		keys:       make(map[balance.Key]bool, len(s.Upstreams)),
		exposed:    make(map[connect.UpstreamID]*exposed),
		clusters:   make(map[balance.Key]*clusterPlan),
		appTimeout: orTimeout(s.Service.LocalRequestTimeout, defaultResponse),
		appIdle:    orTimeout(s.Service.LocalIdleTimeout, defaultStreamIdle),
		maxHeader:  orLimit(s.Service.MaxRequestHeaders, defaultHeader),
	}
	rt.problems = append(rt.problems, rt.policy.Problems()...)
	rt.binds[tcpBind("", s.Service.BindAddress, s.Service.BindPort)] = bindOptions{}
	for _, u := range s.Upstreams {
		if u.Implicit {
			rt.upstreams[u.ID] = c.upstream(rt, u)
			continue
		}
		at := tcpBind(u.ID, u.BindAddress, u.BindPort)
		if u.BindSocketPath != "" {
			at = bind{network: "unix", address: u.BindSocketPath}
		}
		if other, taken := rt.binds[at]; taken && u.Problem == "" {
			u.Problem = fmt.Sprintf("%s is bound by %s already", at.address, listenerName(other.upstream))
		} else if !taken {
			rt.binds[at] = bindOptions{upstream: u.ID, mode: u.BindSocketMode}
		}
		rt.upstreams[u.ID] = c.upstream(rt, u)
	}
	c.service(rt, s)
	c.transparent(rt, s)
	return rt, nil
}

// callers are those who may prove themselves: our own mesh, and the services of
// peers that intentions name. Mesh gateways only carry requests of those.
func callers(s *connect.Snapshot) mtls.Callers {
	c := mtls.Callers{Own: s.Bundle}
	named := make(map[string]bool)
	for i := range s.Intentions {
		name := s.Intentions[i].Source.Peer
		if p, known := s.Peers[name]; known && name != "" && !named[name] {
			named[name] = true
			c.Peers = append(c.Peers, p)
		}
	}
	c.Gateways = s.Service.Protocol.Speaks() && len(c.Peers) > 0
	return c
}

// policy keeps the one before while nothing that it is made of has changed: it
// remembers the tokens that it has verified.
func (c *compiler) policy(s *connect.Snapshot) *policy.Policy {
	if c.before != nil {
		old := c.before.snapshot
		if old.DefaultAction == s.DefaultAction && old.Bundle.TrustDomain == s.Bundle.TrustDomain && old.Service.Protocol == s.Service.Protocol &&
			sameSlice(old.Intentions, s.Intentions) && reflect.DeepEqual(old.JWTProviders, s.JWTProviders) && maps.Equal(old.Peers, s.Peers) {
			return c.before.policy
		}
	}
	return policy.Compile(policy.Settings{
		Intentions: s.Intentions, Default: s.DefaultAction, TrustDomain: s.Bundle.TrustDomain,
		Protocol: s.Service.Protocol, Providers: s.JWTProviders, Peers: s.Peers,
	})
}

// sameSlice reports whether two slices are one: snapshots share what has not
// changed, and nobody writes to it.
func sameSlice(a, b []connect.Intention) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// Envoy's times and sizes where nothing is configured (Consul, service-defaults:
// local_request_timeout_ms, max_request_headers_kb; Envoy: stream idle timeout).
const (
	defaultResponse   = 15 * time.Second
	defaultStreamIdle = 5 * time.Minute
	defaultHeader     = 60 << 10
)

func orTimeout(d, fallback time.Duration) time.Duration {
	switch {
	case d > 0:
		return d
	case d < 0:
		return 0
	}
	return fallback
}

// offered is the ALPN of a protocol, ours first (Consul's sidecars: http/1.1 for
// http, h2 for http2 and grpc, none for tcp).
func offered(p connect.Protocol) []string {
	switch p {
	case connect.HTTP:
		return []string{"http/1.1"}
	case connect.HTTP2, connect.GRPC:
		return []string{"h2", "http/1.1"}
	}
	return nil
}

// service compiles the local service's HTTP side.
func (c *compiler) service(rt *runtime, s *connect.Snapshot) {
	c.exposePaths(rt, s.Service)
	if !s.Service.Protocol.Speaks() {
		return
	}
	var before *shaping
	if c.before != nil && c.before.http != nil {
		before = c.before.http.shaping
	}
	shaping, err := compileShaping(s.Service, before)
	if err != nil {
		// What is not in force must not hold back the rest of the snapshot.
		rt.problems = append(rt.problems, err.Error())
	}
	rt.http = &httpService{
		protocol: s.Service.Protocol, normalize: s.Mesh.Normalization, sanitize: s.Mesh.SanitizeXFCC,
		identity: s.Leaf.Identity.String(), shaping: shaping,
		app: c.appPools(rt, rt.app.network, rt.app.address, s.Service),
	}
	if s.Service.Protocol == connect.HTTP {
		rt.http.app = &appPools{cluster: rt.http.app.cluster, address: rt.http.app.address, h1: rt.http.app.h1}
	}
}

func (c *compiler) upstream(rt *runtime, u connect.Upstream) *upstream {
	out := &upstream{id: u.ID, measure: c.measure.Upstream(u.ID), maxConns: c.limits.Outbound}
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
	protocol := chain.Protocol
	if u.Protocol != "" {
		protocol = u.Protocol
	}
	if protocol.Speaks() {
		// Limits of HTTP are about connections to endpoints, not from the
		// application.
		out.maxConns = c.limits.Outbound
		c.httpUpstream(rt, out, chain, u, protocol != connect.HTTP)
		return out
	}
	to, err := route.Compile(chain, u)
	if err != nil {
		out.reason, out.problem = connect.NoRoute, err.Error()
		return out
	}
	for i, l := range to.Legs {
		out.legs = append(out.legs, c.leg(rt, u, l, to.LoadBalancer, u.Balance, i < len(to.Legs)-1))
	}
	return out
}

func (c *compiler) httpUpstream(rt *runtime, out *upstream, chain *connect.Chain, u connect.Upstream, h2 bool) {
	table, err := route.CompileHTTP(chain, u)
	if err != nil {
		out.reason, out.problem = connect.NoRoute, err.Error()
		return
	}
	for _, w := range table.Warnings() {
		rt.problems = append(rt.problems, fmt.Sprintf("upstream %q: %s", u.ID, w))
	}
	out.http = &httpUpstream{table: table, h2: h2, budget: c.clusters.budget(u.ID)}
	for _, to := range table.Destinations() {
		d := destination{hash: to.LoadBalancer.Hash}
		if p := to.LoadBalancer.Policy; p != "ring_hash" && p != "maglev" {
			d.hash = nil
		}
		for i, l := range to.Legs {
			l := c.leg(rt, u, l, to.LoadBalancer, cmp.Or(u.Balance, "peak_ewma"), i < len(to.Legs)-1)
			c.pool(rt, &l, u, h2)
			d.legs = append(d.legs, l)
		}
		out.http.destinations = append(out.http.destinations, d)
	}
}

func (c *compiler) leg(rt *runtime, u connect.Upstream, l route.Leg, lb connect.LoadBalancer, unnamed string, fallback bool) leg {
	key := balance.Key{Upstream: u.ID, Target: l.Target.ID}
	rt.keys[key] = true
	s := rt.snapshot
	endpoints, through := s.Reach(l.Target)
	return leg{
		target:    l.Target,
		endpoints: endpoints,
		through:   through,
		timeout:   l.ConnectTimeout,
		proved:    onlyIdentity(l.Target, s.Bundle.TrustDomain),
		measure:   c.measure.Upstream(u.ID).Target(l.Target.ID),
		tls:       presenting(s.Leaf, mtls.Client(s.Leaf, s.BundleOf(l.Target), s.Mesh.Outgoing, l.Target.SNI, l.Target.Accepts(s.Bundle.TrustDomain))),
		group: balance.NewGroup(c.registry, key, endpoints, balance.Options{
			LoadBalancer: lb, Default: unnamed, Health: u.PassiveHealth, Fallback: fallback,
		}),
	}
}

// pool gives every endpoint of a leg its pool.
func (c *compiler) pool(rt *runtime, l *leg, u connect.Upstream, h2 bool) {
	l.tls.NextProtos = []string{"http/1.1"}
	if h2 {
		l.tls.NextProtos = []string{"h2"}
	}
	key := balance.Key{Upstream: u.ID, Target: l.target.ID}
	l.cluster = c.clusters.of(key)
	plan := rt.clusters[key]
	if plan == nil {
		plan = &clusterPlan{limits: u, proof: l.target.SNI + " " + strings.Join(l.target.Identities, " ")}
		rt.clusters[key] = plan
	}
	entries := l.group.Entries()
	l.pools = make(map[*balance.State]*wire.Pool, len(entries))
	for i := range entries {
		address := entries[i].Endpoint.HostPort()
		w := wanted{poolKey{"tcp", address, h2}, c.dial.toEndpoint(address, l.tls, l.timeout)}
		plan.pools = append(plan.pools, w)
		l.pools[entries[i].State] = c.clusters.pool(l.cluster, w.key, w.dial)
	}
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
	if id == transparentID {
		return "the listener of transparent mode"
	}
	return fmt.Sprintf("upstream %q", id)
}
