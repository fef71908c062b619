// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGatewaysAreForTargetsElsewhere(t *testing.T) {
	for name, tc := range map[string]struct {
		target Target
		want   string
	}{
		"at home":                  {Target{Datacenter: "dc1", MeshGateway: "remote"}, ""},
		"elsewhere, no mode":       {Target{Datacenter: "dc2"}, ""},
		"elsewhere, none":          {Target{Datacenter: "dc2", MeshGateway: "none"}, ""},
		"elsewhere, remote":        {Target{Datacenter: "dc2", MeshGateway: "remote"}, "dc2"},
		"elsewhere, local":         {Target{Datacenter: "dc2", MeshGateway: "local"}, "dc1"},
		"elsewhere, unknown":       {Target{Datacenter: "dc2", MeshGateway: "both"}, ""},
		"no datacenter":            {Target{MeshGateway: "local"}, ""},
		"external SNI":             {Target{Datacenter: "dc2", MeshGateway: "local", External: true}, ""},
		"prepared query":           {Target{Datacenter: "dc2", MeshGateway: "local", Query: true}, ""},
		"of a peer, local":         {Target{Peer: "east", MeshGateway: "local"}, "dc1"},
		"of a peer, remote":        {Target{Peer: "east", MeshGateway: "remote"}, ""},
		"of a peer, none":          {Target{Peer: "east", MeshGateway: "none"}, ""},
		"of a peer with our names": {Target{Peer: "east", Datacenter: "dc1", MeshGateway: "local"}, "dc1"},
	} {
		if got := tc.target.GatewayIn("dc1"); got != tc.want {
			t.Errorf("%s: through %q, want %q", name, got, tc.want)
		}
	}
}

func TestReachPutsGatewaysBeforeInstancesThatAreWell(t *testing.T) {
	well, ill := Endpoint{ID: "a", Address: "192.0.2.1", Port: 1, Weight: 1}, Endpoint{ID: "b", Unusable: "check \"db\" is critical"}
	gateway := Endpoint{ID: "gw", Address: "192.0.2.9", Port: 9, Weight: 1}
	words := `mesh gateways of datacenter "dc2"`
	remote := Target{ID: "t", Datacenter: "dc2", MeshGateway: "remote"}
	none := Endpoint{ID: "dc2", Unusable: `no mesh gateway is registered in datacenter "dc2"`}
	for name, tc := range map[string]struct {
		target    Target
		instances []Endpoint
		gateways  []Endpoint
		want      []Endpoint
		through   string
	}{
		"instances are well":                 {remote, []Endpoint{ill, well}, []Endpoint{gateway}, []Endpoint{gateway}, words},
		"no instance is well":                {remote, []Endpoint{ill}, []Endpoint{gateway}, []Endpoint{ill}, words},
		"no instance":                        {remote, nil, []Endpoint{gateway}, nil, words},
		"no gateway":                         {remote, []Endpoint{well}, nil, []Endpoint{none}, words},
		"another upstream calls it directly": {Target{ID: "t", Datacenter: "dc2"}, []Endpoint{well}, []Endpoint{gateway}, []Endpoint{well}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Snapshot{Service: Service{Datacenter: "dc1"}, Endpoints: map[TargetID][]Endpoint{"t": tc.instances}, Gateways: map[string][]Endpoint{"dc2": tc.gateways}}
			got, through := s.Reach(tc.target)
			if diff := cmp.Diff(tc.want, got); diff != "" || through != tc.through {
				t.Errorf("through %q, want %q; endpoints (-want +got):\n%s", through, tc.through, diff)
			}
		})
	}
}

// Without the roots of a peer its services cannot be told from anybody else's.
func TestReachRefusesPeersWithoutRoots(t *testing.T) {
	target := Target{ID: "t", Peer: "east", Identities: []string{"x"}}
	well := Endpoint{ID: "a", Address: "192.0.2.1", Port: 1, Weight: 1}
	bundle := &TrustBundle{TrustDomain: "east.consul"}
	for name, tc := range map[string]struct {
		peers map[string]Peer
		why   string
	}{
		"not heard of": {nil, `the trust bundle of peer "east" has not been heard of yet`},
		"a problem":    {map[string]Peer{"east": {Problem: "ended", Bundle: bundle}}, "ended"},
		"no bundle":    {map[string]Peer{"east": {}}, `peer "east" has no trust bundle`},
		"another peer": {map[string]Peer{"west": {Bundle: bundle}}, `the trust bundle of peer "east" has not been heard of yet`},
		"proves":       {map[string]Peer{"east": {Bundle: bundle}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Snapshot{Bundle: &TrustBundle{}, Endpoints: map[TargetID][]Endpoint{"t": {well}}, Peers: tc.peers}
			got, _ := s.Reach(target)
			if len(got) != 1 || got[0].Unusable != tc.why || got[0].Usable() != (tc.why == "") {
				t.Errorf("endpoints %+v, want them unusable for %q", got, tc.why)
			}
			if proves := s.BundleOf(target) != nil; proves != (tc.why == "") || s.BundleOf(target) == s.Bundle {
				t.Errorf("its bundle is %v", s.BundleOf(target))
			}
			if s.Endpoints["t"][0] != well {
				t.Error("the snapshot was written to")
			}
		})
	}
	s := &Snapshot{Service: Service{Datacenter: "dc1"}}
	if got, _ := s.Reach(target); len(got) != 1 || got[0].Usable() {
		t.Errorf("nothing heard at all: %+v", got)
	}
}

func TestTargetsAcceptTheirOwnIdentityOrThoseTheyAreTold(t *testing.T) {
	own := Target{Service: "api", Namespace: "default", Partition: "default", Datacenter: "dc2"}
	told := own
	told.Identities = []string{"x", "y"}
	for name, tc := range map[string]struct {
		target Target
		want   []string
	}{
		"own":                       {own, []string{"spiffe://td.consul/ns/default/dc/dc2/svc/api"}},
		"told":                      {told, []string{"x", "y"}},
		"of a peer, nothing known":  {Target{Service: "api", Peer: "east"}, nil},
		"of a query, nothing found": {Target{Service: "api", Query: true}, nil},
	} {
		if diff := cmp.Diff(tc.want, tc.target.Accepts("td.consul")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
