// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

const eastDomain = "99999999-2222-3333-4444-555555555555.consul"

// bundleIn is the trust bundle of a trust domain.
func bundleIn(t *testing.T, domain string, cas ...*meshca.CA) *connect.TrustBundle {
	t.Helper()
	var roots []connect.Root
	for _, ca := range cas {
		roots = append(roots, connect.Root{ID: ca.Cert.Subject.CommonName, Certificates: []*x509.Certificate{ca.Cert}})
	}
	b, err := connect.NewTrustBundle(domain, roots)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func uriIn(domain, path string) meshca.Option { return meshca.URIs("spiffe://" + domain + path) }

// Attacks on who a certificate stands for: only the roots of the trust domain
// that it names may say so, and a gateway never stands for a service.
func TestCallersAreTakenForNobodyElse(t *testing.T) {
	own, east, west := meshca.New("own"), meshca.NewIn("east", eastDomain), meshca.NewIn("west", eastDomain)
	const web, gateway = "/ns/default/dc/dc9/svc/web", "/gateway/mesh/dc/dc1"
	peer := func(name string, ca *meshca.CA) connect.Peer {
		return connect.Peer{Name: name, Partition: "default", Bundle: bundleIn(t, eastDomain, ca)}
	}
	one := []connect.Peer{peer("east", east)}
	usurper := []connect.Peer{{Name: "east", Partition: "default", Bundle: bundleIn(t, meshca.TrustDomain, east)}}
	withProblem := []connect.Peer{{Name: "east", Partition: "default", Bundle: bundleIn(t, eastDomain, east), Problem: "ended"}}
	other := []connect.Peer{{Name: "east", Partition: "team", Bundle: bundleIn(t, eastDomain, east)}}
	remote := connect.Identity{TrustDomain: eastDomain, Partition: "default", Namespace: "default", Datacenter: "dc9", Service: "web", Peer: "east"}
	for _, tc := range []struct {
		name     string
		leaf     *connect.Leaf
		peers    []connect.Peer
		gateways bool
		want     Caller
		fails    string
	}{
		{"our own service", own.Leaf("web", nil), one, false, Caller{Identity: meshca.ID("web")}, ""},
		{"our own service beside gateways", own.Leaf("web", nil), one, true, Caller{Identity: meshca.ID("web")}, ""},
		{"a service of a peer", east.Leaf("web", nil, uriIn(eastDomain, web)), one, false, Caller{Identity: remote}, ""},
		{"a service of a peer where gateways come", east.Leaf("web", nil, uriIn(eastDomain, web)), one, true, Caller{}, "not trusted"},
		{"a service of a peer without roots", east.Leaf("web", nil, uriIn(eastDomain, web)), nil, false, Caller{}, "not trusted"},
		{"a service of a peer that has ended", east.Leaf("web", nil, uriIn(eastDomain, web)), withProblem, false, Caller{}, "not trusted"},
		{"a service of another partition", east.Leaf("web", nil, uriIn(eastDomain, web)), other, false, Caller{}, `exports nothing`},
		{"ours, signed by the peer", east.Leaf("web", nil), one, false, Caller{}, "not trusted"},
		{"ours, signed by a peer that claims our trust domain", east.Leaf("web", nil), usurper, false, Caller{}, "not trusted"},
		{"the peer's, signed by us", own.Leaf("web", nil, uriIn(eastDomain, web)), one, false, Caller{}, "not trusted"},
		{"two peers of one trust domain, the roots tell them apart", west.Leaf("web", nil, uriIn(eastDomain, web)), []connect.Peer{peer("other", west), one[0]}, false,
			Caller{Identity: func() connect.Identity { id := remote; id.Peer = "other"; return id }()}, ""},
		{"two peers of one root", east.Leaf("web", nil, uriIn(eastDomain, web)), []connect.Peer{peer("east", east), peer("twin", east)}, false, Caller{}, "tells nobody apart"},
		{"our gateway", own.Leaf("gw", nil, uriIn(meshca.TrustDomain, gateway)), one, true,
			Caller{Gateway: connect.Gateway{TrustDomain: meshca.TrustDomain, Partition: "default", Datacenter: "dc1"}}, ""},
		{"our gateway where none are wanted", own.Leaf("gw", nil, uriIn(meshca.TrustDomain, gateway)), one, false, Caller{}, "not that of a service"},
		{"the peer's gateway", east.Leaf("gw", nil, uriIn(eastDomain, gateway)), one, true, Caller{}, "not trusted"},
		{"the peer's gateway on TCP", east.Leaf("gw", nil, uriIn(eastDomain, gateway)), one, false, Caller{}, "not that of a service"},
		{"our gateway, signed by the peer", east.Leaf("gw", nil, uriIn(meshca.TrustDomain, gateway)), one, true, Caller{}, "not trusted"},
		{"our gateway, signed by a peer that claims our trust domain", east.Leaf("gw", nil, uriIn(meshca.TrustDomain, gateway)), usurper, true, Caller{}, "not trusted"},
		{"a server of ours", own.Leaf("s", nil, uriIn(meshca.TrustDomain, "/agent/server/dc/dc1")), one, true, Caller{}, "not that of a service"},
		{"two names", own.Leaf("w", nil, meshca.URIs("spiffe://"+eastDomain+web, meshca.ID("web").String())), one, false, Caller{}, "2 URI SANs"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			callers := Callers{Own: meshca.Bundle(own), Peers: tc.peers, Gateways: tc.gateways}
			got, err := callers.Verify(tc.leaf.Chain, time.Now())
			var untrusted *connect.PeerError
			if (err == nil) != (tc.fails == "") || got != tc.want || (err != nil && (!errors.As(err, &untrusted) || !strings.Contains(err.Error(), tc.fails))) {
				t.Errorf("%+v, %v; want %+v, %q", got, err, tc.want, tc.fails)
			}
			// The handshake and what is made of it afterwards must agree.
			serverErr, _, state := shake(t, Server(own.Leaf("api", nil), callers, connect.TLSLimits{}), Client(tc.leaf, meshca.Bundle(own), connect.TLSLimits{}, "", only("api")))
			if (serverErr == nil) != (tc.fails == "") {
				t.Errorf("handshake: %v", serverErr)
			}
			if serverErr == nil {
				if got, err := callers.Proved(state); err != nil || got != tc.want {
					t.Errorf("proved %+v, %v", got, err)
				}
			}
		})
	}
}

func TestNothingIsProvedWithoutAHandshake(t *testing.T) {
	own := meshca.New("own")
	callers := Callers{Own: meshca.Bundle(own)}
	for name, state := range map[string]tls.ConnectionState{
		"no handshake":   {PeerCertificates: own.Leaf("web", nil).Chain},
		"no certificate": {HandshakeComplete: true},
		"no name":        {HandshakeComplete: true, PeerCertificates: own.Leaf("web", nil, meshca.URIs()).Chain},
	} {
		if got, err := callers.Proved(state); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestCallersAreNamedForPeople(t *testing.T) {
	id := meshca.ID("web")
	remote := id
	remote.Peer = "east"
	for want, c := range map[string]Caller{
		"web": {Identity: id}, "east/web": {Identity: remote}, "mesh gateway of dc1": {Gateway: connect.Gateway{TrustDomain: "x", Datacenter: "dc1"}},
	} {
		if got := c.Label(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A prepared query finds several services, and a peer's gateway answers in its
// own name: any of those will do, and nobody else.
func TestClientAcceptsAnyOfTheIdentitiesItIsTold(t *testing.T) {
	ca := meshca.NewIn("east", eastDomain)
	bundle := bundleIn(t, eastDomain, ca)
	api, gateway := "spiffe://"+eastDomain+"/ns/default/dc/dc2/svc/api", "spiffe://"+eastDomain+"/gateway/mesh/dc/dc2"
	caller := meshca.New("own")
	for _, tc := range []struct {
		name   string
		bundle *connect.TrustBundle
		leaf   *connect.Leaf
		want   []string
		fails  string
	}{
		{"the first", bundle, ca.Leaf("", nil, meshca.URIs(api)), []string{api, gateway}, ""},
		{"the second, a gateway", bundle, ca.Leaf("", nil, meshca.URIs(gateway)), []string{api, gateway}, ""},
		{"in other letters", bundle, ca.Leaf("", nil, meshca.URIs(strings.Replace(gateway, "spiffe://"+eastDomain, "SPIFFE://"+strings.ToUpper(eastDomain), 1))), []string{gateway}, ""},
		{"neither", bundle, ca.Leaf("", nil, meshca.URIs(strings.Replace(api, "/api", "/db", 1))), []string{api, gateway}, "want one of"},
		{"a gateway for a service", bundle, ca.Leaf("", nil, meshca.URIs(gateway)), []string{api}, "want"},
		{"a server", bundle, ca.Leaf("", nil, meshca.URIs("spiffe://"+eastDomain+"/agent/server/dc/dc2")), []string{api}, "neither a service nor a gateway"},
		{"nothing is wanted", bundle, ca.Leaf("", nil, meshca.URIs(api)), nil, "nothing is known of who it must be"},
		{"no roots", nil, ca.Leaf("", nil, meshca.URIs(api)), []string{api}, "are not known"},
		{"other roots", bundleIn(t, eastDomain, caller), ca.Leaf("", nil, meshca.URIs(api)), []string{api}, "not trusted"},
		{"other trust domain", bundleIn(t, "x.consul", ca), ca.Leaf("", nil, meshca.URIs(api)), []string{api}, "trust domain"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := Client(caller.Leaf("web", nil), tc.bundle, connect.TLSLimits{}, "sni", tc.want)
			_, err, _ := shake(t, Server(tc.leaf, Callers{Own: meshca.Bundle(caller)}, connect.TLSLimits{}), client)
			if (err == nil) != (tc.fails == "") || (err != nil && !strings.Contains(err.Error(), tc.fails)) {
				t.Errorf("%v, want %q", err, tc.fails)
			}
		})
	}
}
