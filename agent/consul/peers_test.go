// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

const eastDomain = "99999999-2222-3333-4444-555555555555.consul"

// peeringJSON is a peering with roots.
func peeringJSON(t testing.TB, w wirePeering) string {
	t.Helper()
	text, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// plainRoot is a root that does not name its trust domain.
func plainRoot() string { return meshca.PEM(meshca.New("root").Intermediate("plain").Cert) }

func TestPeersAreKnownByTheRootsOfTheirPeering(t *testing.T) {
	east := meshca.PEM(meshca.NewIn("east", eastDomain).Cert)
	server := "server.dc2.peering." + strings.ToUpper(eastDomain)
	leaf := meshca.PEM(meshca.New("x").Leaf("web", nil).Chain[0])
	for _, tc := range []struct {
		name    string
		peering wirePeering
		problem string // of the peer
		fails   string // of the answer
	}{
		{name: "active", peering: wirePeering{Name: "east", State: "ACTIVE", PeerCAPems: []string{east}}},
		{name: "in other letters", peering: wirePeering{Name: "EAST", State: "ACTIVE", PeerCAPems: []string{east}}},
		{name: "failing, which is about the stream", peering: wirePeering{Name: "east", State: "FAILING", PeerCAPems: []string{east}}},
		{name: "domain of the server name", peering: wirePeering{Name: "east", State: "ACTIVE", PeerServerName: server, PeerCAPems: []string{plainRoot()}}},
		{name: "no domain at all", peering: wirePeering{Name: "east", State: "ACTIVE", PeerCAPems: []string{plainRoot()}}, problem: "trust domain of peer \"east\" is not known"},
		{name: "a server name of another form", peering: wirePeering{Name: "east", PeerServerName: "dc2.peering.x", PeerCAPems: []string{plainRoot()}}, problem: "is not known"},
		{name: "pending", peering: wirePeering{Name: "east", State: "PENDING"}, problem: "not established yet"},
		{name: "ended from there", peering: wirePeering{Name: "east", State: "TERMINATED", PeerCAPems: []string{east}}, problem: "has been ended"},
		{name: "being deleted", peering: wirePeering{Name: "east", State: "DELETING", PeerCAPems: []string{east}}, problem: "has been ended"},
		{name: "another peering", peering: wirePeering{Name: "west", State: "ACTIVE", PeerCAPems: []string{east}}, fails: `about the peering "west"`},
		{name: "no PEM", peering: wirePeering{Name: "east", PeerCAPems: []string{"hello"}}, fails: "CA root 1"},
		{name: "not a CA", peering: wirePeering{Name: "east", PeerServerName: server, PeerCAPems: []string{leaf}}, fails: "is not a CA certificate"},
		{name: "too many roots", peering: wirePeering{Name: "east", PeerCAPems: make([]string, maxRoots+1)}, fails: "65 CA roots"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := convertPeer("east", decode[wirePeering](t, peeringJSON(t, tc.peering)))
			if tc.fails != "" {
				wantError(t, err, tc.fails)
				return
			}
			wantError(t, err)
			good := tc.problem == ""
			if p.Name != "east" || p.Partition != "default" || p.Proves() != good || !strings.Contains(p.Problem, tc.problem) || (p.Bundle != nil) != good {
				t.Errorf("peer %+v", p)
			}
			if good && (p.Bundle.TrustDomain != eastDomain || len(p.Bundle.Roots) != 1) {
				t.Errorf("bundle %+v", p.Bundle)
			}
		})
	}
}

func TestPeerThatCannotBeReadProvesNobodyAndKeepsNobodyWaiting(t *testing.T) {
	const path = "/v1/peering/east"
	good := peeringJSON(t, wirePeering{Name: "east", State: "ACTIVE", PeerCAPems: []string{meshca.PEM(meshca.NewIn("east", eastDomain).Cert)}})
	a := newAgent(t)
	c := a.client(t, nil)
	for _, tc := range []struct {
		answer http.HandlerFunc
		why    string
	}{
		{fails(403, "Permission denied"), "peering:read"},
		{fails(404, "Peering not found"), "Peering not found"},
		{fails(500, "no leader"), "no leader"},
	} {
		a.answer(path, tc.answer)
		p, after, err := c.openPeer(PeerKey{Name: "east"})(t.Context(), watch.Cursor{})
		if err != nil || p.Proves() || !strings.Contains(p.Problem, tc.why) || after == (watch.Cursor{}) || after.Index != 0 {
			t.Errorf("%s: %+v, cursor %+v, %v", tc.why, p, after, err)
		}
	}
	a.answer(path, says(good))
	fetch := c.openPeer(PeerKey{Name: "east"})
	p, after, err := fetch(t.Context(), watch.Cursor{})
	if err != nil || !p.Proves() || after.Index == 0 {
		t.Fatalf("%+v, %+v, %v", p, after, err)
	}
	// An outage, or a token that has lost a right, takes nothing from a peer that
	// is known; Consul's word that there is no such peering does.
	for _, answer := range []http.HandlerFunc{fails(403, "Permission denied"), fails(500, "no leader"), says("{}")} {
		a.answer(path, answer)
		if p, _, err := fetch(t.Context(), watch.Cursor{}); err == nil {
			t.Errorf("%+v takes the place of a good answer", p)
		}
	}
	a.answer(path, fails(404, "Peering not found"))
	if p, _, err := fetch(t.Context(), watch.Cursor{}); err != nil || p.Proves() || p.Problem == "" {
		t.Errorf("a peering that is gone: %+v, %v", p, err)
	}
}

// Consul may answer that a peering is active with the index of its end.
func TestEndOfAPeeringIsSeenWithoutANewIndex(t *testing.T) {
	roots := []string{meshca.PEM(meshca.NewIn("east", eastDomain).Cert)}
	answers := make(chan string, 2)
	answers <- peeringJSON(t, wirePeering{Name: "east", State: "ACTIVE", PeerCAPems: roots})
	answers <- peeringJSON(t, wirePeering{Name: "east", State: "TERMINATED", PeerCAPems: roots})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if wait := r.URL.Query().Get("wait"); r.URL.Query().Has("index") && wait != "10s" {
			t.Errorf("asked to wait for %q", wait)
		}
		select {
		case answer := <-answers:
			w.Header().Set("X-Consul-Index", "7")
			_, _ = io.WriteString(w, answer)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	w := NewWatches((&agent{server: server}).client(t, nil), nil)
	sink, values := into[connect.Peer]()
	w.Peers.Reconcile("web", map[PeerKey]func(connect.Peer){{Name: "east"}: sink})
	background(t, w.Run)
	if p := receive(t, values); !p.Proves() {
		t.Errorf("first %+v", p)
	}
	if p := receive(t, values); p.Proves() {
		t.Errorf("then %+v", p)
	}
}

func TestPeersAreComparedByContent(t *testing.T) {
	one, two := meshca.New("one"), meshca.New("two")
	base := connect.Peer{Name: "east", Partition: "default", Bundle: meshca.Bundle(one)}
	for name, change := range map[string]func(*connect.Peer){
		"problem": func(p *connect.Peer) { p.Problem = "x" }, "no bundle": func(p *connect.Peer) { p.Bundle = nil },
		"another root": func(p *connect.Peer) { p.Bundle = meshca.Bundle(two) }, "partition": func(p *connect.Peer) { p.Partition = "x" },
	} {
		p := base
		if change(&p); equalPeers(base, p) || equalPeers(p, base) {
			t.Errorf("%s makes no difference", name)
		}
	}
	again := base
	if again.Bundle = meshca.Bundle(one); !equalPeers(base, again) {
		t.Error("the same twice is different")
	}
}

// peerEndpoint is a gateway of a peer, as the importing side sees it.
func peerEndpoint(id, meta string) string {
	return fmt.Sprintf(`{"Node":{"Node":"n","Address":"192.0.2.1","Datacenter":"dc1"},"Service":{"Kind":"connect-proxy","ID":%q,"Address":"192.0.2.2","Port":1,
		"TaggedAddresses":{"wan":{"Address":"gw.example","Port":8443}},"Connect":{%s}}}`, id, meta)
}

func TestGatewaysOfAPeerSayWhomTheyProveToBe(t *testing.T) {
	meta := func(sni, id, protocol string) string {
		return fmt.Sprintf(`"PeerMeta":{"SNI":[%s],"SpiffeID":[%s],"Protocol":%q}`, sni, id, protocol)
	}
	const api, gw = `"spiffe://TD.consul/ns/default/dc/dc2/svc/api"`, `"spiffe://td.consul/gateway/mesh/dc/dc2"`
	good := meta(`"api.sni"`, api+","+gw, "http")
	for name, tc := range map[string]struct {
		list string
		want connect.Instances
	}{
		"good": {peerEndpoint("a", good), connect.Instances{
			Endpoints: []connect.Endpoint{{ID: "a", Node: "n", Address: "gw.example", Port: 8443, Weight: 1}},
			SNI:       "api.sni", Protocol: connect.HTTP,
			Identities: []string{"spiffe://td.consul/gateway/mesh/dc/dc2", "spiffe://td.consul/ns/default/dc/dc2/svc/api"},
		}},
		"one says nothing, one something else": {peerEndpoint("c", "") + "," + peerEndpoint("a", good) + "," + peerEndpoint("b", meta(`"lie"`, api, "http")), connect.Instances{
			Endpoints: []connect.Endpoint{
				{ID: "a", Node: "n", Address: "gw.example", Port: 8443, Weight: 1},
				{ID: "b", Node: "n", Address: "gw.example", Port: 8443, Unusable: `peer "east" says something else of it than of the others`},
				{ID: "c", Node: "n", Address: "gw.example", Port: 8443, Unusable: `peer "east" does not say who it proves to be`},
			},
			SNI: "api.sni", Protocol: connect.HTTP,
			Identities: []string{"spiffe://td.consul/gateway/mesh/dc/dc2", "spiffe://td.consul/ns/default/dc/dc2/svc/api"},
		}},
		"no SNI": {peerEndpoint("a", meta("", api, "tcp")), connect.Instances{
			Endpoints: []connect.Endpoint{{ID: "a", Node: "n", Address: "gw.example", Port: 8443, Unusable: `peer "east" does not say who it proves to be`}},
		}},
		"no such identity": {peerEndpoint("a", meta(`"x"`, `"spiffe://td.consul/agent/server/dc/dc2"`, "tcp")), connect.Instances{
			Endpoints: []connect.Endpoint{{ID: "a", Node: "n", Address: "gw.example", Port: 8443,
				Unusable: `peer "east" says that it proves to be neither a service nor a gateway: identity "spiffe://td.consul/agent/server/dc/dc2" is not that of a mesh gateway`}},
		}},
		"nothing": {"", connect.Instances{Endpoints: []connect.Endpoint{}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := convertInstances(EndpointsKey{Service: "api", Peer: "east", Local: "dc1", LocalPartition: "default"}, decode[[]wireEndpoint](t, "["+tc.list+"]"))
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("instances (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInstancesOfAPeerAreAskedForByItsName(t *testing.T) {
	a := newAgent(t)
	a.answer("/v1/health/connect/api", says(`[]`))
	_, _, err := a.client(t, nil).openEndpoints(EndpointsKey{Service: "api", Peer: "east", Datacenter: "dc9", Namespace: "default", Local: "dc1"})(t.Context(), watch.Cursor{})
	wantError(t, err)
	if q := a.requests("/v1/health/connect/api")[0].URL.RawQuery; q != "peer=east" {
		t.Errorf("asked with %q", q)
	}
}

func TestChainsOfPeersAndQueriesAreMadeHere(t *testing.T) {
	a := newAgent(t)
	c := a.client(t, nil)
	for name, tc := range map[string]struct {
		key  ChainKey
		want connect.Target
	}{
		"peer": {ChainKey{Service: "api", Namespace: "default", Partition: "default", Peer: "east", MeshGateway: "local"}, connect.Target{
			ID: "api.default.default.external.east", Service: "api", Namespace: "default", Partition: "default", Peer: "east", MeshGateway: "local",
		}},
		"query": {ChainKey{Service: "geo", Query: true, Datacenter: "dc2"}, connect.Target{
			ID: "query:geo", Service: "geo", Namespace: "default", Partition: "default", Datacenter: "dc2", Query: true,
		}},
	} {
		chain, _, err := c.openChain(tc.key)(t.Context(), watch.Cursor{})
		wantError(t, err)
		node := chain.Nodes[chain.Start]
		if node.Kind != connect.ResolverNode || node.Resolver.Target != tc.want.ID || !chain.Default {
			t.Errorf("%s: chain %+v", name, chain)
		}
		if diff := cmp.Diff(map[connect.TargetID]connect.Target{tc.want.ID: tc.want}, chain.Targets); diff != "" {
			t.Errorf("%s: targets (-want +got):\n%s", name, diff)
		}
	}
	if len(a.seen) != 0 {
		t.Errorf("Consul was asked %d times", len(a.seen))
	}
}

func FuzzPeering(f *testing.F) {
	f.Add([]byte(peeringJSON(f, wirePeering{Name: "east", State: "ACTIVE", PeerCAPems: []string{meshca.PEM(meshca.NewIn("east", eastDomain).Cert)}})))
	f.Add([]byte(`{"Name":"east","PeerServerName":"server.x.peering.y"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var w wirePeering
		if json.Unmarshal(text, &w) != nil {
			return
		}
		p, err := convertPeer(w.Name, w)
		if err != nil {
			return
		}
		if p.Proves() == (p.Problem != "") || p.Partition == "" || (p.Bundle != nil && (p.Bundle.TrustDomain == "" || len(p.Bundle.Roots) == 0)) {
			t.Fatalf("accepted %+v", p)
		}
	})
}

func FuzzInstances(f *testing.F) {
	f.Add([]byte("["+peerEndpoint("a", `"PeerMeta":{"SNI":["x"],"SpiffeID":["spiffe://td.consul/gateway/mesh/dc/dc2"],"Protocol":"http"}`)+"]"), "east")
	f.Add([]byte(`[{"Service":{"ID":"a","Port":1}}]`), "")
	f.Fuzz(func(t *testing.T, text []byte, peer string) {
		var w []wireEndpoint
		if json.Unmarshal(text, &w) != nil {
			return
		}
		for _, got := range []connect.Instances{
			convertInstances(EndpointsKey{Service: "api", Peer: peer, Local: "dc1"}, w),
			convertFound(EndpointsKey{Service: "geo", Query: true, Local: "dc1"}, wireQuery{Nodes: w}, "td.consul"),
			{Endpoints: convertGateways(GatewaysKey{Datacenter: "dc2", Local: "dc1"}, w)},
		} {
			for _, e := range got.Endpoints {
				if e.Usable() && (e.Address == "" || e.Port == 0 || e.Weight > maxWeight) || (e.Unusable != "" && e.Weight != 0) {
					t.Fatalf("accepted %+v", e)
				}
				if e.Usable() && peer != "" && got.SNI == "" && len(got.Identities) > 0 {
					t.Fatalf("usable without an SNI: %+v", got)
				}
			}
			if len(got.Identities) > maxIdentities {
				t.Fatalf("%d identities", len(got.Identities))
			}
		}
	})
}
