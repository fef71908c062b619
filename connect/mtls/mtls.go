// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package mtls turns a leaf and a trust bundle into TLS configurations that
// verify peers by their SPIFFE identity. It decides who a peer is, never
// whether it is welcome.
package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// Server returns the configuration of an inbound listener. A client must
// present a certificate that callers verify for client authentication; any
// SNI and any ALPN are accepted, because Consul's gateways and Envoy choose
// them freely: of protocols the first that the client offers too is negotiated,
// and none where there is no such. The configuration must not be modified; it
// may be cloned.
func Server(leaf *connect.Leaf, callers Callers, limits connect.TLSLimits, protocols ...string) *tls.Config {
	cert := certificate(leaf)
	cfg := base(limits)
	cfg.Certificates = []tls.Certificate{cert}
	// Not RequireAndVerify: its verification is skipped on resumption and knows
	// nothing of SPIFFE. VerifyConnection below runs on every connection.
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := callers.Verify(state.PeerCertificates, time.Now())
		return err
	}
	if len(protocols) > 0 {
		cfg.GetConfigForClient = negotiate(cfg.Clone(), protocols)
	}
	return cfg
}

// negotiate keeps crypto/tls from refusing clients that offer other protocols
// only, as it does when a server has a list and nothing in common (RFC 7301,
// 3.2): Envoy lets them in, and the first bytes tell the protocol anyway.
func negotiate(silent *tls.Config, protocols []string) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	chosen := make(map[string]*tls.Config, len(protocols))
	for _, p := range protocols {
		chosen[p] = silent.Clone()
		chosen[p].NextProtos = []string{p}
	}
	return func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		for _, p := range protocols {
			if slices.Contains(hello.SupportedProtos, p) {
				return chosen[p], nil
			}
		}
		return silent, nil
	}
}

// Client returns the configuration of connections to one target: it sends sni,
// presents the leaf whatever CAs the server names, and accepts only a server
// whose single URI SAN is one of want, SPIFFE IDs of the bundle's trust domain in
// the form of [connect.CanonicalID]. There is no host name check: the identity is
// the name (Consul, Connect: how proxies verify each other). Without any in want,
// and without a bundle, nobody is accepted. protocols are offered as ALPN.
func Client(leaf *connect.Leaf, bundle *connect.TrustBundle, limits connect.TLSLimits, sni string, want []string, protocols ...string) *tls.Config {
	cert := certificate(leaf)
	cfg := base(limits)
	cfg.ServerName = sni
	cfg.NextProtos = protocols
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	cfg.InsecureSkipVerify = true // VerifyConnection verifies, on resumed connections too
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if bundle == nil {
			return &connect.PeerError{Reason: connect.TLSFailed, Err: errors.New("the roots of the endpoint are not known")}
		}
		u, err := bundle.VerifyURI(state.PeerCertificates, x509.ExtKeyUsageServerAuth, time.Now())
		if err != nil {
			return err
		}
		got, err := connect.CanonicalID(u)
		if err != nil {
			return mismatch("the endpoint is %w", err)
		}
		if !slices.Contains(want, got) {
			return mismatch("the endpoint is %q, want %s", got, oneOf(want))
		}
		return nil
	}
	return cfg
}

// oneOf names a few of those that would do.
func oneOf(want []string) string {
	const most = 4
	switch {
	case len(want) == 0:
		return "none: nothing is known of who it must be"
	case len(want) == 1:
		return strconv.Quote(want[0])
	case len(want) > most:
		return fmt.Sprintf("one of %q and %d more", want[:most], len(want)-most)
	}
	return fmt.Sprintf("one of %q", want)
}

func base(limits connect.TLSLimits) *tls.Config {
	cfg := &tls.Config{
		MinVersion:   tls.VersionTLS12, // Envoy clients offer no more unless told to
		MaxVersion:   limits.MaxVersion,
		CipherSuites: limits.CipherSuites,
		// A resumed session would outlive a rotated leaf for as long as its
		// ticket does; a full handshake costs about a millisecond.
		SessionTicketsDisabled: true,
		// Both ends are proxies on fast links: small first records only cost.
		DynamicRecordSizingDisabled: true,
	}
	// An entry that asks for less than TLS 1.2 is not followed down: nothing in
	// the mesh needs it.
	cfg.MinVersion = max(cfg.MinVersion, limits.MinVersion)
	return cfg
}

func certificate(leaf *connect.Leaf) tls.Certificate {
	cert := tls.Certificate{PrivateKey: leaf.Key, Leaf: leaf.Chain[0]}
	for _, c := range leaf.Chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert
}
