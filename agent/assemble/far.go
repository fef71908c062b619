// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package assemble

import (
	"maps"
	"slices"

	"github.com/outrider-mesh/outrider/connect"
)

// This file is about what lies beyond our own datacenter: mesh gateways, cluster
// peers, and targets of which only their instances say who they must prove to
// be.

// peersOf returns the peers that intentions name, sorted, each once.
func peersOf(rules []connect.Intention) []string {
	named := make(map[string]bool)
	for _, r := range rules {
		if r.Source.Peer != "" {
			named[r.Source.Peer] = true
		}
	}
	return slices.Sorted(maps.Keys(named))
}

// far is what targets and intentions need to be watched.
type far struct {
	local       string
	datacenters map[string]bool
	named       map[string]bool
}

// newFar begins with what intentions name.
func (d *draft) newFar() far {
	f := far{datacenters: make(map[string]bool), named: make(map[string]bool)}
	if d.service != nil {
		f.local = d.service.Datacenter
	}
	if d.intentions != nil {
		for _, name := range d.intentions.peers {
			f.named[name] = true
		}
	}
	return f
}

func (f far) add(t connect.Target) {
	if in := t.GatewayIn(f.local); in != "" {
		f.datacenters[in] = true
	}
	if t.Peer != "" {
		f.named[t.Peer] = true
	}
}

func (f far) gateways() []string { return slices.Sorted(maps.Keys(f.datacenters)) }
func (f far) peers() []string    { return slices.Sorted(maps.Keys(f.named)) }

// keepFar forgets what is not wanted any more.
func (d *draft) keepFar(gateways, peers []string) {
	maps.DeleteFunc(d.gateways, func(dc string, _ []connect.Endpoint) bool { return !slices.Contains(gateways, dc) })
	maps.DeleteFunc(d.peers, func(name string, _ connect.Peer) bool { return !slices.Contains(peers, name) })
}

// setGateways and setPeer take what some target or intention names by now.
func (d *draft) setGateways(datacenter string, gateways []connect.Endpoint) {
	if !slices.Contains(d.allFar().gateways(), datacenter) {
		return
	}
	d.gateways[datacenter] = gateways
	d.promoteAll()
}

func (d *draft) setPeer(name string, p connect.Peer) {
	if !slices.Contains(d.allFar().peers(), name) {
		return
	}
	d.peers[name] = p
	d.promoteAll()
}

func (d *draft) allFar() far {
	f := d.newFar()
	for _, chains := range []map[connect.UpstreamID]*connect.Chain{d.chains, d.serving} {
		for _, c := range chains {
			for _, t := range c.Targets {
				f.add(t)
			}
		}
	}
	return f
}

// heardOf reports whether all has been heard that it takes to call a target.
func (d *draft) heardOf(t connect.Target) bool {
	if _, heard := d.instances[t.ID]; !heard {
		return false
	}
	if d.service != nil {
		if in := t.GatewayIn(d.service.Datacenter); in != "" {
			if _, heard := d.gateways[in]; !heard {
				return false
			}
		}
	}
	if t.Peer == "" {
		return true
	}
	_, heard := d.peers[t.Peer]
	return heard
}

// addFar puts gateways and peers into a snapshot.
func (d *draft) addFar(s *connect.Snapshot) {
	if len(d.gateways) > 0 {
		s.Gateways = maps.Clone(d.gateways)
	}
	if len(d.peers) > 0 {
		s.Peers = maps.Clone(d.peers)
	}
}

// filled returns a chain whose targets say what to send and whom to expect,
// where only instances say that: the same chain when there is no such target.
// Of a service of a peer, which has a chain of its own making, the instances say
// the protocol as well.
func (d *draft) filled(c *connect.Chain) *connect.Chain {
	copied := false
	for id, t := range c.Targets {
		if t.Peer == "" && !t.Query {
			continue
		}
		if !copied {
			twin := *c
			twin.Targets = maps.Clone(c.Targets)
			c, copied = &twin, true
		}
		i := d.instances[id]
		t.SNI, t.Identities = i.SNI, i.Identities
		c.Targets[id] = t
		if len(c.Targets) == 1 && c.Default && i.Protocol != "" {
			c.Protocol = i.Protocol
		}
	}
	return c
}
