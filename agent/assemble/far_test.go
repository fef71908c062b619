// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package assemble

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

// chainOf leads to the first target, the others take over.
func chainOf(targets ...connect.Target) *connect.Chain {
	c := &connect.Chain{Default: len(targets) == 1, Targets: map[connect.TargetID]connect.Target{}}
	for _, t := range targets {
		c.Targets[t.ID] = t
	}
	return c
}

func TestGatewaysAreWantedAndWaitedForByWhoCallsThroughThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		var wants []Wants
		r.opts.Want = func(w Wants) { wants = append(wants, w) }
		r.core()
		r.SetRegistration(connect.Service{Name: "web", Datacenter: "dc1"}, []connect.Upstream{{ID: "api"}})
		r.SetGateways("dc2", []connect.Endpoint{{ID: "nobody asked"}})
		here, there := connect.Target{ID: "a", Datacenter: "dc1"}, connect.Target{ID: "b", Datacenter: "dc2", MeshGateway: "remote"}
		r.SetChain("api", chainOf(here, there))
		r.SetInstances("a", instance("1"))
		r.SetInstances("b", instance("2"))
		after(time.Second)
		if got := wants[len(wants)-1].Gateways; !cmp.Equal(got, []string{"dc2"}) {
			t.Errorf("wants the gateways of %v", got)
		}
		if s := r.last(); len(s.Upstreams) != 0 || s.Gateways != nil {
			t.Errorf("published before the gateways are known: %+v", s)
		}
		r.SetGateways("dc2", []connect.Endpoint{{ID: "gw"}})
		after(time.Second)
		if s := r.last(); len(s.Upstreams) != 1 || s.Gateways["dc2"][0].ID != "gw" {
			t.Errorf("snapshot %+v", s)
		}
		r.SetChain("api", chainOf(here))
		after(time.Second)
		if s := r.last(); s.Gateways != nil || len(wants[len(wants)-1].Gateways) != 0 {
			t.Errorf("gateways that nobody needs: %+v", s.Gateways)
		}
		r.cancel()
	})
}

func TestPeersAreWantedByTargetsAndIntentions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		var wants []Wants
		r.opts.Want = func(w Wants) { wants = append(wants, w) }
		r.core()
		r.SetPeer("east", connect.Peer{Name: "nobody asked"})
		r.SetRegistration(connect.Service{Name: "web"}, []connect.Upstream{{ID: "api?peer=east", Peer: "east"}})
		r.SetIntentions([]connect.Intention{{Source: connect.Source{Peer: "west"}}, {Source: connect.Source{Peer: "west", Name: "b"}}, {}}, connect.Deny)
		r.SetChain("api?peer=east", chainOf(connect.Target{ID: "a", Peer: "east"}))
		after(time.Second)
		if got := wants[len(wants)-1].Peers; !cmp.Equal(got, []string{"east", "west"}) {
			t.Errorf("wants peers %v", got)
		}
		if s := r.last(); s.Peers != nil || len(s.Upstreams) != 0 {
			t.Errorf("snapshot %+v", s)
		}
		r.SetPeer("west", connect.Peer{Name: "west", Problem: "x"})
		r.SetInstances("a", connect.Instances{})
		after(time.Second)
		if s := r.last(); len(s.Upstreams) != 0 || s.Peers["west"].Problem != "x" {
			t.Errorf("an upstream of a peer that is not known: %+v", s)
		}
		r.SetPeer("east", connect.Peer{Name: "east"})
		after(time.Second)
		if s := r.last(); len(s.Upstreams) != 1 || len(s.Peers) != 2 {
			t.Errorf("snapshot %+v", s)
		}
		r.SetIntentions(nil, connect.Deny)
		after(time.Second)
		if s := r.last(); len(s.Peers) != 1 || len(wants[len(wants)-1].Peers) != 1 {
			t.Errorf("peers that nobody names: %+v", s.Peers)
		}
		r.cancel()
	})
}

// A change of intentions that names no other peers is none of the watches'
// business: they must not be reconciled at each.
func TestIntentionsOfTheSamePeersWantNothingNew(t *testing.T) {
	d := newDraft()
	d.register(connect.Service{}, nil, time.Now())
	d.intentions = &intentions{peers: []string{"east"}}
	d.wants()
	a := New(Options{})
	a.draft = d
	a.SetIntentions([]connect.Intention{{Action: connect.Allow, Source: connect.Source{Peer: "east"}}}, connect.Deny)
	if _, changed := a.draft.wants(); changed {
		t.Error("wants something new")
	}
	a.SetIntentions([]connect.Intention{{Source: connect.Source{Peer: "west"}}}, connect.Deny)
	if w, changed := a.draft.wants(); !changed || !cmp.Equal(w.Peers, []string{"west"}) {
		t.Errorf("wants %+v", w)
	}
}

func TestTargetsAreFilledInByTheirInstances(t *testing.T) {
	own := connect.Target{ID: "own", SNI: "own.sni"}
	far := connect.Target{ID: "far", Peer: "east"}
	found := connect.Target{ID: "found", Query: true}
	d := newDraft()
	d.instances["far"] = connect.Instances{SNI: "far.sni", Identities: []string{"a", "b"}, Protocol: connect.GRPC}
	d.instances["found"] = connect.Instances{SNI: "found.sni", Identities: []string{"c"}}
	d.instances["own"] = connect.Instances{SNI: "not asked", Identities: []string{"not asked"}, Protocol: connect.HTTP}

	plain := chainOf(own)
	if got := d.filled(plain); got != plain || got.Targets["own"].SNI != "own.sni" {
		t.Errorf("a chain of our own: %+v", got)
	}
	alone := chainOf(far)
	alone.Protocol = connect.TCP
	if got := d.filled(alone); got.Protocol != connect.GRPC || got.Targets["far"].SNI != "far.sni" || len(got.Targets["far"].Identities) != 2 {
		t.Errorf("a service of a peer: %+v", got)
	}
	if alone.Protocol != connect.TCP || alone.Targets["far"].SNI != "" {
		t.Error("the chain of the watch was written to")
	}
	if got := d.filled(chainOf(found)); got.Protocol != "" || got.Targets["found"].SNI != "found.sni" {
		t.Errorf("a prepared query: %+v", got)
	}
	// A chain of Consul's says its protocol itself.
	both := chainOf(own, far)
	both.Protocol = connect.HTTP
	if got := d.filled(both); got.Protocol != connect.HTTP || got.Targets["far"].SNI != "far.sni" || got.Targets["own"].SNI != "own.sni" {
		t.Errorf("failover to a peer: %+v", got)
	}
}
