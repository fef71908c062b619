// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// shake runs a handshake over real TCP, because net.Pipe would let one side
// block the other's alert, and returns what each side saw.
func shake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error, state tls.ConnectionState) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = conn.Close() }()
		s := tls.Server(conn, server)
		err = s.HandshakeContext(t.Context())
		state = s.ConnectionState()
		if err == nil {
			_, err = s.Write([]byte("."))
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	c := tls.Client(raw, client)
	clientErr = c.HandshakeContext(t.Context())
	if clientErr == nil {
		// TLS 1.3: a server that refuses the client says so after the client is done.
		_, clientErr = c.Read(make([]byte, 1))
	}
	return <-done, clientErr, state
}

// only is what a client wants that calls one service.
func only(service string) []string { return []string{meshca.ID(service).String()} }

func TestServiceProvesItsIdentity(t *testing.T) {
	ca := meshca.New("root")
	inter := ca.Intermediate("intermediate")
	bundle := meshca.Bundle(ca)
	chain := []*x509.Certificate{inter.Cert}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		limits := connect.TLSLimits{MinVersion: version, MaxVersion: version}
		server := Server(inter.Leaf("api", chain), Callers{Own: bundle}, connect.TLSLimits{})
		client := Client(inter.Leaf("web", chain), bundle, limits, "api.default.dc1.internal.x", only("api"))
		serverErr, clientErr, state := shake(t, server, client)
		if serverErr != nil || clientErr != nil {
			t.Fatalf("%s: server %v, client %v", tls.VersionName(version), serverErr, clientErr)
		}
		caller, err := Callers{Own: bundle}.Proved(state)
		if err != nil || caller != (Caller{Identity: meshca.ID("web")}) || state.ServerName != "api.default.dc1.internal.x" || state.Version != version {
			t.Errorf("server saw %+v (%v), SNI %q, %s", caller, err, state.ServerName, tls.VersionName(state.Version))
		}
	}
}

func TestBadClientsAreRefused(t *testing.T) {
	ca, stranger := meshca.New("root"), meshca.New("another root")
	web, api := meshca.ID("web").String(), meshca.ID("api").String()
	foreign := strings.Replace(web, "1111", "9999", 1)
	for _, tc := range []struct {
		name   string
		leaf   *connect.Leaf
		reason connect.Reason
		want   string
	}{
		{"two URI SANs", ca.Leaf("web", nil, meshca.URIs(web, api)), connect.IdentityMismatch, "2 URI SANs"},
		{"no URI SAN", ca.Leaf("web", nil, meshca.URIs()), connect.IdentityMismatch, "0 URI SANs"},
		{"wrong trust domain", ca.Leaf("web", nil, meshca.URIs(foreign)), connect.IdentityMismatch, "trust domain"},
		{"not a service", ca.Leaf("web", nil, meshca.URIs("spiffe://"+meshca.TrustDomain+"/agent/client/dc/dc1/id/n")), connect.IdentityMismatch, "not that of a service"},
		{"expired", ca.Leaf("web", nil, meshca.Expired), connect.TLSFailed, "expired"},
		{"a CA certificate", ca.Leaf("web", nil, meshca.IsCA), connect.TLSFailed, "that of a CA"},
		{"another root", stranger.Leaf("web", nil), connect.TLSFailed, "unknown authority"},
		{"only for servers", ca.Leaf("web", nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), connect.TLSFailed, "key usage"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bundle := meshca.Bundle(ca)
			server := Server(ca.Leaf("api", nil), Callers{Own: bundle}, connect.TLSLimits{})
			serverErr, clientErr, _ := shake(t, server, Client(tc.leaf, bundle, connect.TLSLimits{}, "", only("api")))
			var peer *connect.PeerError
			if !errors.As(serverErr, &peer) || peer.Reason != tc.reason || !strings.Contains(serverErr.Error(), tc.want) {
				t.Errorf("server error %v, want reason %s with %q", serverErr, tc.reason, tc.want)
			}
			if clientErr == nil {
				t.Error("the client got through")
			}
		})
	}
}

func TestClientWithoutCertificateIsRefused(t *testing.T) {
	ca := meshca.New("root")
	server := Server(ca.Leaf("api", nil), Callers{Own: meshca.Bundle(ca)}, connect.TLSLimits{})
	serverErr, clientErr, _ := shake(t, server, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the point of the test
	if serverErr == nil || clientErr == nil {
		t.Errorf("server %v, client %v", serverErr, clientErr)
	}
}

func TestClientAcceptsOnlyTheExactIdentity(t *testing.T) {
	ca := meshca.New("root")
	dc2 := strings.Replace(meshca.ID("api").String(), "/dc1/", "/dc2/", 1)
	for _, tc := range []struct {
		name   string
		leaf   *connect.Leaf
		reason connect.Reason
	}{
		{"another service", ca.Leaf("db", nil), connect.IdentityMismatch},
		{"another datacenter", ca.Leaf("api", nil, meshca.URIs(dc2)), connect.IdentityMismatch},
		{"expired", ca.Leaf("api", nil, meshca.Expired), connect.TLSFailed},
		{"another root", meshca.New("x").Leaf("api", nil), connect.TLSFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bundle := meshca.Bundle(ca)
			client := Client(ca.Leaf("web", nil), bundle, connect.TLSLimits{}, "", only("api"))
			_, clientErr, _ := shake(t, Server(tc.leaf, Callers{Own: bundle}, connect.TLSLimits{}), client)
			var peer *connect.PeerError
			if !errors.As(clientErr, &peer) || peer.Reason != tc.reason {
				t.Errorf("client error %v, want reason %s", clientErr, tc.reason)
			}
		})
	}
}

// A peer that has only the old root must believe a leaf of the new one through
// the cross-signed certificate, and the other way round both roots are trusted.
func TestRotationWithCrossSignedRoot(t *testing.T) {
	old, next := meshca.New("old"), meshca.New("new")
	cross := old.CrossSign(next)
	rotated := meshca.Bundle(old, next)
	rotated.Active().Intermediates = []*x509.Certificate{cross}
	leaf := next.Leaf("api", nil)
	leaf.Chain = connect.PresentedChain(leaf.Chain[0], []*x509.Certificate{next.Cert}, rotated.Active())
	if len(leaf.Chain) != 2 || !leaf.Chain[1].Equal(cross) {
		t.Fatalf("presented chain has %d certificates, want the leaf and the cross-signed root", len(leaf.Chain))
	}
	client := Client(old.Leaf("web", nil), meshca.Bundle(old), connect.TLSLimits{}, "", only("api"))
	serverErr, clientErr, _ := shake(t, Server(leaf, Callers{Own: rotated}, connect.TLSLimits{}), client)
	if serverErr != nil || clientErr != nil {
		t.Errorf("server %v, client %v", serverErr, clientErr)
	}
}

func TestMeshEntryLimitsVersions(t *testing.T) {
	ca := meshca.New("root")
	bundle := meshca.Bundle(ca)
	server := Server(ca.Leaf("api", nil), Callers{Own: bundle}, connect.TLSLimits{MinVersion: tls.VersionTLS13})
	client := Client(ca.Leaf("web", nil), bundle, connect.TLSLimits{MaxVersion: tls.VersionTLS12}, "", only("api"))
	if serverErr, _, _ := shake(t, server, client); serverErr == nil || !strings.Contains(serverErr.Error(), "version") {
		t.Errorf("TLS 1.2 against a minimum of 1.3: %v", serverErr)
	}
}

func TestMeshEntryCannotLowerTheMinimumBelowTLS12(t *testing.T) {
	ca := meshca.New("root")
	bundle := meshca.Bundle(ca)
	server := Server(ca.Leaf("api", nil), Callers{Own: bundle}, connect.TLSLimits{MinVersion: tls.VersionTLS10})
	client := Client(ca.Leaf("web", nil), bundle, connect.TLSLimits{}, "", only("api"))
	client.MinVersion, client.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if serverErr, clientErr, _ := shake(t, server, client); serverErr == nil || clientErr == nil {
		t.Errorf("TLS 1.1 was accepted: server %v, client %v", serverErr, clientErr)
	}
}

func TestAnyALPNIsAccepted(t *testing.T) {
	ca := meshca.New("root")
	bundle := meshca.Bundle(ca)
	client := Client(ca.Leaf("web", nil), bundle, connect.TLSLimits{}, "", only("api"))
	client.NextProtos = []string{"h2"}
	serverErr, clientErr, _ := shake(t, Server(ca.Leaf("api", nil), Callers{Own: bundle}, connect.TLSLimits{}), client)
	if serverErr != nil || clientErr != nil {
		t.Errorf("server %v, client %v", serverErr, clientErr)
	}
}

func TestConnectionsAreNeverResumed(t *testing.T) {
	ca := meshca.New("root")
	bundle := meshca.Bundle(ca)
	server := Server(ca.Leaf("api", nil), Callers{Own: bundle}, connect.TLSLimits{})
	client := Client(ca.Leaf("web", nil), bundle, connect.TLSLimits{}, "sni", only("api"))
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	for i := range 3 {
		_, clientErr, state := shake(t, server, client)
		if clientErr != nil || state.DidResume {
			t.Errorf("handshake %d: resumed %v, error %v", i, state.DidResume, clientErr)
		}
	}
}
