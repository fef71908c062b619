// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// Leaves are asked for in a row, more of them than Consul signs in a second.
const manyLeaves = `connect { enabled = true ca_config { csr_max_per_second = 0 } }`

// configure writes a config entry of any kind.
func configure(t *testing.T, consul *realserver.Consul, entry map[string]any) {
	t.Helper()
	text, err := json.Marshal(entry)
	if err != nil {
		t.Fatal(err)
	}
	put(t, consul, "/v1/config", string(text))
}

// httpConsul is a Consul where every service speaks HTTP/1.1.
func httpConsul(t *testing.T, hcl ...string) *realserver.Consul {
	t.Helper()
	consul := realserver.StartConsul(t, realserver.HCL(manyLeaves), realserver.HCL(strings.Join(hcl, "\n")))
	configure(t, consul, map[string]any{"Kind": "proxy-defaults", "Name": "global", "Config": map[string]any{"protocol": "http"}})
	return consul
}

// A router is the calling side: for each sort of sidecar, a listener for each
// case, which is a service with a router of its own.
type router struct {
	consul *realserver.Consul
	ports  map[string]map[string]int // by side and service
}

// listen makes listeners for a service on both sides.
func (r *router) listen(t *testing.T, name string) {
	for _, side := range sides {
		r.ports[side][name] = freePort(t)
	}
}

func (r *router) start(t *testing.T) {
	t.Helper()
	upstreams := map[string][]listen{}
	for side, ports := range r.ports {
		for name, port := range ports {
			upstreams[side] = append(upstreams[side], listen{name, port})
		}
	}
	register(t, r.consul, "web-envoy", 1, upstreams["envoy"]...)
	realserver.StartEnvoy(t, r.consul, "web-envoy-sidecar-proxy")
	start(t, r.consul, service{name: "web-outrider", more: upstreams["outrider"]}.stanza(t))
}

// warm waits until the listener of a service passes requests on.
func (r *router) warm(t *testing.T, side, name string) {
	t.Helper()
	until(t, "requests to "+name+" are passed on", func() error {
		got, err := request{Path: "/"}.ask(dialPlain(r.ports[side][name]))
		if err == nil && got.Seen == nil {
			err = fmt.Errorf("status %d", got.Status)
		}
		return err
	})
}

func matchName(i int) string { return fmt.Sprintf("match-%d", i) }
func routeName(i int) string { return fmt.Sprintf("route-%d", i) }

// TestRoutersDoWhatEnvoyDoes runs the tables of packages request and route
// through both sidecars: each case is a service-router in a real Consul.
func TestRoutersDoWhatEnvoyDoes(t *testing.T) {
	t.Parallel()
	r := &router{consul: httpConsul(t), ports: map[string]map[string]int{"envoy": {}, "outrider": {}}}
	for _, name := range []string{"hit", "miss", "admin", "v1", "v2"} {
		native(t, r.consul, name, "")
	}
	matches, routes := matchGroups(t, ""), routeGroups(t)
	for i, g := range matches {
		r.listen(t, matchName(i))
		configure(t, r.consul, map[string]any{"Kind": "service-router", "Name": matchName(i), "Routes": json.RawMessage(fmt.Sprintf(
			`[{"Match":{"HTTP":%s},"Destination":{"Service":"hit"}},{"Match":{"HTTP":{"PathPrefix":"/"}},"Destination":{"Service":"miss"}}]`, g.config))})
	}
	for i, g := range routes {
		r.listen(t, routeName(i))
		r.addRoutes(t, routeName(i), g.config)
	}
	r.start(t)
	for _, side := range sides {
		for i, g := range matches {
			r.warm(t, side, matchName(i))
			g.runOn(t, side, func(q request) (string, error) { return hitBy(q, r.ports[side][matchName(i)]) })
		}
		for i, g := range routes {
			r.warm(t, side, routeName(i))
			g.runOn(t, side, func(q request) (string, error) { return routedTo(q, routeName(i), r.ports[side][routeName(i)]) })
		}
	}
}

// addRoutes makes a service with the given routes, one instance of its own and,
// when the routes speak of it, another of the subset beta.
func (r *router) addRoutes(t *testing.T, name string, routes json.RawMessage) {
	t.Helper()
	native(t, r.consul, name, "")
	if strings.Contains(string(routes), `"ServiceSubset"`) {
		native(t, r.consul, name, "beta")
		configure(t, r.consul, map[string]any{"Kind": "service-resolver", "Name": name, "Subsets": map[string]any{
			"beta": map[string]any{"Filter": "Service.Meta.version == beta"},
		}})
	}
	configure(t, r.consul, map[string]any{"Kind": "service-router", "Name": name, "Routes": routes})
}

// hitBy sends a request and names the service that got it.
func hitBy(q request, port int) (string, error) {
	got, err := q.ask(dialPlain(port))
	if err != nil {
		return "", err
	}
	if got.Seen == nil {
		return fmt.Sprintf("status %d", got.Status), nil
	}
	return got.Seen.Server, nil
}

// routedTo sends a request and says where it went, and as what. A service that
// routes to itself is called web in the table; its instance of a subset may
// stand for the whole service.
func routedTo(q request, self string, port int) (string, error) {
	got, err := q.ask(dialPlain(port))
	if err != nil {
		return "", err
	}
	if got.Seen == nil {
		return fmt.Sprintf("status %d", got.Status), nil
	}
	server := strings.Replace(got.Seen.Server, self, "web", 1)
	if q.Path != got.Seen.Target {
		return server + " " + got.Seen.Target, nil
	}
	return strings.TrimPrefix(server, "beta.") + " " + got.Seen.Target, nil
}

// An inbound is the called side: one service behind each sort of sidecar, with
// the same application.
type inbound struct {
	consul   *realserver.Consul
	ports    map[string]int // of the inbound listeners
	envoy    *realserver.Envoy
	outrider *outrider
}

func newInbound(t *testing.T, consul *realserver.Consul) *inbound {
	t.Helper()
	in := &inbound{consul: consul, ports: map[string]int{}}
	behindEnvoy, behindOutrider := rawApp(t, "api", nil), rawApp(t, "api", nil)
	in.ports["envoy"] = register(t, consul, "api-envoy", behindEnvoy.(*net.TCPAddr).Port)
	in.envoy = realserver.StartEnvoy(t, consul, "api-envoy-sidecar-proxy")
	in.ports["outrider"] = freePort(t)
	in.outrider = start(t, consul, service{name: "api-outrider", app: behindOutrider, inbound: in.ports["outrider"]}.stanza(t))
	return in
}

// TestPermissionsDoWhatEnvoyDoes runs the table of package policy against both
// sidecars: all cases are one service-intentions entry, each with a source of
// its own as whom its requests are sent.
func TestPermissionsDoWhatEnvoyDoes(t *testing.T) {
	t.Parallel()
	for _, byDefault := range []string{"deny", "allow"} {
		t.Run(byDefault, func(t *testing.T) {
			t.Parallel()
			groups := permissionGroups(t, byDefault)
			consul := httpConsul(t, fmt.Sprintf("default_intention_policy = %q", byDefault))
			var sources []map[string]any
			var leaves []tls.Certificate
			for i, g := range groups {
				name := fmt.Sprintf("case-%d", i)
				sources = append(sources, map[string]any{"Name": name, "Permissions": g.config})
				leaves = append(leaves, leafOf(t, consul, name))
			}
			for _, side := range sides {
				configure(t, consul, map[string]any{"Kind": "service-intentions", "Name": "api-" + side, "Sources": sources})
			}
			in := newInbound(t, consul)
			for _, side := range sides {
				for i, g := range groups {
					g.runOn(t, side, func(q request) (string, error) { return passed(q, dialAs(leaves[i], in.ports[side])) })
				}
			}
		})
	}
}

// passed sends a request and says whether the application got it.
func passed(q request, dial func() (net.Conn, error)) (string, error) {
	got, err := q.ask(dial)
	if err != nil {
		return "", err
	}
	if got.Seen == nil && got.Status != 403 && got.Status != 400 {
		return fmt.Sprintf("status %d", got.Status), nil
	}
	return passedOrNot(got.Seen != nil), nil
}

// TestNormalisationDoesWhatEnvoyDoes runs the table of package request against
// both sidecars, one mesh config entry after the other.
func TestNormalisationDoesWhatEnvoyDoes(t *testing.T) {
	t.Parallel()
	consul := httpConsul(t)
	leaf := leafOf(t, consul, "web")
	in := newInbound(t, consul)
	current := "{}"
	for _, g := range normalGroups(t) {
		if wanted := string(g.config); wanted != current {
			in.normalise(t, g.config)
			current = wanted
		}
		for _, side := range sides {
			g.runOn(t, side, func(q request) (string, error) { return normalised(q, dialAs(leaf, in.ports[side])) })
		}
	}
}

// normalise writes the mesh config entry and waits until both sides have it.
func (in *inbound) normalise(t *testing.T, normalization json.RawMessage) {
	t.Helper()
	const listeners = "/config_dump?resource=dynamic_listeners&mask=active_state,warming_state"
	envoy := func() string {
		dump, err := in.envoy.Ask(t.Context(), listeners)
		if err != nil {
			t.Fatal(err)
		}
		return string(dump)
	}
	dump, version := envoy(), in.outrider.status(t).Proxy.Snapshot
	configure(t, in.consul, map[string]any{"Kind": "mesh", "HTTP": map[string]any{"Incoming": map[string]any{"RequestNormalization": normalization}}})
	until(t, "Envoy has the configuration", func() error {
		if now := envoy(); now == dump || strings.Contains(now, "warming_state") {
			return fmt.Errorf("it is the same: %d bytes", len(now))
		}
		return nil
	})
	until(t, "Outrider has the configuration", func() error {
		if now := in.outrider.status(t).Proxy.Snapshot; now == version {
			return fmt.Errorf("snapshot %d is in force", now)
		}
		return nil
	})
}

// normalised sends a request and says what the application received, or what
// was answered in its place.
func normalised(q request, dial func() (net.Conn, error)) (string, error) {
	got, err := q.ask(dial)
	if err != nil {
		return "", err
	}
	if got.Seen != nil {
		return received(0, got.Seen.Target), nil
	}
	return received(got.Status, strings.TrimPrefix(got.Location, "http://api.test")), nil
}
