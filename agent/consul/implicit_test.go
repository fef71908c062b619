// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

// What an upstream elsewhere is given is not for the service of the same name here.
func TestSettingsOfAnotherUpstreamOfTheSameNameAreNotImplied(t *testing.T) {
	for name, upstream := range map[string]string{
		"in another datacenter":          `"Datacenter":"dc2"`,
		"of a peer":                      `"DestinationPeer":"east"`,
		"with a listener and elsewhere":  `"DestinationNamespace":"team","LocalBindPort":9000`,
		"with a socket, in a namespace":  `"DestinationNamespace":"team","LocalBindSocketPath":"/s"`,
		"a port, in another datacenter":  `"Datacenter":"dc2","LocalBindPort":9000`,
		"a port, and it is that of peer": `"DestinationPeer":"east","LocalBindPort":9000`,
	} {
		r, err := convertRegistration(sidecar(t, "", `,"Mode":"transparent","Upstreams":[{"DestinationName":"db",`+upstream+`,"Config":{"limits":{"max_connections":7}}}]`), "")
		if err != nil {
			t.Fatal(err)
		}
		got := r.ImplicitUpstreams(Implicit{Services: []connect.ServiceName{{Name: "db", Namespace: "default", Partition: "default"}}})
		if len(got) != 1 || got[0].MaxConnections != -1 || got[0].BindPort != 0 || got[0].BindSocketPath != "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestAPortThatIsNoneGivesWayToTheUsualOne(t *testing.T) {
	r, err := convertRegistration(sidecar(t, "", `,"Mode":"transparent","TransparentProxy":{"OutboundListenerPort":70000}`), "")
	if err != nil || r.Service.Transparent.OutboundPort != connect.DefaultOutboundPort || !strings.Contains(strings.Join(r.Warnings, "\n"), "outbound_listener_port") {
		t.Errorf("%+v, warnings %q, %v", r.Service.Transparent, r.Warnings, err)
	}
}

// Destinations have no index that is waited on: they are part of the cursor.
func TestOtherDestinationsAreNewsOfTheSameTopology(t *testing.T) {
	var address, intentions atomic.Value
	address.Store("10.9.9.9")
	c := agentOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Index", "7")
		switch {
		case strings.HasPrefix(r.URL.Path, "/v1/internal/"):
			intentions.Store(r.URL.Path)
			_, _ = w.Write([]byte(`{"Upstreams":[]}`))
		default:
			_, _ = fmt.Fprintf(w, `[{"Name":"ext","Destination":{"Addresses":[%q],"Port":443}}]`, address.Load())
		}
	})
	cursor := func() watch.Cursor {
		_, next, err := c.openImplicit(ImplicitKey{Service: "web"})(t.Context(), watch.Cursor{})
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	first := cursor()
	if again := cursor(); again != first {
		t.Errorf("cursors %+v and %+v of the same answer", first, again)
	}
	address.Store("10.8.8.8")
	if other := cursor(); other == first || other.Index != 7 {
		t.Errorf("cursor %+v after %+v, though the destination is another one", other, first)
	}
}

func TestAServiceNameThatIsAPathIsNotAskedFor(t *testing.T) {
	c := agentOf(t, func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("asked for %s", r.URL.Path)
		_, _ = w.Write([]byte(`{}`))
	})
	for _, name := range []string{"../../agent/self", "a/b", ""} {
		if got, _, err := c.openImplicit(ImplicitKey{Service: name})(t.Context(), watch.Cursor{}); err == nil {
			t.Errorf("%q: %+v", name, got)
		}
	}
}

func TestSidecarsOfTheCatalogAreNoUpstreams(t *testing.T) {
	c := agentOf(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/connect/intentions/match":
			_, _ = w.Write([]byte(`{"web":[{"DestinationName":"*","Action":"allow","Precedence":6}]}`))
		case "/v1/catalog/services":
			_, _ = w.Write([]byte(`{"consul":[],"web":[],"api":[],"api-sidecar-proxy":[]}`))
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	got, err := c.implicitByParts(t.Context(), ImplicitKey{Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"api"}, serviceNames(got)); diff != "" {
		t.Error(diff)
	}
}

// An address that is not known would be called around its gateway.
func TestDestinationsBeyondTheLimitAreAnError(t *testing.T) {
	list := decoded[[]wireOutside](t, `[{"Name":"ext","Destination":{"Addresses":["::ffff:10.0.0.1","fe80::1%eth0","no.ip"],"Port":443}},{"Name":"portless","Destination":{"Addresses":["10.0.0.2"],"Port":70000}},{"Name":"plain"}]`)
	var out Implicit
	if err := convertDestinations(list, &out); err != nil {
		t.Fatal(err)
	}
	want := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:443"), netip.MustParseAddrPort("[fe80::1]:443")}
	if diff := cmp.Diff(want, out.Destinations, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if len(out.Notes) != 1 || !strings.Contains(out.Notes[0], "ext, portless") || strings.Contains(out.Notes[0], "plain") {
		t.Errorf("notes %q", out.Notes)
	}
	for n := range maxDestinations {
		list[0].Destination.Addresses = append(list[0].Destination.Addresses, netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}).String())
	}
	if err := convertDestinations(list, new(Implicit)); err == nil || !strings.Contains(err.Error(), "more than 4096") {
		t.Errorf("one too many: %v", err)
	}
}
