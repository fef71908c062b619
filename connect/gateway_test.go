// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"net/url"
	"testing"
)

func TestParseGateway(t *testing.T) {
	for _, tc := range []struct{ uri, canonical string }{
		{"spiffe://td.consul/gateway/mesh/dc/dc1", "spiffe://td.consul/gateway/mesh/dc/dc1"},
		{"SPIFFE://TD.consul/gateway/mesh/dc/dc1", "spiffe://td.consul/gateway/mesh/dc/dc1"},
		{"spiffe://td.consul/ap/Team/gateway/mesh/dc/dc1", "spiffe://td.consul/ap/team/gateway/mesh/dc/dc1"},
		{"spiffe://td.consul/ap/default/gateway/mesh/dc/dc1", "spiffe://td.consul/gateway/mesh/dc/dc1"},
		{"spiffe://td.consul/gateway/mesh/dc/a%2Fb", "spiffe://td.consul/gateway/mesh/dc/a%2Fb"},
		{"spiffe://td.consul/ns/default/dc/dc1/svc/web", ""},
		{"spiffe://td.consul/gateway/ingress/dc/dc1", ""},
		{"spiffe://td.consul/gateway/mesh/dc/", ""},
		{"spiffe://td.consul/gateway/mesh/dc/dc1/", ""},
		{"spiffe://td.consul/gateway/mesh/dc/dc1/svc/web", ""},
		{"spiffe://td.consul/gateway%2Fmesh/dc/dc1", ""},
		{"spiffe://td.consul/ap/gateway/mesh/dc/dc1", ""},
		{"spiffe://td.consul/gateway/mesh/dc/dc1?x", ""},
		{"https://td.consul/gateway/mesh/dc/dc1", ""},
		{"spiffe:///gateway/mesh/dc/dc1", ""},
		{"spiffe://td.consul", ""},
	} {
		u, err := url.Parse(tc.uri)
		if err != nil {
			t.Fatal(err)
		}
		g, err := ParseGateway(u)
		if (err == nil) != (tc.canonical != "") || (err == nil && g.String() != tc.canonical) {
			t.Errorf("%s: %q, %v", tc.uri, g, err)
		}
		if _, serviceErr := ParseIdentity(u); err == nil && serviceErr == nil {
			t.Errorf("%s is a gateway and a service", tc.uri)
		}
	}
}

func FuzzCanonicalID(f *testing.F) {
	f.Add("spiffe://td.consul/gateway/mesh/dc/dc1")
	f.Add("spiffe://td.consul/ap/x/gateway/mesh/dc/a%2Fb")
	f.Add("spiffe://td.consul/ap/x/ns/n/dc/d/svc/a%20b")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		_, serviceErr := ParseIdentity(u)
		_, gatewayErr := ParseGateway(u)
		id, err := CanonicalID(u)
		if (err == nil) != (serviceErr == nil || gatewayErr == nil) || (serviceErr == nil && gatewayErr == nil) {
			t.Fatalf("%q: %v, as a service %v, as a gateway %v", text, err, serviceErr, gatewayErr)
		}
		if err != nil {
			return
		}
		again, err := url.Parse(id)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, id, err)
		}
		if same, err := CanonicalID(again); err != nil || same != id {
			t.Fatalf("%q became %q, then %q: %v", text, id, same, err)
		}
	})
}
