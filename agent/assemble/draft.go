// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package assemble

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// draft is what has been heard so far; nil means not heard yet.
type draft struct {
	service      *connect.Service
	upstreams    []connect.Upstream // registered, then implicit ones
	registered   []connect.Upstream
	implicit     []connect.Upstream // of transparent mode; nil: not heard of
	destinations []netip.AddrPort
	used         map[connect.UpstreamID]bool // implicit ones that have been called
	bundle       *connect.TrustBundle
	leaf         *connect.Leaf
	mesh         *connect.Mesh
	intentions   *intentions
	providers    map[string]connect.JWTProvider // those that are known by now
	defaults     *defaults
	exposed      []connect.ExposedPath
	chains       map[connect.UpstreamID]*connect.Chain // the latest heard
	serving      map[connect.UpstreamID]*connect.Chain // the latest whose endpoints are all known
	instances    map[connect.TargetID]connect.Instances
	gateways     map[string][]connect.Endpoint    // by datacenter
	peers        map[string]connect.Peer          // by name
	since        map[connect.UpstreamID]time.Time // when an upstream was first seen
	late         map[connect.UpstreamID]bool      // upstreams that ran out of patience
	completed    time.Time                        // when all that a snapshot cannot do without was there; zero: not yet
	impatient    bool                             // the first snapshot waits no longer for what it can do without
	published    bool                             // there has been a first snapshot
	dirty        bool                             // something has changed since the last snapshot
	rewant       bool                             // what must be watched has changed
}

type intentions struct {
	rules     []connect.Intention
	fallback  connect.Action
	providers []string // of JWTs, that rules name
	peers     []string // that rules name
}

type defaults struct {
	limits connect.RateLimits
	faults []connect.Fault
}

func newDraft() draft {
	return draft{
		chains:    make(map[connect.UpstreamID]*connect.Chain),
		serving:   make(map[connect.UpstreamID]*connect.Chain),
		instances: make(map[connect.TargetID]connect.Instances),
		gateways:  make(map[string][]connect.Endpoint),
		peers:     make(map[string]connect.Peer),
		used:      make(map[connect.UpstreamID]bool),
		since:     make(map[connect.UpstreamID]time.Time),
		late:      make(map[connect.UpstreamID]bool),
	}
}

func (d *draft) register(s connect.Service, upstreams []connect.Upstream, now time.Time) {
	d.service, d.registered = &s, upstreams
	if s.Transparent == nil {
		d.implicit, d.destinations = nil, nil
	}
	d.setUpstreams(now)
}

// setUpstreams puts together those that are registered and those that are
// implicit.
func (d *draft) setUpstreams(now time.Time) {
	upstreams := d.withImplicit()
	d.upstreams, d.rewant = upstreams, true
	wanted := make(map[connect.UpstreamID]bool, len(upstreams))
	for _, u := range upstreams {
		wanted[u.ID] = true
		if _, seen := d.since[u.ID]; !seen {
			d.since[u.ID] = now
		}
	}
	gone := func(id connect.UpstreamID) bool { return !wanted[id] }
	maps.DeleteFunc(d.since, func(id connect.UpstreamID, _ time.Time) bool { return gone(id) })
	maps.DeleteFunc(d.late, func(id connect.UpstreamID, _ bool) bool { return gone(id) })
	maps.DeleteFunc(d.used, func(id connect.UpstreamID, _ bool) bool { return gone(id) })
}

func (d *draft) setChain(id connect.UpstreamID, c *connect.Chain) {
	if _, registered := d.since[id]; !registered {
		return
	}
	d.chains[id], d.rewant = c, true
	d.promote(id)
}

func (d *draft) setInstances(id connect.TargetID, i connect.Instances) {
	if !names(d.chains, id) && !names(d.serving, id) {
		return
	}
	d.instances[id] = i
	d.promoteAll()
}

func (d *draft) promoteAll() {
	for upstream := range d.chains {
		d.promote(upstream)
	}
}

func names(chains map[connect.UpstreamID]*connect.Chain, id connect.TargetID) bool {
	for _, c := range chains {
		if _, named := c.Targets[id]; named {
			return true
		}
	}
	return false
}

// promote puts the latest chain of an upstream into service once all it needs
// has been heard. Until then the one before serves on: a chain without all its
// endpoints would send traffic to the wrong target, and none would send it
// nowhere.
func (d *draft) promote(id connect.UpstreamID) {
	c, old := d.chains[id], d.serving[id]
	if c == nil || c == old {
		return
	}
	for _, target := range c.Targets {
		if !d.heardOf(target) {
			return
		}
	}
	d.serving[id] = c
	d.rewant = d.rewant || old != nil // its targets may be of no more use
}

// wants reports what must be watched and whether that has changed since the
// last call. What need not be watched any more is forgotten here and nowhere
// else: if the draft forgot it while its watch went on, the watch would have no
// reason to deliver it again.
func (d *draft) wants() (w Wants, changed bool) {
	if !d.rewant {
		return w, false
	}
	d.rewant = false
	wanted := make(map[connect.UpstreamID]bool)
	seen := make(map[connect.TargetID]bool)
	w.Used = make(map[connect.UpstreamID]bool)
	w.UsedTargets = make(map[connect.TargetID]bool)
	far := d.newFar()
	for _, u := range d.upstreams {
		wanted[u.ID] = true
		used := !u.Implicit || d.used[u.ID]
		w.Used[u.ID] = used
		for _, c := range []*connect.Chain{d.chains[u.ID], d.serving[u.ID]} {
			if c == nil {
				continue
			}
			for _, id := range slices.Sorted(maps.Keys(c.Targets)) {
				far.add(c.Targets[id])
				w.UsedTargets[id] = w.UsedTargets[id] || used
				if !seen[id] {
					seen[id] = true
					w.Targets = append(w.Targets, c.Targets[id])
				}
			}
		}
	}
	unwanted := func(id connect.UpstreamID, _ *connect.Chain) bool { return !wanted[id] }
	maps.DeleteFunc(d.chains, unwanted)
	maps.DeleteFunc(d.serving, unwanted)
	maps.DeleteFunc(d.instances, func(id connect.TargetID, _ connect.Instances) bool { return !seen[id] })
	w.Upstreams, w.Gateways, w.Peers = d.upstreams, far.gateways(), far.peers()
	d.keepFar(w.Gateways, w.Peers)
	return w, true
}

// age marks what has been incomplete for longer than patience, and returns when
// the next part will be, 0 for none.
func (d *draft) age(now time.Time, patience time.Duration) (next time.Duration) {
	next = d.ageOptional(now, patience)
	for _, u := range d.upstreams {
		if d.complete(u) || d.late[u.ID] {
			continue
		}
		left := d.since[u.ID].Add(patience).Sub(now)
		if left <= 0 {
			d.late[u.ID], d.dirty = true, true
			continue
		}
		if next == 0 || left < next {
			next = left
		}
	}
	return next
}

// complete reports whether all that an upstream needs has been heard.
func (d *draft) complete(u connect.Upstream) bool {
	return u.Problem != "" || d.serving[u.ID] != nil
}

// missing says what the next snapshot waits for.
func (d *draft) missing() []string {
	if out := d.required(); len(out) > 0 || d.published || d.impatient {
		return out
	}
	return d.unheard()
}

// required is what no snapshot can do without and has not been heard.
func (d *draft) required() []string {
	var out []string
	for _, part := range []struct {
		absent bool
		words  string
	}{
		{d.service == nil, "the sidecar's registration in Consul"},
		{d.bundle == nil, "Consul's CA roots"},
		{d.leaf == nil, "a leaf certificate"},
		{d.mesh == nil, "the mesh config entry"},
		{d.intentions == nil, "intentions and the default policy"},
	} {
		if part.absent {
			out = append(out, part.words)
		}
	}
	return out
}

// snapshot copies maps, not values: those are immutable.
func (d *draft) snapshot(version uint64) *connect.Snapshot {
	s := &connect.Snapshot{
		Version: version, Service: *d.service, Leaf: d.leaf, Bundle: d.bundle, Mesh: *d.mesh,
		Intentions: d.intentions.rules, DefaultAction: d.intentions.fallback, Destinations: d.destinations,
		Chains:    make(map[connect.UpstreamID]*connect.Chain, len(d.serving)),
		Endpoints: make(map[connect.TargetID][]connect.Endpoint, len(d.instances)),
	}
	for id, i := range d.instances {
		s.Endpoints[id] = i.Endpoints
	}
	d.addHTTP(s)
	d.addFar(s)
	for _, u := range d.upstreams {
		if !d.complete(u) && !d.late[u.ID] {
			continue
		}
		s.Upstreams = append(s.Upstreams, u)
		if c := d.serving[u.ID]; c != nil {
			s.Chains[u.ID] = d.filled(c)
		}
	}
	return s
}
