// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"slices"
	"strings"
	"time"
)

const defaultConnectTimeout = 5 * time.Second

// A chainView is a compiled discovery chain as Consul shows it.
type chainView struct {
	ServiceName       string
	Namespace         string
	Partition         string
	Datacenter        string
	CustomizationHash string `json:",omitempty"`
	Default           bool   `json:",omitempty"`
	Protocol          string
	StartNode         string
	Nodes             map[string]nodeView
	Targets           map[string]targetView
	AutoVirtualIPs    []string
	ManualVirtualIPs  []string
}

type nodeView struct {
	Type         string
	Name         string
	Routes       []routeView   `json:",omitempty"`
	Splits       []splitView   `json:",omitempty"`
	Resolver     *resolverView `json:",omitempty"`
	LoadBalancer *loadBalancer `json:",omitempty"`
}

type resolverView struct {
	ConnectTimeout duration
	RequestTimeout span `json:",omitempty"`
	Default        bool `json:",omitempty"`
	Target         string
	Failover       *failoverView `json:",omitempty"`
}

type failoverView struct{ Targets []string }

type targetView struct {
	ConnectTimeout   duration
	ID               string
	Service          string
	ServiceSubset    string `json:",omitempty"`
	Namespace        string
	Partition        string
	Datacenter       string
	MeshGateway      meshGateway
	Subset           subset
	TransparentProxy transparentProxy
	External         bool `json:",omitempty"`
	SNI              string
	Name             string
}

// chainOptions are what a chain is compiled for. The overrides are those that
// a proxy may send with its question.
type chainOptions struct {
	datacenter  string
	trustDomain string
	overrides   chainOverrides
}

type chainOverrides struct {
	OverrideMeshGateway    meshGateway
	OverrideProtocol       string
	OverrideConnectTimeout duration
}

func (s *Server) getChain(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("service")
	opts := chainOptions{datacenter: s.opts.Datacenter, trustDomain: s.opts.TrustDomain}
	if dc := r.URL.Query().Get("compile-dc"); dc != "" {
		opts.datacenter = dc
	}
	if r.Method == http.MethodPost {
		body, err := receive(w, r)
		if err != nil {
			return err
		}
		if err := decode(body, &opts.overrides); err != nil {
			return fail(http.StatusBadRequest, "Request decoding failed: %v", err)
		}
	}
	return s.block(w, r, func(st *state) (answer, error) {
		chain, err := compileChain(st.entries, name, opts)
		if err != nil {
			return answer{}, err
		}
		if ip := st.vip(name); ip != "" {
			chain.AutoVirtualIPs, chain.ManualVirtualIPs = []string{ip}, []string{}
		}
		return answer{index: st.at(configTopic, vipTopic), value: struct{ Chain *chainView }{chain}}, nil
	})
}

// A place is where a chain may lead: a service, a subset of it, elsewhere.
type place struct{ service, subset, datacenter string }

func (p place) id() string {
	id := p.service + ".default.default." + p.datacenter
	if p.subset != "" {
		id = p.subset + "." + id
	}
	return id
}

func (p place) name(trustDomain string) string {
	name := p.service + ".default." + p.datacenter + ".internal." + trustDomain
	if p.subset != "" {
		name = p.subset + "." + name
	}
	return name
}

// A compiler follows the resolvers of one chain.
type compiler struct {
	entries entries
	opts    chainOptions
	chain   *chainView
}

// compileChain is pure: it says where calls to a service go, as Consul's
// compiled discovery chains do: [router] → [splitter] → resolver, with redirects
// and default subsets already followed, splitters that lead to splitters made
// one, and failover one level deep.
func compileChain(e entries, service string, opts chainOptions) (*chainView, error) {
	c := &compiler{entries: e, opts: opts, chain: &chainView{
		ServiceName: service, Namespace: "default", Partition: "default", Datacenter: opts.datacenter,
		Protocol: first(opts.overrides.OverrideProtocol, e.protocol(service)),
		Nodes:    make(map[string]nodeView), Targets: make(map[string]targetView),
	}}
	if opts.overrides != (chainOverrides{}) {
		h := fnv.New32a()
		_, _ = fmt.Fprint(h, opts.overrides) // never fails
		c.chain.CustomizationHash = fmt.Sprintf("%08x", h.Sum32())
	}
	start, err := c.start(service)
	if err != nil {
		return nil, err
	}
	c.chain.StartNode = start
	asked := place{service: service, datacenter: opts.datacenter}
	r := c.chain.Nodes[start].Resolver
	c.chain.Default = r != nil && r.Default && r.Target == asked.id()
	return c.chain, nil
}

// resolverNode adds the node that leads to a place, unless it is there already.
func (c *compiler) resolverNode(p place) (string, error) {
	primary, entry, err := c.resolve(p)
	if err != nil {
		return "", err
	}
	key := "resolver:" + primary.id()
	if _, has := c.chain.Nodes[key]; has {
		return key, nil
	}
	node := nodeView{Type: "resolver", Name: primary.id(), Resolver: &resolverView{
		ConnectTimeout: c.chain.Targets[primary.id()].ConnectTimeout, Default: entry.isDefault(), Target: primary.id(),
	}}
	if entry != nil {
		node.LoadBalancer, node.Resolver.RequestTimeout = entry.LoadBalancer, span(entry.RequestTimeout)
		if node.Resolver.Failover, err = c.failover(primary, entry); err != nil {
			return "", err
		}
	}
	c.chain.Nodes[key] = node
	return key, nil
}

// resolve follows redirects and default subsets to where they end, and adds
// that to the targets. The resolver is nil if the service has none.
func (c *compiler) resolve(p place) (place, *resolver, error) {
	seen := []string{p.id()}
	for {
		entry := c.entries.resolver(p.service)
		next := p
		if entry != nil {
			next = entry.apply(p)
		}
		if next == p {
			return p, entry, c.addTarget(p, entry)
		}
		p = next
		circular := slices.Contains(seen, p.id())
		if seen = append(seen, p.id()); circular {
			return p, nil, fmt.Errorf("detected circular resolver redirect: [%s]", strings.Join(seen, " -> "))
		}
	}
}

// apply takes one step.
func (e *resolver) apply(p place) place {
	next := p
	if r := e.Redirect; r != nil {
		if r.Service != "" && r.Service != p.service || r.ServiceSubset != "" {
			next.subset = r.ServiceSubset
		}
		next.service = first(r.Service, p.service)
		next.datacenter = first(r.Datacenter, p.datacenter)
	}
	if next == p && p.subset == "" {
		next.subset = e.DefaultSubset
	}
	return next
}

// addTarget describes where a chain ends.
func (c *compiler) addTarget(p place, entry *resolver) error {
	defaults := c.entries.defaults(p.service)
	if protocol := c.entries.protocol(p.service); c.opts.overrides.OverrideProtocol == "" && protocol != c.chain.Protocol {
		return fmt.Errorf("discovery chain %q uses inconsistent protocols; service %q has %q which is not %q", c.chain.ServiceName, p.service, protocol, c.chain.Protocol)
	}
	t := targetView{
		ConnectTimeout: duration(defaultConnectTimeout),
		ID:             p.id(), Service: p.service, ServiceSubset: p.subset, Namespace: "default", Partition: "default", Datacenter: p.datacenter,
		SNI: p.name(c.opts.trustDomain), Name: p.name(c.opts.trustDomain),
	}
	t.MeshGateway.Mode = first(c.opts.overrides.OverrideMeshGateway.Mode, defaults.MeshGateway.Mode, c.entries.global().MeshGateway.Mode)
	if merged := mergeTransparent(defaults.TransparentProxy, c.entries.global().TransparentProxy); merged != nil {
		t.TransparentProxy = *merged
	}
	if entry != nil && entry.ConnectTimeout != 0 {
		t.ConnectTimeout = entry.ConnectTimeout
	}
	if override := c.opts.overrides.OverrideConnectTimeout; override != 0 {
		t.ConnectTimeout = override
	}
	if defaults.ExternalSNI != "" {
		if err := checkExternal(p.service, entry); err != nil {
			return err
		}
		t.External, t.SNI = true, defaults.ExternalSNI
	}
	if p.subset != "" {
		s, ok := subset{}, false
		if entry != nil {
			s, ok = entry.Subsets[p.subset]
		}
		if !ok {
			return fmt.Errorf("service %q does not have a subset named %q", p.service, p.subset)
		}
		t.Subset = s
	}
	c.chain.Targets[t.ID] = t
	return nil
}

func checkExternal(service string, entry *resolver) error {
	what := ""
	switch {
	case entry == nil:
	case entry.Redirect != nil:
		what = "redirects"
	case len(entry.Subsets) > 0:
		what = "subsets"
	case len(entry.Failover) > 0:
		what = "failover"
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("service %q has an external SNI set; cannot define %s for external services", service, what)
}

// failover returns who takes over for a target, nil for nobody. The failovers
// of those are not followed.
func (c *compiler) failover(primary place, entry *resolver) (*failoverView, error) {
	f, ok := entry.Failover[primary.subset]
	if !ok || primary.subset == "" {
		if f, ok = entry.Failover[anyName]; !ok {
			return nil, nil
		}
	}
	var ids []string
	for _, p := range f.places(primary) {
		resolved, _, err := c.resolve(p)
		if err != nil {
			return nil, err
		}
		if resolved != primary {
			ids = append(ids, resolved.id())
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	return &failoverView{Targets: ids}, nil
}

// places lists what a failover names, relative to the target it is for.
func (f failover) places(primary place) []place {
	at := func(service, subset, datacenter string) place {
		p := place{service: first(service, primary.service), subset: subset, datacenter: first(datacenter, primary.datacenter)}
		if service == "" && subset == "" {
			p.subset = primary.subset
		}
		return p
	}
	var out []place
	for _, t := range f.Targets {
		out = append(out, at(t.Service, t.ServiceSubset, t.Datacenter))
	}
	for _, dc := range f.Datacenters {
		out = append(out, at(f.Service, f.ServiceSubset, dc))
	}
	if len(out) == 0 {
		out = append(out, at(f.Service, f.ServiceSubset, ""))
	}
	return out
}
