// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/hashicorp/vault/api"

	"github.com/outrider-mesh/outrider/connect"
)

// maxChain bounds the ca_chain of a response, in certificates.
const maxChain = 16

// newCSR makes a key in memory and a request for one identity: an empty
// subject and the SPIFFE ID as the only SAN (SPIFFE X.509-SVID).
func newCSR(id connect.Identity) (crypto.Signer, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.URI()}}, key)
	if err != nil {
		return nil, "", fmt.Errorf("make a certificate request for %q: %w", id, err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// sign has Vault sign a CSR (Vault documentation, PKI secrets engine API: sign
// certificate). Roots are left out of the chain: peers have them.
func (c *Client) sign(ctx context.Context, pki PKI, id connect.Identity, csr string) (*signed, *failure, error) {
	data := map[string]any{"csr": csr, "format": "pem", "remove_roots_from_chain": true}
	if pki.TTL > 0 {
		data["ttl"] = fmt.Sprintf("%ds", int64(pki.TTL.Seconds()))
	}
	doing := fmt.Sprintf("sign leaf for %q with Vault role %q of %s at %s", id.Service, pki.Role, strings.Trim(pki.Mount, "/"), c.cfg.Address)
	secret, err := c.authed.Logical().WriteWithContext(ctx, pki.path(), data)
	if err != nil {
		f := newFailure(err, c.secrets())
		return nil, f, advise(doing, f, signRemedy(pki, id.String(), f))
	}
	s, err := parseSigned(secret)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: response of Vault: %w: is %s a PKI mount?", doing, err, strings.Trim(pki.Mount, "/"))
	}
	return s, nil, nil
}

// signed is what Vault returns for a CSR.
type signed struct {
	leaf   *x509.Certificate
	issued []*x509.Certificate // issuers of the leaf, as Vault gave them
}

// parseSigned reads the response to a CSR: the leaf, and ca_chain or, where a
// mount knows no chain, issuing_ca.
func parseSigned(secret *api.Secret) (*signed, error) {
	if secret == nil || secret.Data == nil {
		return nil, errors.New("it holds no data")
	}
	text, _ := secret.Data["certificate"].(string)
	certs, err := connect.ParseCertificates([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if len(certs) != 1 {
		return nil, fmt.Errorf("certificate: %d certificates, want one", len(certs))
	}
	issued, err := parseChain(secret.Data)
	if err != nil {
		return nil, err
	}
	return &signed{leaf: certs[0], issued: issued}, nil
}

func parseChain(data map[string]any) ([]*x509.Certificate, error) {
	list, _ := data["ca_chain"].([]any)
	field := "ca_chain"
	if len(list) == 0 {
		field = "issuing_ca"
		if s, _ := data[field].(string); strings.TrimSpace(s) != "" {
			list = []any{s}
		}
	}
	var chain []*x509.Certificate
	for _, item := range list {
		text, _ := item.(string)
		certs, err := connect.ParseCertificates([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		chain = append(chain, certs...)
		if len(chain) > maxChain {
			return nil, fmt.Errorf("%s holds more than %d certificates", field, maxChain)
		}
	}
	return chain, nil
}

// compose makes the leaf that is presented while bundle is in force.
func (p PKI) compose(s *signed, key crypto.Signer, bundle *connect.TrustBundle) (*connect.Leaf, error) {
	return connect.NewLeaf(connect.PresentedChain(s.leaf, s.issued, bundle.Active()), key, "vault "+strings.Trim(p.Mount, "/")+"/"+p.Role)
}
