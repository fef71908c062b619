// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

func TestWhatAQueryFindsMustProveToBeIt(t *testing.T) {
	node := func(dc, service string) string {
		return fmt.Sprintf(`{"Node":{"Node":"n","Address":"192.0.2.1","Datacenter":%q},"Service":{"Port":1,%s}}`, dc, service)
	}
	proxy := func(id, of string) string {
		return fmt.Sprintf(`"ID":%q,"Kind":"connect-proxy","Proxy":{"DestinationServiceName":%q}`, id, of)
	}
	list := []string{
		node("dc2", proxy("b", "api")), node("dc2", proxy("a", "api")), node("", proxy("c", "api-v2")),
		node("dc1", `"ID":"d","Kind":"terminating-gateway"`), node("dc1", `"ID":"e","Service":"native","Connect":{"Native":true}`),
		node("dc1", `"ID":"f","Service":"plain"`), node("dc1", proxy("g", "api")+`,"PeerName":"east"`),
	}
	w := decode[wireQuery](t, `{"Service":"api","Datacenter":"dc3","Nodes":[`+strings.Join(list, ",")+`]}`)
	got := convertFound(EndpointsKey{Service: "geo", Query: true, Local: "dc1"}, w, "td.consul")
	if got.SNI != "geo.default.dc1.query.td.consul" {
		t.Errorf("SNI %q", got.SNI)
	}
	id := func(dc, service string) string { return "spiffe://td.consul/ns/default/dc/" + dc + "/svc/" + service }
	if diff := cmp.Diff([]string{id("dc1", "api"), id("dc1", "native"), id("dc2", "api"), id("dc3", "api-v2")}, got.Identities); diff != "" {
		t.Errorf("identities (-want +got):\n%s", diff)
	}
	var usable []string
	for _, e := range got.Endpoints {
		if e.Usable() {
			usable = append(usable, e.ID)
		}
	}
	if diff := cmp.Diff([]string{"a", "b", "c", "d", "e"}, usable); diff != "" {
		t.Errorf("usable (-want +got):\n%s\n%+v", diff, got.Endpoints)
	}
	if e := got.Endpoints[6]; !strings.Contains(e.Unusable, `of peer "east"`) {
		t.Errorf("%+v", e)
	}
	if sni := convertFound(EndpointsKey{Service: "geo", Datacenter: "dc9", Local: "dc1"}, w, "td.consul").SNI; sni != "geo.default.dc9.query.td.consul" {
		t.Errorf("SNI %q", sni)
	}
}

func TestQueriesAreRunWhereTheUpstreamSays(t *testing.T) {
	const path = "/v1/query/geo/execute"
	a := newAgent(t)
	a.answer("/v1/agent/connect/ca/roots", says(rootsJSON(t, "td.consul", wireRoot{ID: "1", RootCert: meshca.PEM(meshca.New("x").Cert)})))
	c := a.client(t, nil)
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		why    string
	}{
		"none of that name": {fails(404, "Query not found"), "Query not found"},
		"no right":          {fails(403, "Permission denied"), "query:read"},
	} {
		a.answer(path, tc.answer)
		got, _, err := c.openEndpoints(EndpointsKey{Service: "geo", Query: true, Local: "dc1"})(t.Context(), watch.Cursor{})
		if err != nil || len(got.Endpoints) != 1 || !strings.Contains(got.Endpoints[0].Unusable, tc.why) || got.Identities != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	found, err := json.Marshal(map[string]any{"Nodes": []any{map[string]any{
		"Node":    map[string]any{"Address": "192.0.2.1", "Datacenter": "dc2"},
		"Service": map[string]any{"ID": "a", "Kind": "connect-proxy", "Port": 1, "Proxy": map[string]any{"DestinationServiceName": "api"}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	a.answer(path, says(string(found)))
	got, _, err := c.openEndpoints(EndpointsKey{Service: "geo", Query: true, Datacenter: "dc2", Local: "dc1"})(t.Context(), watch.Cursor{})
	want := connect.Instances{
		Endpoints:  []connect.Endpoint{{ID: "a", Address: "192.0.2.1", Port: 1, Weight: 1}},
		SNI:        "geo.default.dc2.query.td.consul",
		Identities: []string{"spiffe://td.consul/ns/default/dc/dc2/svc/api"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	seen := a.requests(path)
	if q := seen[len(seen)-1].URL.Query(); q.Get("connect") != "true" || q.Get("dc") != "dc2" {
		t.Errorf("asked with %v", q)
	}
}

func TestWhatCannotBeWaitedOnIsAskedForAtItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pacer{every: queryPace}
		began := time.Now()
		if after, err := p.wait(t.Context(), watch.Cursor{Index: 7}); err != nil || after.Index != 7 || time.Since(began) != 0 {
			t.Errorf("an answer that can be waited on: %+v, %v", after, err)
		}
		first := p.cursor()
		if after, err := p.wait(t.Context(), first); err != nil || after != (watch.Cursor{}) || time.Since(began) != queryPace {
			t.Errorf("%+v, %v after %v", after, err, time.Since(began))
		}
		if p.cursor() == first {
			t.Error("two answers look like one")
		}
	})
}
