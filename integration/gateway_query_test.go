// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A prepared query finds services here, and in another datacenter when none is
// well here; what it finds must prove to be what it looked for, there.
func TestPreparedQueriesFindServicesHereAndInAnotherDatacenter(t *testing.T) {
	t.Parallel()
	dc1, dc2 := join(t)
	entry(t, dc1.Consul, `{"Kind":"service-defaults","Name":"hapi","Protocol":"http"}`)
	for _, name := range []string{"api", "hapi"} {
		query := fmt.Sprintf(`{"Name":"near-%s","Service":{"Service":%q,"Failover":{"Datacenters":["dc2"]}}}`, name, name)
		if err := post(t, dc1.Consul, "/v1/query", query, nil); err != nil {
			t.Fatal(err)
		}
	}
	start(t, dc1.Consul, service{name: "api", app: app(t, "api-1")}.stanza(t)+service{name: "hapi", app: httpApp(t, "hapi-1")}.stanza(t))
	inbound := freePort(t)
	start(t, dc2.Consul, service{name: "api", app: app(t, "api-2"), inbound: inbound}.stanza(t)+service{name: "hapi", app: httpApp(t, "hapi-2")}.stanza(t))
	ports := map[string]int{"api": freePort(t), "hapi": freePort(t), "absent": freePort(t)}
	kind := "        destination_type = \"prepared_query\"\n"
	web := start(t, dc1.Consul, service{name: "web", proxy: upstreamsTo(map[string]int{"near-api": ports["api"], "near-absent": ports["absent"]}, kind) +
		upstreamsTo(map[string]int{"near-hapi": ports["hapi"]}, kind+"        config { protocol = \"http\" }")}.stanza(t))
	served := func(by string) {
		t.Helper()
		untilWithin(t, 2*time.Minute, "calls are served by "+by, func() error {
			c, err := dial(ports["api"])
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			server, err := getOnce(t, ports["hapi"])
			if err == nil && (c.server != "api-"+by || server != "hapi-"+by) {
				err = fmt.Errorf("served by %q and %q", c.server, server)
			}
			return err
		})
	}
	served("1")
	var roots struct{ TrustDomain string }
	ask(t, dc1.Consul, "/v1/connect/ca/roots", &roots)
	if got := web.targets(t, "web", "query:near-api"); len(got) != 1 || got[0].sni != "near-api.default.dc1.query."+roots.TrustDomain {
		t.Errorf("targets %+v", got)
	}
	web.notUsed(t, "web", "query:near-absent", 0, "Query not found")
	maintain(t, dc1.Consul, "api", true)
	maintain(t, dc1.Consul, "hapi", true)
	served("2")
	web.reaches(t, "web", "query:near-api", 0, "", fmt.Sprintf("127.0.0.1:%d", inbound))
	if _, err := dial(ports["absent"]); err == nil {
		t.Error("a query that does not exist led somewhere")
	}
	if text := fmt.Sprint(web.sidecar(t, "web").Proxy.Recent); !strings.Contains(text, "Query not found") {
		t.Errorf("refusals %s", text)
	}
}
