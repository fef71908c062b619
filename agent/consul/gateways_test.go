// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

const (
	gatewayList   = "/v1/catalog/services"
	gatewayHealth = "/v1/health/service/"
)

// gatewayJSON is a mesh gateway of dc2 whose only check is critical.
func gatewayJSON(id string, port int) string {
	return fmt.Sprintf(`{"Node":{"Node":"n","Address":"192.0.2.1","Datacenter":"dc2","TaggedAddresses":{"wan":"192.0.2.2"}},
		"Service":{"Kind":"mesh-gateway","ID":%q,"Address":"192.0.2.3","Port":%d,"TaggedAddresses":{"wan":{"Address":"192.0.2.4","Port":%d}}},
		"Checks":[{"CheckID":"x","Status":"critical"}]}`, id, port, port+1000)
}

func watchGateways(t *testing.T, a *agent, local string) <-chan []connect.Endpoint {
	t.Helper()
	w := NewWatches(a.client(t, nil), nil)
	sink, values := into[[]connect.Endpoint]()
	w.Gateways.Reconcile("web", map[GatewaysKey]func([]connect.Endpoint){{Datacenter: "dc2", Local: local}: sink})
	background(t, w.Run)
	return values
}

func TestGatewaysAreFoundByKindAndCalledWhereTheCallerCan(t *testing.T) {
	for local, address := range map[string]string{"dc1": "192.0.2.4:1009", "dc2": "192.0.2.3:9"} {
		a := newAgent(t)
		a.answer(gatewayList, says(`{"edge":[]}`))
		impostor := strings.Replace(gatewayJSON("x", 1), "mesh-gateway", "connect-proxy", 1)
		a.answer(gatewayHealth+"edge", says("["+gatewayJSON("gw", 9)+","+impostor+"]"))
		got := receive(t, watchGateways(t, a, local))
		if len(got) != 1 || got[0].ID != "gw" || got[0].HostPort() != address || !got[0].Usable() {
			t.Errorf("from %s: %+v, want gw at %s, whatever its checks say", local, got, address)
		}
		q := a.requests(gatewayList)[0].URL.Query()
		if q.Get("dc") != "dc2" || q.Get("filter") != `ServiceKind == "mesh-gateway"` {
			t.Errorf("asked with %v", q)
		}
		if q := a.requests(gatewayHealth + "edge")[0].URL.Query(); q.Get("dc") != "dc2" {
			t.Errorf("asked with %v", q)
		}
	}
}

func TestGatewaysOfAnotherNameAreNoticed(t *testing.T) {
	a := newAgent(t)
	a.answer(gatewayList, says(`{"edge":[]}`))
	a.answer(gatewayHealth+"edge", says("["+gatewayJSON("one", 1)+"]"))
	values := watchGateways(t, a, "dc1")
	if got := receive(t, values); len(got) != 1 {
		t.Fatalf("gateways %+v", got)
	}
	a.answer(gatewayHealth+"edge", says("["+gatewayJSON("one", 1)+","+gatewayJSON("two", 2)+"]"))
	if got := receive(t, values); len(got) != 2 {
		t.Fatalf("a second instance: %+v", got)
	}
	a.answer(gatewayHealth+"border", says("["+gatewayJSON("three", 3)+"]"))
	a.answer(gatewayList, says(`{"edge":[],"border":[]}`))
	if got := receive(t, values); len(got) != 3 {
		t.Fatalf("a second name: %+v", got)
	}
}

func TestGatewaysNobodyCanNameSayWhy(t *testing.T) {
	for name, tc := range map[string]struct {
		list http.HandlerFunc
		why  string
	}{
		"no path":   {fails(500, "No path to datacenter"), `Consul has no path to datacenter "dc2"`},
		"no right":  {fails(403, "Permission denied"), "service:read on the mesh gateways"},
		"no leader": {fails(500, "No cluster leader"), "No cluster leader"},
		"none":      {says(`{}`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t)
			a.answer(gatewayList, tc.list)
			got := receive(t, watchGateways(t, a, "dc1"))
			if tc.why == "" {
				if len(got) != 0 {
					t.Errorf("gateways %+v", got)
				}
				return
			}
			if len(got) != 1 || got[0].Usable() || !strings.Contains(got[0].Unusable, tc.why) {
				t.Errorf("gateways %+v, want one that says %q", got, tc.why)
			}
		})
	}
}

// What was good is kept: an outage of the other datacenter must not take its
// gateways from those who call through them.
func TestGatewaysThatWereKnownAreKept(t *testing.T) {
	a := newAgent(t)
	a.answer(gatewayList, says(`{"edge":[]}`))
	a.answer(gatewayHealth+"edge", says("["+gatewayJSON("one", 1)+"]"))
	c := a.client(t, nil)
	fetch := c.openGateways(GatewaysKey{Datacenter: "dc2", Local: "dc1"})
	_, after, err := fetch(t.Context(), watch.Cursor{})
	if err != nil || after.Index == 0 {
		t.Fatalf("cursor %+v, %v", after, err)
	}
	a.answer(gatewayHealth+"edge", fails(500, "No path to datacenter"))
	if got, _, err := fetch(t.Context(), after); err == nil {
		t.Errorf("blocking: %+v", got)
	}
	a.answer(gatewayList, fails(500, "No path to datacenter"))
	if got, _, err := fetch(t.Context(), watch.Cursor{}); err == nil {
		t.Errorf("from the start: %+v", got)
	}
}

func TestTooManyNamesOfGatewaysAreAnError(t *testing.T) {
	a := newAgent(t)
	var names []string
	for i := range maxGatewayNames + 1 {
		names = append(names, fmt.Sprintf(`"gw-%d":[]`, i))
	}
	a.answer(gatewayList, says("{"+strings.Join(names, ",")+"}"))
	_, err := a.client(t, nil).gatewayNames(t.Context(), GatewaysKey{Datacenter: "dc2"})
	wantError(t, err, `datacenter "dc2"`, "at most 32")
}

func TestKeysOfWhatLiesElsewhere(t *testing.T) {
	s := connect.Service{Datacenter: "dc1", Partition: "default"}
	got := []string{
		DatacenterGatewaysKey("dc2", s).String(), ServicePeerKey("east", s).String(),
		UpstreamChainKey(connect.Upstream{Name: "api", Peer: "east"}, s).String(),
		UpstreamChainKey(connect.Upstream{Name: "geo", Query: true}, s).String(),
		TargetEndpointsKey(connect.Target{Service: "api", Peer: "east"}, s).String(),
		TargetEndpointsKey(connect.Target{Service: "geo", Query: true}, s).String(),
	}
	if diff := cmp.Diff([]string{"of dc2", "east", "api?peer=east", "query:geo", "api?peer=east", "query:geo"}, got); diff != "" {
		t.Error(diff)
	}
}
