// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// Callers are those whom an inbound listener believes. Whether they are welcome
// is for intentions to say.
type Callers struct {
	Own *connect.TrustBundle // of our own trust domain; never nil
	// Peers are cluster peers whose services call with certificates of their own
	// trust domain. One without a bundle, and one that claims our own trust
	// domain, proves nobody.
	Peers []connect.Peer
	// Gateways says that callers of peers come through mesh gateways of our own
	// trust domain, which end TLS for them and name them request by request, and
	// in no other way: so it is with HTTP (Consul, cluster peering). Without it
	// gateways pass TLS through, and prove nobody themselves.
	Gateways bool
}

// A Caller is who a certificate proves: a service, or a mesh gateway of our own.
// The other field is zero.
type Caller struct {
	Identity connect.Identity
	Gateway  connect.Gateway
}

// IsGateway reports whether the caller is a mesh gateway.
func (c Caller) IsGateway() bool { return c.Gateway != connect.Gateway{} }

// Label names the caller for people.
func (c Caller) Label() string {
	if c.IsGateway() {
		return "mesh gateway of " + c.Gateway.Datacenter
	}
	return c.Identity.Label()
}

// Verify checks the chain of a caller. The trust domain of its SPIFFE ID selects
// the roots: those of our own, or of the one peer of that trust domain whose
// roots hold. A chain that the roots of two peers verify is refused, since it
// does not say which of them it is of. Errors are of type *[connect.PeerError].
func (c Callers) Verify(chain []*x509.Certificate, now time.Time) (Caller, error) {
	peers := c.of(trustDomain(chain))
	if len(peers) == 0 {
		u, err := c.Own.VerifyURI(chain, x509.ExtKeyUsageClientAuth, now)
		if err != nil {
			return Caller{}, err
		}
		return c.own(u)
	}
	var found []Caller
	var last error
	for _, p := range peers {
		id, err := p.Bundle.Verify(chain, x509.ExtKeyUsageClientAuth, now)
		if err != nil {
			last = err
			continue
		}
		if id.Partition != p.Partition {
			last = mismatch("the certificate is of partition %q, of which peer %q exports nothing", id.Partition, p.Name)
			continue
		}
		id.Peer = p.Name
		found = append(found, Caller{Identity: id})
	}
	switch len(found) {
	case 0:
		return Caller{}, last
	case 1:
		return found[0], nil
	}
	return Caller{}, mismatch("the roots of peers %q and %q both verify the certificate, so that it tells nobody apart", found[0].Identity.Peer, found[1].Identity.Peer)
}

// of returns the peers of a trust domain whose callers prove themselves.
func (c Callers) of(domain string) []connect.Peer {
	if c.Gateways || domain == "" || domain == c.Own.TrustDomain {
		return nil
	}
	var out []connect.Peer
	for _, p := range c.Peers {
		if p.Proves() && p.Bundle.TrustDomain == domain {
			out = append(out, p)
		}
	}
	return out
}

// own says who a SPIFFE ID of our own trust domain stands for.
func (c Callers) own(u *url.URL) (Caller, error) {
	id, err := connect.ParseIdentity(u)
	if err == nil {
		return Caller{Identity: id}, nil
	}
	if c.Gateways {
		if g, err := connect.ParseGateway(u); err == nil {
			return Caller{Gateway: g}, nil
		}
	}
	return Caller{}, mismatch("%w", err)
}

// Proved returns who the peer of a completed handshake is. The configuration of
// the handshake must have been made of the same callers.
func (c Callers) Proved(state tls.ConnectionState) (Caller, error) {
	if !state.HandshakeComplete || len(state.PeerCertificates) == 0 || len(state.PeerCertificates[0].URIs) != 1 {
		return Caller{}, errors.New("the TLS handshake proved no identity")
	}
	if trustDomain(state.PeerCertificates) == c.Own.TrustDomain {
		return c.own(state.PeerCertificates[0].URIs[0]) // verified in the handshake
	}
	// Which peer's roots have verified it is not in the state.
	return c.Verify(state.PeerCertificates, time.Now())
}

// trustDomain is that which a chain claims, "" when it claims none.
func trustDomain(chain []*x509.Certificate) string {
	if len(chain) == 0 || len(chain[0].URIs) != 1 {
		return ""
	}
	return strings.ToLower(chain[0].URIs[0].Host)
}

func mismatch(format string, args ...any) error {
	return &connect.PeerError{Reason: connect.IdentityMismatch, Err: fmt.Errorf(format, args...)}
}
