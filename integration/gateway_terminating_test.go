// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"fmt"
	"net"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// Services that are not in the mesh are called through a terminating gateway,
// which proves to be them: nothing is special about it but who answers.
func TestServicesBehindATerminatingGatewayAreCalled(t *testing.T) {
	t.Parallel()
	d := newDatacenter(t, "dc1")
	at := realserver.FreeAddr(t)
	host, port, _ := net.SplitHostPort(at)
	entry(t, d.Consul, `{"Kind":"service-defaults","Name":"hlegacy","Protocol":"http"}`)
	for name, listens := range map[string]net.Addr{"legacy": app(t, "legacy"), "hlegacy": httpApp(t, "hlegacy")} {
		put(t, d.Consul, "/v1/catalog/register", fmt.Sprintf(`{"Node":"outside","Address":"127.0.0.1","NodeMeta":{"external-node":"true"},
			"Service":{"Service":%q,"Address":"127.0.0.1","Port":%d}}`, name, listens.(*net.TCPAddr).Port))
	}
	put(t, d.Consul, "/v1/agent/service/register", fmt.Sprintf(`{"Kind":"terminating-gateway","ID":"edge","Name":"edge","Address":%q,"Port":%s}`, host, port))
	entry(t, d.Consul, `{"Kind":"terminating-gateway","Name":"edge","Services":[{"Name":"legacy"},{"Name":"hlegacy"}]}`)
	realserver.StartEnvoy(t, d.Consul, "edge")
	ports := map[string]int{"legacy": freePort(t), "hlegacy": freePort(t)}
	web := start(t, d.Consul, service{name: "web", proxy: upstreamsTo(ports, "")}.stanza(t))
	web.reaches(t, "web", "legacy", 0, "", at)
	until(t, "calls go through", func() error {
		if server, err := getOnce(t, ports["hlegacy"]); err != nil || server != "hlegacy" {
			return fmt.Errorf("served by %q: %w", server, err)
		}
		return pingOnce(ports["legacy"])
	})
	if server := servedBy(t, ports["legacy"]); server != "legacy" {
		t.Errorf("served by %q", server)
	}
	intend(t, d.Consul, "deny", "web", "legacy")
	until(t, "the gateway sees who calls, and denies", func() error {
		if err := pingOnce(ports["legacy"]); err == nil {
			return fmt.Errorf("the call went through")
		}
		return nil
	})
	if _, err := getOnce(t, ports["hlegacy"]); err != nil {
		t.Errorf("the other service behind the gateway: %v", err)
	}
}
