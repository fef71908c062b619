// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package meshca makes certificate authorities, leaves and rotations for the embedded mesh
// and for tests. Its keys live in memory and protect nothing.
package meshca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // key identifiers, not a signature
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// TrustDomain is the trust domain of certificates made with New.
const TrustDomain = "11111111-2222-3333-4444-555555555555.consul"

// A CA is a certificate authority with its key.
type CA struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// New returns a self-signed root of TrustDomain. It panics when the system has
// no randomness: a programmer can do nothing about it.
func New(name string) *CA { return NewIn(name, TrustDomain) }

// NewIn returns a self-signed root of the given trust domain, valid for ten
// years.
func NewIn(name, trustDomain string) *CA {
	key := newKey()
	template := caTemplate(name, key)
	template.URIs = []*url.URL{{Scheme: "spiffe", Host: trustDomain}}
	return &CA{Cert: sign(template, template, key.Public(), key), Key: key}
}

// Intermediate returns a CA signed by c.
func (c *CA) Intermediate(name string) *CA {
	key := newKey()
	template := caTemplate(name, key)
	return &CA{Cert: sign(template, c.Cert, key.Public(), c.Key), Key: key}
}

// CrossSign returns other's certificate signed by c: same subject and key.
func (c *CA) CrossSign(other *CA) *x509.Certificate {
	template := *other.Cert
	template.SerialNumber = serial()
	template.AuthorityKeyId = c.Cert.SubjectKeyId
	return sign(&template, c.Cert, other.Key.Public(), c.Key)
}

// An Option changes the template of a leaf before it is signed.
type Option func(*x509.Certificate)

// Expired makes the leaf one that ended a minute ago.
func Expired(t *x509.Certificate) {
	t.NotBefore, t.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
}

// IsCA makes the leaf a CA certificate.
func IsCA(t *x509.Certificate) {
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage |= x509.KeyUsageCertSign
}

// URIs replaces the URI SANs of the leaf.
func URIs(uris ...string) Option {
	return func(t *x509.Certificate) {
		t.URIs = nil
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				panic(err)
			}
			t.URIs = append(t.URIs, u)
		}
	}
}

// Life sets the validity of the leaf.
func Life(notBefore, notAfter time.Time) Option {
	return func(t *x509.Certificate) { t.NotBefore, t.NotAfter = notBefore, notAfter }
}

// Leaf returns a leaf for a service of dc1 with a new key, signed by c.
// intermediates follow it in the chain.
func (c *CA) Leaf(service string, intermediates []*x509.Certificate, options ...Option) *connect.Leaf {
	id := ID(service)
	key := newKey()
	cert := c.SignLeaf(key.Public(), id.URI(), options...)
	return &connect.Leaf{Chain: append([]*x509.Certificate{cert}, intermediates...), Key: key, Identity: id, Issuer: "test"}
}

// SignLeaf signs a leaf for a public key as Consul's own CA would: an empty
// subject, one URI SAN, both extended key usages.
func (c *CA) SignLeaf(public crypto.PublicKey, uri *url.URL, options ...Option) *x509.Certificate {
	template := &x509.Certificate{
		SerialNumber:          serial(),
		URIs:                  []*url.URL{uri},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(72 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, option := range options {
		option(template)
	}
	return sign(template, c.Cert, public, c.Key)
}

// ID is the identity of a service in the default partition, namespace and dc1.
func ID(service string) connect.Identity {
	return connect.Identity{TrustDomain: TrustDomain, Partition: "default", Namespace: "default", Datacenter: "dc1", Service: service}
}

// Bundle returns the trust bundle of some CAs; the last one is active.
func Bundle(cas ...*CA) *connect.TrustBundle {
	var roots []connect.Root
	for i, ca := range cas {
		roots = append(roots, connect.Root{
			ID:           fmt.Sprintf("root-%d-%s", i, ca.Cert.Subject.CommonName),
			Active:       i == len(cas)-1,
			SigningKeyID: KeyID(ca.Cert),
			Certificates: []*x509.Certificate{ca.Cert},
		})
	}
	bundle, err := connect.NewTrustBundle(TrustDomain, roots)
	if err != nil {
		panic(err)
	}
	return bundle
}

// PEM encodes certificates.
func PEM(certs ...*x509.Certificate) string {
	var b strings.Builder
	for _, cert := range certs {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return b.String()
}

// KeyID formats a SubjectKeyId as Consul does: lower-case hex, colon-separated.
func KeyID(cert *x509.Certificate) string {
	parts := make([]string, len(cert.SubjectKeyId))
	for i, b := range cert.SubjectKeyId {
		parts[i] = fmt.Sprintf("%02x", b)
	}
	return strings.Join(parts, ":")
}

func caTemplate(name string, key *ecdsa.PrivateKey) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: name},
		SubjectKeyId:          subjectKeyID(key),
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(10 * 365 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func subjectKeyID(key *ecdsa.PrivateKey) []byte {
	point, err := key.PublicKey.Bytes()
	if err != nil {
		panic(err)
	}
	sum := sha1.Sum(point) //nolint:gosec // RFC 5280 §4.2.1.2 method 1
	return sum[:]
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	return n
}
