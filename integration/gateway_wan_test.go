// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// Services of another datacenter are called directly, through its gateways or
// through our own, by what the upstream says, over TCP and HTTP, and whoever is
// in front of the application there.
func TestServicesOfAnotherDatacenterAreCalledDirectlyAndThroughGateways(t *testing.T) {
	t.Parallel()
	dc1, dc2 := federate(t)
	entry(t, dc1.Consul, `{"Kind":"service-defaults","Name":"hapi-outrider","Protocol":"http"}`)
	entry(t, dc1.Consul, `{"Kind":"service-defaults","Name":"hapi-envoy","Protocol":"http"}`)
	direct := map[string]string{} // addresses of the sidecars
	for name, run := range map[string]func(*testing.T, string) net.Addr{"api": app, "hapi": httpApp} {
		inbound := freePort(t)
		start(t, dc2.Consul, service{name: name + "-outrider", app: run(t, name+"-outrider"), inbound: inbound}.stanza(t))
		direct[name+"-outrider"] = fmt.Sprintf("127.0.0.1:%d", inbound)
		inbound = register(t, dc2.Consul, name+"-envoy", run(t, name+"-envoy").(*net.TCPAddr).Port)
		direct[name+"-envoy"] = fmt.Sprintf("127.0.0.1:%d", inbound)
	}
	realserver.StartEnvoy(t, dc2.Consul, "api-envoy-sidecar-proxy")
	realserver.StartEnvoy(t, dc2.Consul, "hapi-envoy-sidecar-proxy")
	var config strings.Builder
	ports := map[string]map[string]int{}
	for _, mode := range []string{"none", "remote", "local"} {
		ports[mode] = map[string]int{}
		for name := range direct {
			ports[mode][name] = freePort(t)
		}
		block := fmt.Sprintf("        datacenter = \"dc2\"\n        mesh_gateway { mode = %q }", mode)
		config.WriteString(service{name: "web-" + mode, proxy: upstreamsTo(ports[mode], block)}.stanza(t))
	}
	web := start(t, dc1.Consul, config.String())
	for mode, through := range map[string]struct{ words, address string }{
		"none":   {},
		"remote": {`mesh gateways of datacenter "dc2"`, dc2.wan},
		"local":  {`mesh gateways of datacenter "dc1"`, dc1.lan},
	} {
		for name, port := range ports[mode] {
			address := through.address
			if mode == "none" {
				address = direct[name]
			}
			web.reaches(t, "web-"+mode, name, 0, through.words, address)
			until(t, fmt.Sprintf("%s is called with mode %s", name, mode), func() error {
				if strings.HasPrefix(name, "hapi") {
					server, err := getOnce(t, port)
					if err == nil && server != name {
						err = fmt.Errorf("served by %q", server)
					}
					return err
				}
				return pingAt(port, strings.TrimPrefix(name, "api-"))
			})
		}
	}
	// TLS goes through to the service: it sees the caller, and not the gateway.
	intend(t, dc1.Consul, "deny", "web-remote", "api-outrider")
	until(t, "a denied caller is denied behind the gateways", func() error {
		if err := pingAt(ports["remote"]["api-outrider"], "outrider"); err == nil {
			return fmt.Errorf("the call went through")
		}
		return nil
	})
	if err := pingAt(ports["local"]["api-outrider"], "outrider"); err != nil {
		t.Errorf("another caller through the same gateway: %v", err)
	}
}

// With failover through a gateway, the other datacenter takes over while no local
// instance is well, and only then; a gateway that is gone is a clear reason.
func TestFailoverGoesThroughGatewaysAndSaysWhyItCannot(t *testing.T) {
	t.Parallel()
	dc1, dc2 := federate(t)
	entry(t, dc1.Consul, `{"Kind":"proxy-defaults","Name":"global","MeshGateway":{"Mode":"remote"}}`)
	entry(t, dc1.Consul, `{"Kind":"service-defaults","Name":"hapi","Protocol":"http"}`)
	for _, name := range []string{"api", "hapi"} {
		entry(t, dc1.Consul, `{"Kind":"service-resolver","Name":%q,"Failover":{"*":{"Datacenters":["dc2"]}}}`, name)
	}
	inbound, ports := freePort(t), map[string]int{"api": freePort(t), "hapi": freePort(t)}
	start(t, dc1.Consul, service{name: "api", app: app(t, "api-1"), inbound: inbound}.stanza(t)+service{name: "hapi", app: httpApp(t, "hapi-1")}.stanza(t))
	start(t, dc2.Consul, service{name: "api", app: app(t, "api-2")}.stanza(t)+service{name: "hapi", app: httpApp(t, "hapi-2")}.stanza(t))
	web := start(t, dc1.Consul, service{name: "web", proxy: upstreamsTo(ports, "")}.stanza(t))
	served := func(by string) {
		t.Helper()
		until(t, "calls are served by "+by, func() error {
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
	both := func(out bool) {
		t.Helper()
		maintain(t, dc1.Consul, "api", out)
		maintain(t, dc1.Consul, "hapi", out)
	}
	through := `mesh gateways of datacenter "dc2"`
	web.reaches(t, "web", "api", 0, "", fmt.Sprintf("127.0.0.1:%d", inbound))
	web.reaches(t, "web", "api", 1, through, dc2.wan)
	served("1")
	both(true)
	served("2")
	both(false)
	served("1")
	both(true)
	served("2")

	dc2.gateway.Stop()
	caller := newCaller(t, ports["hapi"], false)
	until(t, "the gateway's end is the reason", func() error {
		r, err := caller.get(t.Context(), "/hello")
		if err == nil && (r.status != 503 || r.refused() != string(connect.ConnectFailed)) {
			err = fmt.Errorf("status %d, reason %q", r.status, r.refused())
		}
		if c, dialErr := dial(ports["api"]); dialErr == nil {
			_ = c.Close()
			return fmt.Errorf("the call went through")
		}
		return err
	})
	sc := web.sidecar(t, "web")
	if sc.Proxy.Refused[connect.ConnectFailed] == 0 || !strings.Contains(fmt.Sprint(sc.Proxy.Recent), dc2.wan) {
		t.Errorf("refusals %v, %+v", sc.Proxy.Refused, sc.Proxy.Recent)
	}
	put(t, dc2.Consul, "/v1/agent/service/deregister/gateway-dc2", "")
	web.notUsed(t, "web", "api", 1, `no mesh gateway is registered in datacenter "dc2"`)
	// Gateways count only while there is somebody behind them.
	maintain(t, dc2.Consul, "api", true)
	web.notUsed(t, "web", "api", 1, "maintenance")
}
