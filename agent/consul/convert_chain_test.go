// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

func TestRecordedChainIsReadWhole(t *testing.T) {
	got, err := convertChain(recorded[struct{ Chain *wireChain }](t, "chain.json").Chain, "api", "")
	if err != nil {
		t.Fatal(err)
	}
	const domain = ".internal.11111111-2222-3333-4444-555555555555.consul"
	target := func(subset, dc string) connect.Target {
		return connect.Target{
			ID: connect.TargetID(subset + ".api.default.default." + dc), Service: "api", Subset: subset, Namespace: "default", Partition: "default", Datacenter: dc,
			Filter: "Service.Meta.version == " + subset, OnlyPassing: subset == "v2", ConnectTimeout: 7 * time.Second, SNI: subset + ".api.default." + dc + domain,
		}
	}
	resolver := func(target, failover connect.TargetID) connect.Node {
		return connect.Node{Kind: connect.ResolverNode, Name: string(target), Resolver: &connect.Resolver{
			Target: target, Failover: []connect.TargetID{failover}, ConnectTimeout: 7 * time.Second,
			LoadBalancer: connect.LoadBalancer{Policy: "least_request", ChoiceCount: 3},
		}}
	}
	want := &connect.Chain{
		Service: "api", Datacenter: "dc1", Protocol: connect.HTTP, Start: "router:api.default.default",
		Nodes: map[string]connect.Node{
			"router:api.default.default": {Kind: connect.RouterNode, Name: "api.default.default", Routes: []connect.ChainRoute{
				{Match: connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/v2"}}, Next: "resolver:v2.api.default.default.dc1", Retry: connect.Retry{Attempts: 2}},
				{Match: connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/"}}, Next: "splitter:api.default.default"},
			}},
			"splitter:api.default.default": {Kind: connect.SplitterNode, Name: "api.default.default", Splits: []connect.Split{
				{Weight: 9000, Next: "resolver:v1.api.default.default.dc1"}, {Weight: 1000, Next: "resolver:v2.api.default.default.dc1"},
			}},
			"resolver:v1.api.default.default.dc1": resolver("v1.api.default.default.dc1", "v2.api.default.default.dc1"),
			"resolver:v2.api.default.default.dc1": resolver("v2.api.default.default.dc1", "v2.api.default.default.dc2"),
		},
		Targets: map[connect.TargetID]connect.Target{
			"v1.api.default.default.dc1": target("v1", "dc1"),
			"v2.api.default.default.dc1": target("v2", "dc1"),
			"v2.api.default.default.dc2": target("v2", "dc2"),
		},
		VirtualIPs: []netip.Addr{netip.MustParseAddr("240.0.0.1")},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("chain (-want +got):\n%s", diff)
	}
}

func TestGatewayModeOfTheUpstreamReachesOnlyTargetsElsewhere(t *testing.T) {
	chain, err := convertChain(recorded[struct{ Chain *wireChain }](t, "chain.json").Chain, "api", "local")
	if err != nil {
		t.Fatal(err)
	}
	// The caller may be in either: the chain may be compiled in another datacenter
	// than its own.
	for id, target := range chain.Targets {
		for _, local := range []string{"dc1", "dc2"} {
			want := local
			if target.Datacenter == local {
				want = ""
			}
			if got := target.GatewayIn(local); got != want {
				t.Errorf("%s from %s: through gateways of %q, want %q", id, local, got, want)
			}
		}
	}
}

func TestChainsThatLeadNowhereAreRefused(t *testing.T) {
	const (
		node   = `{"Type":"resolver","Name":"r","Resolver":{"ConnectTimeout":"5s","Target":"t"}}`
		target = `{"ID":"t","Service":"api","Datacenter":"dc1","SNI":"x"}`
	)
	chain := func(start, nodes, targets string) string {
		return fmt.Sprintf(`{"ServiceName":"api","Datacenter":"dc1","StartNode":%q,"Nodes":{%s},"Targets":{%s}}`, start, nodes, targets)
	}
	for _, tt := range []struct{ name, json, fails string }{
		{"fine", chain("r", `"r":`+node, `"t":`+target), ""},
		{"a timeout in nanoseconds", chain("r", `"r":`+strings.Replace(node, `"5s"`, `5000000000`, 1), `"t":`+target), ""},
		{"null", `null`, "holds no discovery chain"},
		{"empty", `{}`, `is for ""`},
		{"another service", strings.Replace(chain("r", `"r":`+node, `"t":`+target), `"api"`, `"db"`, 1), `is for "db"`},
		{"no start", chain("x", `"r":`+node, `"t":`+target), `start node "x" does not exist`},
		{"no target", chain("r", `"r":`+node, ``), `target "t" does not exist`},
		{"no failover target", chain("r", `"r":`+strings.Replace(node, `"Target"`, `"Failover":{"Targets":["u"]},"Target"`, 1), `"t":`+target), `failover target "u" does not exist`},
		{"null node", chain("r", `"r":null`, `"t":`+target), "it is null"},
		{"null target", chain("r", `"r":`+node, `"t":null`), "it is null"},
		{"unknown node type", chain("r", `"r":{"Type":"magic"}`, `"t":`+target), `type "magic"`},
		{"resolver without resolver", chain("r", `"r":{"Type":"resolver"}`, `"t":`+target), "resolver is missing"},
		{"empty router", chain("r", `"r":{"Type":"router"}`, `"t":`+target), "no routes"},
		{"empty splitter", chain("r", `"r":{"Type":"splitter"}`, `"t":`+target), "no splits"},
		{"route to nowhere", chain("o", `"r":`+node+`,"o":{"Type":"router","Routes":[{"Definition":{},"NextNode":"x"}]}`, `"t":`+target), `leads to "x"`},
		{"split to nowhere", chain("o", `"r":`+node+`,"o":{"Type":"splitter","Splits":[{"Weight":100,"NextNode":"x"}]}`, `"t":`+target), `leads to "x"`},
		{"circle", chain("o", `"o":{"Type":"router","Routes":[{"Definition":{},"NextNode":"p"}]},"p":{"Type":"splitter","Splits":[{"Weight":100,"NextNode":"o"}]}`, ``), "circle"},
		{"circle of one", chain("o", `"o":{"Type":"router","Routes":[{"Definition":{},"NextNode":"o"}]}`, ``), "circle"},
		{"bad timeout", chain("r", `"r":`+strings.Replace(node, `"5s"`, `"soon"`, 1), `"t":`+target), "soon is not a duration"},
		{"negative timeout", chain("r", `"r":`+strings.Replace(node, `"5s"`, `"-5s"`, 1), `"t":`+target), "not a duration from 0"},
		{"target under another name", chain("r", `"r":`+node, `"t":`+strings.Replace(target, `"t"`, `"u"`, 1)), `its ID is "u"`},
		{"target without service", chain("r", `"r":`+node, `"t":{"Datacenter":"dc1","SNI":"x"}`), "names no service"},
		{"target without place", chain("r", `"r":`+node, `"t":{"Service":"api","SNI":"x"}`), "neither a datacenter nor a peer"},
		{"target without SNI", chain("r", `"r":`+node, `"t":{"Service":"api","Datacenter":"dc1"}`), "no SNI"},
		{"peer without SNI", chain("r", `"r":`+node, `"t":{"Service":"api","Peer":"east"}`), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := convertChain(decode[*wireChain](t, tt.json), "api", "")
			if tt.fails == "" {
				wantError(t, err)
			} else {
				wantError(t, err, tt.fails)
			}
		})
	}
}

func TestRecordedEndpointHasTheWeightOfItsWarning(t *testing.T) {
	got := convertInstances(EndpointsKey{Service: "api", Local: "dc1"}, recorded[[]wireEndpoint](t, "endpoints.json")).Endpoints
	want := []connect.Endpoint{{ID: "api-1-sidecar-proxy", Node: "n1", Address: "127.0.0.1", Port: 21001, Weight: 3}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
}

func TestEndpointsAreJudgedByChecksAndWeights(t *testing.T) {
	check := func(id, status, service string) string {
		return fmt.Sprintf(`{"CheckID":%q,"Name":%q,"Status":%q,"ServiceID":%q}`, id, id, status, service)
	}
	here := EndpointsKey{Local: "dc1"}
	for _, tt := range []struct {
		name, weights, checks string
		key                   EndpointsKey
		weight                int
		unusable              string
	}{
		{name: "no checks, no weights", key: here, weight: 1},
		{name: "passing", key: here, weights: `{"Passing":5,"Warning":2}`, checks: check("db", "passing", "x"), weight: 5},
		{name: "warning", key: here, weights: `{"Passing":5,"Warning":2}`, checks: check("db", "warning", "x"), weight: 2},
		{name: "warning at weight 0", key: here, weights: `{"Passing":5,"Warning":0}`, checks: check("db", "warning", "x"), unusable: "its weight is 0 while a check is in warning"},
		{name: "passing at weight 0", key: here, weights: `{"Passing":0,"Warning":2}`, unusable: "its weight is 0"},
		{name: "weight cap", key: here, weights: `{"Passing":65535,"Warning":1}`, weight: 128},
		{name: "negative weight", key: here, weights: `{"Passing":-3,"Warning":1}`, unusable: "its weight is -3"},
		{name: "critical", key: here, checks: check("ok", "passing", "x") + "," + check("db", "critical", "x"), unusable: `check "db" is critical`},
		{name: "critical after warning", key: here, checks: check("a", "warning", "x") + "," + check("db", "critical", "x"), unusable: `check "db" is critical`},
		{name: "node critical", key: here, checks: check("serfHealth", "critical", ""), unusable: `node check "serfHealth" is critical`},
		{name: "service maintenance", key: here, checks: check("_service_maintenance:x", "critical", "x"), unusable: "it is in maintenance"},
		{name: "node maintenance", key: here, checks: check("_node_maintenance", "critical", ""), unusable: "its node is in maintenance"},
		{name: "unknown status", key: here, checks: check("db", "fine", "x"), unusable: `check "db" is "fine", which is no known status`},
		{name: "only passing", key: EndpointsKey{Local: "dc1", OnlyPassing: true}, checks: check("db", "warning", "x"), unusable: `check "db" is in warning, and the subset takes only passing instances`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			weights := ""
			if tt.weights != "" {
				weights = `,"Weights":` + tt.weights
			}
			w := decode[[]wireEndpoint](t, `[{"Node":{"Node":"n","Address":"192.0.2.1","Datacenter":"dc1"},"Service":{"ID":"x","Port":1`+weights+`},"Checks":[`+tt.checks+`]}]`)
			got := convertInstances(tt.key, w).Endpoints[0]
			if got.Weight != tt.weight || !strings.Contains(got.Unusable, tt.unusable) || (tt.unusable == "") != got.Usable() {
				t.Errorf("weight %d, unusable %q; want %d, %q", got.Weight, got.Unusable, tt.weight, tt.unusable)
			}
		})
	}
}

func TestAddressesAreChosenByWhereTheCallerIs(t *testing.T) {
	const (
		wanService = `"TaggedAddresses":{"wan":{"Address":"s-wan","Port":9}},`
		wanNoPort  = `"TaggedAddresses":{"wan":{"Address":"s-wan"}},`
	)
	for _, tt := range []struct {
		name, local, service, want string
	}{
		{"own address", "dc1", `"Address":"s-lan",` + wanService, "s-lan:1"},
		{"node address", "dc1", wanService, "n-lan:1"},
		{"wan of the service", "dc2", `"Address":"s-lan",` + wanService, "s-wan:9"},
		{"wan of the service without port", "dc2", `"Address":"s-lan",` + wanNoPort, "s-wan:1"},
		{"own address before wan of the node", "dc2", `"Address":"s-lan",`, "s-lan:1"},
		{"wan of the node", "dc2", ``, "n-wan:1"},
	} {
		w := decode[wireEndpoint](t, `{"Node":{"Address":"n-lan","Datacenter":"dc1","TaggedAddresses":{"wan":"n-wan"}},"Service":{`+tt.service+`"Port":1}}`)
		got := convertEndpoint(EndpointsKey{Local: tt.local, LocalPartition: "default"}, w)
		if s := fmt.Sprintf("%s:%d", got.Address, got.Port); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, s, tt.want)
		}
	}
	for _, bad := range []string{`{"Service":{"Port":1}}`, `{"Node":{"Address":"n"},"Service":{"Port":0}}`, `{"Node":{"Address":"n"},"Service":{"Port":65536}}`} {
		if e := convertEndpoint(EndpointsKey{}, decode[wireEndpoint](t, bad)); e.Usable() || !strings.Contains(e.Unusable, "nobody can call") {
			t.Errorf("%s: %+v, want it unusable", bad, e)
		}
	}
}

func TestEndpointsAreSorted(t *testing.T) {
	w := decode[[]wireEndpoint](t, `[{"Service":{"ID":"b","Port":1}},{"Service":{"ID":"a","Port":2}},{"Service":{"ID":"a","Port":1}}]`)
	got := convertInstances(EndpointsKey{}, w).Endpoints
	if got[0].ID != "a" || got[0].Port != 1 || got[1].Port != 2 || got[2].ID != "b" {
		t.Errorf("order %+v", got)
	}
}

func TestRecordedRootsMakeABundle(t *testing.T) {
	b, err := convertRoots(recorded[wireRoots](t, "roots.json"))
	if err != nil {
		t.Fatal(err)
	}
	if b.TrustDomain != meshca.TrustDomain || len(b.Roots) != 1 || b.Active() == nil || b.Active().SigningKeyID != meshca.KeyID(b.Roots[0].Certificates[0]) {
		t.Errorf("bundle %+v", b)
	}
}

// rootsJSON writes a root list as Consul does; the last root is active.
func rootsJSON(t *testing.T, domain string, roots ...wireRoot) string {
	t.Helper()
	w := wireRoots{TrustDomain: domain, Roots: roots}
	if len(roots) > 0 {
		w.ActiveRootID = roots[len(roots)-1].ID
	}
	text, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestRootsInRotationKeepOldAndCrossSigned(t *testing.T) {
	before, after := meshca.New("before"), meshca.New("after")
	cross := before.CrossSign(after)
	b, err := convertRoots(decode[wireRoots](t, rootsJSON(t, "UPPER.consul",
		wireRoot{ID: "1", RootCert: meshca.PEM(before.Cert)},
		wireRoot{ID: "2", RootCert: meshca.PEM(after.Cert), IntermediateCerts: []string{meshca.PEM(cross)}})))
	if err != nil {
		t.Fatal(err)
	}
	if b.TrustDomain != "upper.consul" || len(b.Roots) != 2 || b.Active().ID != "2" || !b.Active().Intermediates[0].Equal(cross) {
		t.Errorf("bundle %+v", b)
	}
}

func TestBadRootListsAreRefused(t *testing.T) {
	ca := meshca.New("ca")
	good := wireRoot{ID: "1", RootCert: meshca.PEM(ca.Cert)}
	leaf := meshca.PEM(ca.Leaf("web", nil).Chain[0])
	for _, tt := range []struct{ name, json, fails string }{
		{"domain from the root", rootsJSON(t, "", good), ""},
		{"empty", rootsJSON(t, "x.consul"), "the list of CA roots is empty"},
		{"null", `null`, "the list of CA roots is empty"},
		{"not PEM", rootsJSON(t, "x.consul", good, wireRoot{ID: "2", RootCert: "hello"}), `CA root "2"`},
		{"a key", rootsJSON(t, "x.consul", wireRoot{ID: "2", RootCert: "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}), "want CERTIFICATE"},
		{"not a CA", rootsJSON(t, "x.consul", good, wireRoot{ID: "2", RootCert: leaf}), "is not a CA certificate"},
		{"bad intermediate", rootsJSON(t, "x.consul", wireRoot{ID: "1", RootCert: good.RootCert, IntermediateCerts: []string{"x"}}), "intermediate 1"},
		{"too many", rootsJSON(t, "x.consul", make([]wireRoot, maxRoots+1)...), "65 CA roots"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := convertRoots(decode[wireRoots](t, tt.json))
			if tt.fails == "" {
				wantError(t, err)
			} else {
				wantError(t, err, tt.fails)
			}
		})
	}
}

func TestKeysSendOnlyWhatConsulTakes(t *testing.T) {
	s := connect.Service{Name: "web", Namespace: "default", Partition: "default", Datacenter: "dc1"}
	key := UpstreamChainKey(connect.Upstream{Name: "api", Datacenter: "dc2", MeshGateway: "none"}, s)
	if want := (ChainKey{Service: "api", Namespace: "default", Partition: "default", Datacenter: "dc2", MeshGateway: "none"}); key != want {
		t.Errorf("chain key %+v, want %+v", key, want)
	}
	if got := key.String(); got != "api?dc=dc2&gateway=none" {
		t.Errorf("chain key is called %q", got)
	}
	if got := tenancy("default", "").Encode(); got != "" {
		t.Errorf("default tenancy sends %q", got)
	}
	if got := tenancy("ns1", "ap1").Encode(); got != "ns=ns1&partition=ap1" {
		t.Errorf("tenancy sends %q", got)
	}
	target := connect.Target{Service: "api", Subset: "v1", Namespace: "ns1", Partition: "default", Datacenter: "dc2", OnlyPassing: true}
	if got := TargetEndpointsKey(target, s).String(); got != "v1.ns1/api?dc=dc2" {
		t.Errorf("endpoints key is called %q", got)
	}
}
