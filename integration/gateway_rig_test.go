// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// A datacenter is one Consul with one mesh gateway, a real Envoy. Its LAN and WAN
// addresses differ, so that tests see which of them is called.
type datacenter struct {
	*realserver.Consul
	name    string
	gateway *realserver.Envoy
	lan     string // host:port
	wan     string
	serfWAN string
}

// wanAddress is where gateways are called from outside.
const wanAddress = "127.0.0.2"

// newDatacenter starts a Consul; its gateway comes with startGateway.
func newDatacenter(t *testing.T, name string, more ...realserver.Option) *datacenter {
	t.Helper()
	d := &datacenter{name: name, serfWAN: realserver.FreeAddr(t)}
	_, port, _ := net.SplitHostPort(d.serfWAN)
	options := []realserver.Option{
		realserver.NodeName("node-" + name),
		realserver.HCL(fmt.Sprintf("datacenter = %q\nports { serf_wan = %s }", name, port)),
		realserver.HCL(manySidecars),
	}
	d.Consul = realserver.StartConsul(t, append(options, more...)...)
	return d
}

// federate starts dc1 and dc2, joined over the WAN, each with a gateway.
func federate(t *testing.T) (dc1, dc2 *datacenter) {
	t.Helper()
	dc1, dc2 = join(t)
	dc1.startGateway(t)
	dc2.startGateway(t)
	return dc1, dc2
}

// join starts dc1 and dc2, joined over the WAN.
func join(t *testing.T) (dc1, dc2 *datacenter) {
	t.Helper()
	dc1 = newDatacenter(t, "dc1", realserver.HCL(`primary_datacenter = "dc1"`))
	dc2 = newDatacenter(t, "dc2", realserver.HCL(fmt.Sprintf("primary_datacenter = \"dc1\"\nretry_join_wan = [%q]", dc1.serfWAN)))
	until(t, "the datacenters have one CA", func() error {
		var one, two struct{ ActiveRootID string }
		ask(t, dc1.Consul, "/v1/agent/connect/ca/roots", &one)
		ask(t, dc2.Consul, "/v1/agent/connect/ca/roots", &two)
		if one != two {
			return fmt.Errorf("roots are %v and %v", one, two)
		}
		return nil
	})
	until(t, "the datacenters know each other", func() error {
		for _, d := range []*datacenter{dc1, dc2} {
			var all []string
			ask(t, d.Consul, "/v1/catalog/datacenters", &all)
			if len(all) != 2 {
				return fmt.Errorf("%s knows %v", d.name, all)
			}
		}
		return nil
	})
	return dc1, dc2
}

// startGateway registers a mesh gateway and starts it.
func (d *datacenter) startGateway(t *testing.T) {
	t.Helper()
	d.lan = realserver.FreeAddr(t)
	host, port, _ := net.SplitHostPort(d.lan)
	d.wan = net.JoinHostPort(wanAddress, port)
	put(t, d.Consul, "/v1/agent/service/register", fmt.Sprintf(`{"Kind":"mesh-gateway","ID":"gateway-%s","Name":"mesh-gateway","Address":%q,"Port":%s,
		"TaggedAddresses":{"lan":{"Address":%q,"Port":%s},"wan":{"Address":%q,"Port":%s}},
		"Proxy":{"Config":{"envoy_gateway_bind_tagged_addresses":true}},
		"Check":{"Name":"listens","TCP":%q,"Interval":"500ms"}}`, d.name, host, port, host, port, wanAddress, port, d.lan))
	d.gateway = realserver.StartEnvoy(t, d.Consul, "gateway-"+d.name)
}

// seenTarget is what status says of a target.
type seenTarget struct {
	sni, through string
	used, unused []string // addresses of endpoints, and why others are not used
}

// targets are those of an upstream of one sidecar, by the name of the upstream,
// in the order of failover.
func (o *outrider) targets(t *testing.T, service, upstream string) []seenTarget {
	t.Helper()
	var out []seenTarget
	for _, u := range o.sidecar(t, service).Proxy.Upstreams {
		if name, _, _ := strings.Cut(string(u.ID), "?"); name != upstream {
			continue
		}
		for _, target := range u.Targets {
			seen := seenTarget{sni: target.SNI, through: target.Through}
			for _, e := range target.Endpoints {
				if e.NotUsed == "" {
					seen.used = append(seen.used, e.Address)
				} else {
					seen.unused = append(seen.unused, e.NotUsed)
				}
			}
			out = append(out, seen)
		}
	}
	return out
}

// reaches waits until a target, in the order of failover, is called at exactly
// these addresses.
func (o *outrider) reaches(t *testing.T, service, upstream string, target int, through string, addresses ...string) {
	t.Helper()
	until(t, fmt.Sprintf("%s calls target %d of %s at %v", service, target, upstream, addresses), func() error {
		all := o.targets(t, service, upstream)
		if len(all) <= target || !slices.Equal(all[target].used, addresses) || all[target].through != through {
			return fmt.Errorf("targets %+v", all)
		}
		return nil
	})
}

// notUsed waits until status says of a target why an endpoint is not used.
func (o *outrider) notUsed(t *testing.T, service, upstream string, target int, why string) {
	t.Helper()
	until(t, fmt.Sprintf("%s does not call target %d of %s: %s", service, target, upstream, why), func() error {
		all := o.targets(t, service, upstream)
		if len(all) <= target || !strings.Contains(strings.Join(all[target].unused, "\n"), why) {
			return fmt.Errorf("targets %+v", all)
		}
		return nil
	})
}

// upstreamsTo is more of a proxy block: upstreams with what all of them have.
func upstreamsTo(ports map[string]int, common string) string {
	var b strings.Builder
	for name, port := range ports {
		fmt.Fprintf(&b, "      upstreams {\n        destination_name = %q\n        local_bind_port  = %d\n%s\n      }\n", name, port, common)
	}
	return b.String()
}

// getOnce asks an HTTP application through a local listener who it is.
func getOnce(t *testing.T, port int) (server string, err error) {
	t.Helper()
	r, err := getBy(t, newCaller(t, port, false))
	return r.Server, err
}

// getBy makes one request, over a connection that is not kept.
func getBy(t *testing.T, c *caller) (reply, error) {
	t.Helper()
	defer c.client.CloseIdleConnections()
	r, err := c.get(t.Context(), "/hello")
	if err == nil && r.status != http.StatusOK {
		err = fmt.Errorf("status %d, reason %q: %.200q", r.status, r.refused(), r.text)
	}
	return r, err
}

// post sends JSON to Consul's API and reads the answer.
func post(t *testing.T, consul *realserver.Consul, path, body string, into any) error {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+consul.Addr+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("POST %s: %s", path, res.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(res.Body).Decode(into)
}
