// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// A Leaf is the certificate of the local service with its private key.
type Leaf struct {
	// Chain is what is presented to peers: the leaf first, then every
	// intermediate a peer may need, without self-signed roots.
	Chain []*x509.Certificate
	// Key is the private key of Chain[0]. It is never marshalled, logged or
	// part of a dump.
	Key crypto.Signer `json:"-"`
	// Identity is the one URI SAN of Chain[0].
	Identity Identity
	// Issuer names where the leaf came from, for people: "vault pki/mesh-web".
	Issuer string
}

// NotBefore and NotAfter bound the validity of the leaf.
func (l *Leaf) NotBefore() time.Time { return l.Chain[0].NotBefore }

// NotAfter is the instant at which the leaf expires.
func (l *Leaf) NotAfter() time.Time { return l.Chain[0].NotAfter }

// A Root is one CA of the mesh, as Consul lists it.
type Root struct {
	ID     string // Consul's ID of the root: a hash of the certificate
	Name   string
	Active bool // new leaves are signed under this root
	// SigningKeyID is the hex SubjectKeyId, colon-separated, of the certificate
	// that signs leaves: the last intermediate, or the root itself.
	SigningKeyID string
	// Certificates are the CA certificates to trust; Vault may return several.
	Certificates []*x509.Certificate
	// Intermediates go into the presented chain: a cross-signed certificate
	// first while a root is being replaced, the signing intermediate last.
	Intermediates []*x509.Certificate
}

// A TrustBundle is every root of one trust domain. During a rotation the old
// and the new root are both trusted, active or not.
type TrustBundle struct {
	TrustDomain string // lower case
	Roots       []Root
	// Pool holds the Certificates of all Roots.
	Pool *x509.CertPool `json:"-"`
}

// ErrNoRoots is returned for a bundle that would trust nobody. The caller keeps
// the bundle it has.
var ErrNoRoots = errors.New("the list of CA roots is empty")

// NewTrustBundle returns a bundle over roots, which it keeps. At least one root
// must carry a certificate.
func NewTrustBundle(trustDomain string, roots []Root) (*TrustBundle, error) {
	if trustDomain == "" {
		return nil, errors.New("the CA roots name no trust domain")
	}
	pool, n := x509.NewCertPool(), 0
	for _, root := range roots {
		for _, cert := range root.Certificates {
			if !cert.IsCA {
				return nil, fmt.Errorf("root %q: certificate %q is not a CA certificate", root.ID, cert.Subject)
			}
			pool.AddCert(cert)
			n++
		}
	}
	if n == 0 {
		return nil, ErrNoRoots
	}
	return &TrustBundle{TrustDomain: trustDomain, Roots: roots, Pool: pool}, nil
}

// Active returns the root under which new leaves are signed, or nil when none
// is marked active.
func (b *TrustBundle) Active() *Root {
	for i := range b.Roots {
		if b.Roots[i].Active {
			return &b.Roots[i]
		}
	}
	return nil
}

// SigningID changes whenever leaves must be renewed: with the active root and
// with the certificate that signs leaves under it. It is empty without an
// active root.
func (b *TrustBundle) SigningID() string {
	if root := b.Active(); root != nil {
		return root.ID + "/" + root.SigningKeyID
	}
	return ""
}
