// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// register registers a service for Consul's builtin proxy or Envoy, which bind
// the address and port of the registration. It returns that port.
func register(t *testing.T, consul *realserver.Consul, name string, appPort int, upstreams ...listen) int {
	t.Helper()
	inbound := freePort(t)
	list := make([]string, len(upstreams))
	for i, u := range upstreams {
		list[i] = fmt.Sprintf(`{"destination_name":%q,"local_bind_port":%d}`, u.upstream, u.port)
	}
	path := t.TempDir() + "/service.json"
	writeFile(t, path, fmt.Sprintf(`{"service":{"name":%q,"address":"127.0.0.1","port":%d,
		"connect":{"sidecar_service":{"address":"127.0.0.1","port":%d,
		"checks":[{"name":"listens","tcp":"127.0.0.1:%d","interval":"500ms"}],
		"proxy":{"upstreams":[%s]}}}}}`, name, appPort, inbound, inbound, strings.Join(list, ",")))
	consul.Command(t, "services", "register", path)
	return inbound
}

func TestConsulsBuiltinProxyCallsOutrider(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t)
	api := start(t, consul, service{name: "api", app: app(t, "api")}.stanza(t))
	port := freePort(t)
	register(t, consul, "web", 1, listen{"api", port})
	consul.ConnectProxy(t, "web")
	call := func() error { return pingOnce(port) }
	until(t, "the call goes through", call)
	open := mustDial(t, port)
	intend(t, consul, "deny", "web", "api")
	open.closedWithin(t, patience)
	if err := call(); err == nil {
		t.Error("a denied call went through")
	}
	if n := api.refused(t, connect.IntentionDenied); n == 0 {
		t.Error("outrider did not count the denial")
	}
}

func TestOutriderCallsConsulsBuiltinProxy(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t)
	register(t, consul, "api", app(t, "api").(*net.TCPAddr).Port)
	consul.ConnectProxy(t, "api")
	port := freePort(t)
	web := start(t, consul, service{name: "web", upstream: "api", port: port}.stanza(t))
	web.usableEndpoints(t, 1)
	c := mustDial(t, port)
	for range 20 {
		if err := c.ping(); err != nil {
			t.Fatal(err)
		}
	}
	intend(t, consul, "deny", "web", "api")
	until(t, "the builtin proxy denies", func() error {
		if c, err := dial(port); err == nil {
			_ = c.Close()
			return fmt.Errorf("the call went through")
		}
		return nil
	})
}
