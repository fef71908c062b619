// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// newCluster starts a datacenter that is a cluster of its own: another CA,
// another trust domain, and no way to the other but peering.
func newCluster(t *testing.T, name string, more ...realserver.Option) *datacenter {
	t.Helper()
	_, port, _ := net.SplitHostPort(realserver.FreeAddr(t))
	options := append([]realserver.Option{realserver.HCL(fmt.Sprintf("peering { enabled = true }\nports { grpc_tls = %s }", port))}, more...)
	return newDatacenter(t, name, options...)
}

// peer makes two clusters peers: a calls b's services those of peer "b", and b
// calls a's callers those of peer "a".
func peerUp(t *testing.T, a, b *datacenter) {
	t.Helper()
	var token struct{ PeeringToken string }
	until(t, "b hands out a token", func() error {
		return post(t, b.Consul, "/v1/peering/token", `{"PeerName":"a"}`, &token)
	})
	until(t, "a establishes the peering", func() error {
		return post(t, a.Consul, "/v1/peering/establish", fmt.Sprintf(`{"PeerName":"b","PeeringToken":%q}`, token.PeeringToken), nil)
	})
	for _, side := range []struct {
		d    *datacenter
		name string
	}{{a, "b"}, {b, "a"}} {
		until(t, "the peering is active", func() error {
			var p struct{ State string }
			ask(t, side.d.Consul, "/v1/peering/"+side.name, &p)
			if p.State != "ACTIVE" {
				return fmt.Errorf("it is %q on the side of %s", p.State, side.d.name)
			}
			return nil
		})
	}
}

// export lets a peer call services.
func (d *datacenter) export(t *testing.T, peer string, services ...string) {
	t.Helper()
	var list []string
	for _, name := range services {
		list = append(list, fmt.Sprintf(`{"Name":%q,"Consumers":[{"Peer":%q}]}`, name, peer))
	}
	entry(t, d.Consul, `{"Kind":"exported-services","Name":"default","Services":[%s]}`, strings.Join(list, ","))
}

// admit says what services of peer a may do with a service: name=action.
func (d *datacenter) admit(t *testing.T, service string, sources ...string) {
	t.Helper()
	var list []string
	for _, s := range sources {
		name, action, _ := strings.Cut(s, "=")
		list = append(list, fmt.Sprintf(`{"Name":%q,"Peer":"a","Action":%q}`, name, action))
	}
	entry(t, d.Consul, `{"Kind":"service-intentions","Name":%q,"Sources":[%s]}`, service, strings.Join(list, ","))
}

// registerPeered registers a sidecar for Envoy that calls services of peer b.
func (d *datacenter) registerPeered(t *testing.T, name, mode string, ports map[string]int) {
	t.Helper()
	var list []string
	for service, port := range ports {
		list = append(list, fmt.Sprintf(`{"destination_name":%q,"destination_peer":"b","local_bind_port":%d,"mesh_gateway":{"mode":%q}}`, service, port, mode))
	}
	path := t.TempDir() + "/service.json"
	writeFile(t, path, fmt.Sprintf(`{"service":{"name":%q,"address":"127.0.0.1","port":1,"connect":{"sidecar_service":{"address":"127.0.0.1","port":%d,
		"proxy":{"upstreams":[%s]}}}}}`, name, freePort(t), strings.Join(list, ",")))
	d.Command(t, "services", "register", path)
}

// endPeering deletes a peering, which ends it on both sides.
func (d *datacenter) endPeering(t *testing.T, name string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, "http://"+d.Addr+"/v1/peering/"+name, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("end the peering with %q: %s", name, res.Status)
	}
}
