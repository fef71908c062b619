// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A PeerError says why a certificate was not believed. Reason is [TLSFailed]
// or [IdentityMismatch]; the text names subjects and issuers, never key
// material.
type PeerError struct {
	Reason Reason
	Err    error
}

func (e *PeerError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *PeerError) Unwrap() error { return e.Err }

func untrusted(format string, args ...any) *PeerError {
	return &PeerError{Reason: TLSFailed, Err: fmt.Errorf(format, args...)}
}

func mismatch(format string, args ...any) *PeerError {
	return &PeerError{Reason: IdentityMismatch, Err: fmt.Errorf(format, args...)}
}

// maxPresented bounds the certificates of one peer: trying the paths through
// them is work that a stranger can ask for.
const maxPresented = 16

// Verify checks a presented chain, leaf first, and returns the identity it
// proves. The leaf must be valid at now for usage, chain to a root of the
// bundle through the other certificates in any order, not be a CA, and carry
// exactly one URI SAN: a service of the bundle's trust domain (SPIFFE
// X.509-SVID; Consul's verification of peers). A chain of more than 16
// certificates is refused. Errors are of type *PeerError.
func (b *TrustBundle) Verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (Identity, error) {
	u, err := b.VerifyURI(chain, usage, now)
	if err != nil {
		return Identity{}, err
	}
	id, err := ParseIdentity(u)
	if err != nil {
		return Identity{}, mismatch("%w", err)
	}
	return id, nil
}

// VerifyURI is Verify for whatever kind of identity: it returns the SPIFFE ID of
// the bundle's trust domain that the chain proves. What it stands for is for the
// caller to find out.
func (b *TrustBundle) VerifyURI(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (*url.URL, error) {
	if len(chain) == 0 {
		return nil, untrusted("the peer presented no certificate")
	}
	if len(chain) > maxPresented {
		return nil, untrusted("the peer presented %d certificates, more than %d", len(chain), maxPresented)
	}
	leaf := chain[0]
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return nil, untrusted("the certificate is that of a CA, not of a service")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:         b.Pool,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return nil, untrusted("certificate issued by %q is not trusted: %w", leaf.Issuer, err)
	}
	if n := len(leaf.URIs); n != 1 {
		return nil, mismatch("the certificate has %d URI SANs, want exactly one", n)
	}
	u := leaf.URIs[0]
	if err := checkSPIFFE(u); err != nil {
		return nil, mismatch("%w", err)
	}
	if domain := strings.ToLower(u.Host); domain != b.TrustDomain {
		return nil, mismatch("the certificate is of trust domain %q, want %q", domain, b.TrustDomain)
	}
	return u, nil
}

// NewLeaf returns a leaf over a presented chain and the key of its first
// certificate. Certificate and key must belong together.
func NewLeaf(chain []*x509.Certificate, key crypto.Signer, issuer string) (*Leaf, error) {
	if len(chain) == 0 {
		return nil, errors.New("the leaf has no certificate")
	}
	public, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, errors.New("the leaf certificate is not for our key")
	}
	if n := len(chain[0].URIs); n != 1 {
		return nil, fmt.Errorf("the leaf has %d URI SANs, want exactly one", n)
	}
	id, err := ParseIdentity(chain[0].URIs[0])
	if err != nil {
		return nil, fmt.Errorf("the leaf's %w", err)
	}
	return &Leaf{Chain: chain, Key: key, Identity: id, Issuer: issuer}, nil
}

// Check reports why the leaf must not be used: it is not for want, has expired,
// lacks a key usage, or does not chain to the bundle. nil means peers that hold
// the bundle will believe it, as a client and as a server.
func (l *Leaf) Check(bundle *TrustBundle, want Identity, now time.Time) error {
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		got, err := bundle.Verify(l.Chain, usage, now)
		if err != nil {
			return fmt.Errorf("leaf from %s (issuer %q) does not hold against Consul's roots (%s): %w", l.Issuer, l.Chain[0].Issuer, bundle.names(), err)
		}
		if got != want {
			return fmt.Errorf("leaf from %s is for %q, want %q", l.Issuer, got, want)
		}
	}
	return nil
}

func (b *TrustBundle) names() string {
	var names []string
	for _, root := range b.Roots {
		for _, cert := range root.Certificates {
			names = append(names, fmt.Sprintf("%q", cert.Subject))
		}
	}
	return strings.Join(names, ", ")
}

// PresentedChain composes what a service presents: its leaf, the chain that the
// issuer gave, and the intermediates of the active root, each once and without
// self-signed roots. While a root is being replaced, those intermediates hold
// the certificate cross-signed by the old root, without which peers that have
// not seen the new root cannot build a path. active may be nil.
func PresentedChain(leaf *x509.Certificate, issued []*x509.Certificate, active *Root) []*x509.Certificate {
	chain := []*x509.Certificate{leaf}
	add := func(certs []*x509.Certificate) {
		for _, cert := range certs {
			if !selfSigned(cert) && !slices.ContainsFunc(chain, cert.Equal) {
				chain = append(chain, cert)
			}
		}
	}
	add(issued)
	if active != nil {
		add(active.Intermediates)
	}
	return chain
}

// selfSigned compares names as well as the signature, because a cross-signed
// root carries the subject of the new root and the issuer of the old one.
func selfSigned(cert *x509.Certificate) bool {
	return bytes.Equal(cert.RawIssuer, cert.RawSubject) && cert.CheckSignatureFrom(cert) == nil
}
