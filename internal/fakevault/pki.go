// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package fakevault

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/internal/meshca"
)

// A SignFunc makes the certificate for an accepted CSR, and its chain as Vault
// would return it.
type SignFunc func(csr *x509.CertificateRequest, ttl time.Duration) (cert *x509.Certificate, chain []*x509.Certificate)

type role struct {
	uri  string
	sign SignFunc
}

// SetRole defines a PKI role, as "mount/role", that signs one URI SAN. sign is
// nil for an honest role.
func (v *Vault) SetRole(path, uri string, sign SignFunc) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.roles[path] = role{uri: uri, sign: sign}
}

// SetCA changes who signs, as the rotation of an issuer does.
func (v *Vault) SetCA(ca, parent *meshca.CA) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.CA, v.Parent = ca, parent
}

// Sign signs as an honest role does, with options that make the leaf wrong.
func (v *Vault) Sign(public crypto.PublicKey, uri string, ttl time.Duration, options ...meshca.Option) (*x509.Certificate, []*x509.Certificate) {
	return SignWith(v.CA, v.Parent, public, uri, ttl, options...)
}

// SignWith signs with another CA.
func SignWith(ca, parent *meshca.CA, public crypto.PublicKey, uri string, ttl time.Duration, options ...meshca.Option) (*x509.Certificate, []*x509.Certificate) {
	now := time.Now()
	all := append([]meshca.Option{meshca.Life(now.Add(-time.Minute), now.Add(ttl)), meshca.URIs(uri)}, options...)
	cert := ca.SignLeaf(public, nil, all...)
	if parent == nil {
		return cert, nil
	}
	return cert, []*x509.Certificate{ca.Cert}
}

func (v *Vault) sign(r Request) (int, any) {
	if v.valid(r.Token) == nil {
		return http.StatusForbidden, failed("2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n", "token "+r.Token)
	}
	mount, name, _ := strings.Cut(r.Path, "/sign/")
	role, ok := v.roles[mount+"/"+name]
	if !ok {
		return http.StatusBadRequest, failed("unknown role: " + name)
	}
	csr, err := checkCSR(r.Body)
	if err != nil {
		return http.StatusBadRequest, failed(err.Error())
	}
	if csr.URIs[0].String() != role.uri {
		return http.StatusBadRequest, failed("URI Subject Alternative Names were provided via the CSR which are not valid for this role: " + csr.URIs[0].String())
	}
	ttl := time.Hour
	if text, ok := r.Body["ttl"].(string); ok {
		if ttl, err = time.ParseDuration(text); err != nil {
			return http.StatusBadRequest, failed(err.Error())
		}
	}
	sign := role.sign
	if sign == nil {
		sign = func(csr *x509.CertificateRequest, ttl time.Duration) (*x509.Certificate, []*x509.Certificate) {
			return v.Sign(csr.PublicKey, role.uri, ttl)
		}
	}
	cert, chain := sign(csr, ttl)
	data := map[string]any{"certificate": meshca.PEM(cert), "issuing_ca": meshca.PEM(v.CA.Cert)}
	var list []string
	for _, c := range chain {
		list = append(list, meshca.PEM(c))
	}
	if list != nil {
		data["ca_chain"] = list
	}
	return http.StatusOK, map[string]any{"data": data}
}

// checkCSR is strict where Vault is not: what the product sends has one form.
func checkCSR(body map[string]any) (*x509.CertificateRequest, error) {
	text, _ := body["csr"].(string)
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(rest) > 0 {
		return nil, fmt.Errorf("csr is not one PEM block")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("csr: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("csr: %w", err)
	}
	others := len(csr.DNSNames) + len(csr.IPAddresses) + len(csr.EmailAddresses)
	switch {
	case len(csr.Subject.Names) != 0:
		return nil, fmt.Errorf("csr has a subject: %s", csr.Subject)
	case len(csr.URIs) != 1 || others != 0:
		return nil, fmt.Errorf("csr has %d URI SANs and %d others, want exactly one URI", len(csr.URIs), others)
	case body["format"] != "pem" || body["remove_roots_from_chain"] != true:
		return nil, fmt.Errorf("csr is sent without format=pem and remove_roots_from_chain=true")
	}
	return csr, nil
}
