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

// sides are the two sorts of sidecar that meet in these tests.
var sides = [...]string{"envoy", "outrider"}

// A matrix is a mesh of four: an application behind Envoy and one behind
// Outrider, each called through Envoy and through Outrider. Envoy calling Envoy
// shows that a test asks for what Envoy does.
type matrix struct {
	consul *realserver.Consul
	ports  map[[2]string]int // of the local listener, by sort of caller and callee
	api    *outrider         // in front of api-outrider
}

// newMatrix starts api-envoy, api-outrider, web-envoy and web-outrider, all of
// one protocol. Both applications listen at the addresses app returns.
func newMatrix(t *testing.T, protocol string, app func(*testing.T, string) net.Addr) *matrix {
	t.Helper()
	m := &matrix{consul: realserver.StartConsul(t), ports: map[[2]string]int{}}
	for _, callee := range sides {
		for _, caller := range sides {
			m.ports[[2]string{caller, callee}] = freePort(t)
			writeConfig(t, m.consul, fmt.Sprintf(`{"Kind":"service-defaults","Name":"api-%s","Protocol":%q}`, callee, protocol))
		}
	}
	upstreams := func(caller string) []listen {
		var out []listen
		for _, callee := range sides {
			out = append(out, listen{"api-" + callee, m.ports[[2]string{caller, callee}]})
		}
		return out
	}
	register(t, m.consul, "api-envoy", app(t, "api-envoy").(*net.TCPAddr).Port)
	realserver.StartEnvoy(t, m.consul, "api-envoy-sidecar-proxy")
	m.api = start(t, m.consul, service{name: "api-outrider", app: app(t, "api-outrider")}.stanza(t))
	register(t, m.consul, "web-envoy", 1, upstreams("envoy")...)
	realserver.StartEnvoy(t, m.consul, "web-envoy-sidecar-proxy")
	start(t, m.consul, service{name: "web-outrider", more: upstreams("outrider")}.stanza(t))
	return m
}

// each runs a test for each caller and callee.
func (m *matrix) each(t *testing.T, run func(t *testing.T, caller, callee string, port int)) {
	for _, caller := range sides {
		for _, callee := range sides {
			t.Run(caller+" to "+callee, func(t *testing.T) { run(t, caller, callee, m.ports[[2]string{caller, callee}]) })
		}
	}
}

// pingAt makes one call, and fails unless the application behind the callee
// answers.
func pingAt(port int, callee string) error {
	c, err := dial(port)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if c.server != "api-"+callee {
		return fmt.Errorf("served by %q", c.server)
	}
	return c.ping()
}

func TestEnvoyAndOutriderCallEachOtherOverTCP(t *testing.T) {
	t.Parallel()
	m := newMatrix(t, "tcp", app)
	m.each(t, func(t *testing.T, caller, callee string, port int) {
		call := func() error { return pingAt(port, callee) }
		until(t, "the call goes through", call)
		intend(t, m.consul, "deny", "web-"+caller, "api-"+callee)
		until(t, "the call is denied", func() error {
			if err := call(); err == nil {
				return fmt.Errorf("the call went through")
			}
			return nil
		})
		if callee == "outrider" {
			m.deniedByName(t, "web-"+caller)
		}
		intend(t, m.consul, "allow", "web-"+caller, "api-"+callee)
		until(t, "the call goes through again", call)
	})
}

// deniedByName expects Outrider to have seen who it denied.
func (m *matrix) deniedByName(t *testing.T, source string) {
	t.Helper()
	recent := m.api.status(t).Proxy.Recent
	for _, r := range recent {
		if r.Reason == connect.IntentionDenied && strings.Contains(r.Text, "source "+source) {
			return
		}
	}
	t.Errorf("no denial names %s as its source: %+v", source, recent)
}

// A connection that is denied after it was opened is cut, also when it is
// Envoy that opened it, and Envoy passes the end on.
func TestEnvoyIsCutOffFromOutriderByADeny(t *testing.T) {
	t.Parallel()
	m := newMatrix(t, "tcp", app)
	port := m.ports[[2]string{"envoy", "outrider"}]
	until(t, "the call goes through", func() error { return pingAt(port, "outrider") })
	open := mustDial(t, port)
	intend(t, m.consul, "deny", "web-envoy", "api-outrider")
	open.closedWithin(t, patience)
}
