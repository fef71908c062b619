// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// A peering is cluster a, which calls, and cluster b, which exports api-* (TCP)
// and hapi-* (HTTP), each behind Envoy and behind Outrider. The gateways of both
// are Envoy.
type peering struct {
	a, b     *datacenter
	services []string
	callee   *outrider
}

func newPeering(t *testing.T) *peering {
	t.Helper()
	p := &peering{a: newCluster(t, "dc1"), b: newCluster(t, "dc2", realserver.HCL(defaultDeny))}
	p.a.startGateway(t)
	p.b.startGateway(t)
	peerUp(t, p.a, p.b)
	var stanzas strings.Builder
	for name, run := range map[string]func(*testing.T, string) net.Addr{"api": app, "hapi": httpApp} {
		if name == "hapi" {
			entry(t, p.b.Consul, `{"Kind":"service-defaults","Name":"hapi-outrider","Protocol":"http"}`)
			entry(t, p.b.Consul, `{"Kind":"service-defaults","Name":"hapi-envoy","Protocol":"http"}`)
		}
		stanzas.WriteString(service{name: name + "-outrider", app: run(t, name+"-outrider")}.stanza(t))
		register(t, p.b.Consul, name+"-envoy", run(t, name+"-envoy").(*net.TCPAddr).Port)
		p.services = append(p.services, name+"-outrider", name+"-envoy")
	}
	// gRPC applications are not told who calls, but intentions have to know.
	entry(t, p.b.Consul, `{"Kind":"service-defaults","Name":"gapi-outrider","Protocol":"grpc"}`)
	stanzas.WriteString(service{name: "gapi-outrider", app: httpApp(t, "gapi-outrider")}.stanza(t))
	p.services = append(p.services, "gapi-outrider")
	slices.Sort(p.services)
	p.b.export(t, "a", p.services...)
	for _, name := range p.services {
		p.b.admit(t, name, "web-outrider=allow", "web-envoy=allow")
	}
	p.callee = start(t, p.b.Consul, stanzas.String())
	realserver.StartEnvoy(t, p.b.Consul, "api-envoy-sidecar-proxy")
	realserver.StartEnvoy(t, p.b.Consul, "hapi-envoy-sidecar-proxy")
	return p
}

// ports chooses a listener for each service.
func (p *peering) ports(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, name := range p.services {
		out[name] = freePort(t)
	}
	return out
}

// call makes one call and fails unless the service answers.
func (p *peering) call(t *testing.T, name string, port int) error {
	t.Helper()
	if kind, ok := strings.CutPrefix(name, "api-"); ok {
		return pingAt(port, kind)
	}
	r, err := getBy(t, newCaller(t, port, strings.HasPrefix(name, "gapi-")))
	if err == nil && r.Server != name {
		err = fmt.Errorf("served by %q", r.Server)
	}
	return err
}

func TestServicesOfAPeerAreCalledAndLetInCallersOfPeers(t *testing.T) {
	t.Parallel()
	p := newPeering(t)
	ports := map[string]map[string]int{"web-outrider": p.ports(t), "web-envoy": p.ports(t)}
	web := start(t, p.a.Consul, service{name: "web-outrider", proxy: upstreamsTo(ports["web-outrider"], "        destination_peer = \"b\"")}.stanza(t))
	p.a.registerPeered(t, "web-envoy", "remote", ports["web-envoy"])
	realserver.StartEnvoy(t, p.a.Consul, "web-envoy-sidecar-proxy")
	for _, caller := range slices.Sorted(maps.Keys(ports)) {
		for _, name := range p.services {
			until(t, fmt.Sprintf("%s calls %s", caller, name), func() error { return p.call(t, name, ports[caller][name]) })
		}
	}
	for _, name := range p.services {
		web.reaches(t, "web-outrider", name, 0, "", p.b.wan)
	}
	// A deny reaches the one caller and the one service that it names, with the
	// name of the caller although it came through gateways.
	for _, name := range []string{"api-outrider", "hapi-outrider", "gapi-outrider"} {
		p.b.admit(t, name, "web-outrider=deny", "web-envoy=allow")
		until(t, name+" denies web-outrider", func() error {
			if err := p.call(t, name, ports["web-outrider"][name]); err == nil {
				return fmt.Errorf("the call went through")
			}
			recent := p.callee.sidecar(t, name).Proxy.Recent
			for _, r := range recent {
				if r.Reason == connect.IntentionDenied && strings.Contains(r.Text, "source a/web-outrider") {
					return nil
				}
			}
			return fmt.Errorf("no denial names it: %+v", recent)
		})
		if err := p.call(t, name, ports["web-envoy"][name]); err != nil {
			t.Errorf("%s and the other caller: %v", name, err)
		}
	}
}

// A peer takes over for services of our own, and stands for names that only lead
// to it; with mode local, through our own gateway.
func TestPeerTakesOverAndStandsForNames(t *testing.T) {
	t.Parallel()
	p := newPeering(t)
	entry(t, p.a.Consul, `{"Kind":"service-defaults","Name":"hapi-outrider","Protocol":"http"}`)
	entry(t, p.a.Consul, `{"Kind":"service-defaults","Name":"far","Protocol":"http"}`)
	for _, name := range []string{"api-outrider", "hapi-outrider"} {
		entry(t, p.a.Consul, `{"Kind":"service-resolver","Name":%q,"Failover":{"*":{"Targets":[{"Peer":"b"}]}}}`, name)
	}
	entry(t, p.a.Consul, `{"Kind":"service-resolver","Name":"far","Redirect":{"Service":"hapi-envoy","Peer":"b"}}`)
	start(t, p.a.Consul, service{name: "api-outrider", app: app(t, "here")}.stanza(t)+service{name: "hapi-outrider", app: httpApp(t, "here")}.stanza(t))
	ports := map[string]int{"api-outrider": freePort(t), "hapi-outrider": freePort(t), "far": freePort(t)}
	web := start(t, p.a.Consul, service{name: "web-outrider", proxy: "        mesh_gateway { mode = \"local\" }\n" + upstreamsTo(ports, "")}.stanza(t))
	served := func(by func(name string) string) {
		t.Helper()
		until(t, "calls are served by "+by("…"), func() error {
			c, err := dial(ports["api-outrider"])
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			server, err := getOnce(t, ports["hapi-outrider"])
			if err == nil && (c.server != by("api-outrider") || server != by("hapi-outrider")) {
				err = fmt.Errorf("served by %q and %q", c.server, server)
			}
			return err
		})
	}
	out := func(on bool) {
		t.Helper()
		maintain(t, p.a.Consul, "api-outrider", on)
		maintain(t, p.a.Consul, "hapi-outrider", on)
	}
	through := `mesh gateways of datacenter "dc1"`
	web.reaches(t, "web-outrider", "far", 0, through, p.a.lan)
	web.reaches(t, "web-outrider", "api-outrider", 1, through, p.a.lan)
	until(t, "the name that leads to the peer is served", func() error { return p.call(t, "hapi-envoy", ports["far"]) })
	served(func(string) string { return "here" })
	out(true)
	served(func(name string) string { return name })
	out(false)
	served(func(string) string { return "here" })
}

// The end of a peering is the end of what it let in, of connections too.
func TestEndOfAPeeringEndsItsConnections(t *testing.T) {
	t.Parallel()
	p := newPeering(t)
	ports := p.ports(t)
	web := start(t, p.a.Consul, service{name: "web-outrider", proxy: upstreamsTo(ports, "        destination_peer = \"b\"")}.stanza(t))
	until(t, "the call goes through", func() error { return p.call(t, "api-outrider", ports["api-outrider"]) })
	until(t, "the request goes through", func() error { return p.call(t, "hapi-outrider", ports["hapi-outrider"]) })
	open := mustDial(t, ports["api-outrider"])
	p.b.endPeering(t, "a")
	open.closedWithin(t, patience)
	until(t, "nobody of the peer is let in", func() error {
		for _, name := range []string{"api-outrider", "hapi-outrider"} {
			if err := p.call(t, name, ports[name]); err == nil {
				return fmt.Errorf("%s answers", name)
			}
		}
		return nil
	})
	problems := fmt.Sprint(p.callee.sidecar(t, "api-outrider").Proxy.Problems)
	if !strings.Contains(problems, `callers of peer "a" cannot be recognised`) {
		t.Errorf("problems %s", problems)
	}
	web.notUsed(t, "web-outrider", "api-outrider", 0, `peering with "b"`)
}

// Without the right to read peerings, which tokens of services lack, a peered
// upstream and an intention that names a peer say what is missing.
func TestPeerThatMayNotBeReadIsAClearReason(t *testing.T) {
	t.Parallel()
	consul := aclConsul(t)
	file, port := filepath.Join(t.TempDir(), "token"), freePort(t)
	writeFile(t, file, tokenFor(t, consul, "web")+"\n")
	intentions := t.TempDir() + "/intentions.json"
	writeFile(t, intentions, `{"Kind":"service-intentions","Name":"web","Sources":[{"Name":"shop","Peer":"b","Action":"allow"}]}`)
	consul.Command(t, "config", "write", intentions)
	web := startWithToken(t, consul, file, service{name: "web", proxy: upstreamsTo(map[string]int{"api": port}, "        destination_peer = \"b\"")}.stanza(t))
	web.waitReady(t)
	web.notUsed(t, "web", "api", 0, "peering:read")
	if _, err := dial(port); err == nil {
		t.Error("a call went through")
	}
	status := web.sidecar(t, "web")
	if text := fmt.Sprint(status.Proxy.Problems); !strings.Contains(text, `intention "b/shop → web"`) || !strings.Contains(text, "peering:read") {
		t.Errorf("problems %s", text)
	}
	if len(status.Intentions) != 1 || status.Intentions[0].Source != "b/shop" {
		t.Errorf("intentions %+v", status.Intentions)
	}
}

// New roots of either side reach the other before anybody needs them: without a
// cross-signed certificate nothing else would make the new leaves hold.
func TestPeersFollowEachOthersRoots(t *testing.T) {
	t.Parallel()
	p := newPeering(t)
	ports := p.ports(t)
	web := start(t, p.a.Consul, service{name: "web-outrider", proxy: upstreamsTo(ports, "        destination_peer = \"b\"")}.stanza(t))
	for _, turn := range []struct {
		d       *datacenter
		o       *outrider
		service string
	}{{p.a, web, "web-outrider"}, {p.b, p.callee, "api-outrider"}} {
		until(t, "the call goes through", func() error { return p.call(t, "api-outrider", ports["api-outrider"]) })
		before := turn.o.sidecar(t, turn.service).Leaf.Serial
		put(t, turn.d.Consul, "/v1/connect/ca/configuration",
			`{"Provider":"consul","Config":{"PrivateKeyType":"ec","PrivateKeyBits":384},"ForceWithoutCrossSigning":true}`)
		untilWithin(t, 2*time.Minute, turn.service+" has a leaf of the new root", func() error {
			if now := turn.o.sidecar(t, turn.service).Leaf.Serial; now == before {
				return fmt.Errorf("it has that of the old one")
			}
			return nil
		})
	}
	for _, name := range []string{"api-outrider", "hapi-outrider"} {
		until(t, name+" is called with the new roots of both", func() error { return p.call(t, name, ports[name]) })
	}
}
