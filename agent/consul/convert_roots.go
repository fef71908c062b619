// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

type wireRoots struct {
	ActiveRootID string
	TrustDomain  string
	Roots        []wireRoot
}

type wireRoot struct {
	ID                string
	Name              string
	SigningKeyID      string
	RootCert          string
	IntermediateCerts []string
	Active            bool
}

// maxRoots bounds a root list; during a rotation there are two or three.
const maxRoots = 64

// convertRoots makes a bundle of a root list. One entry that cannot be read
// refuses the whole list: trusting the rest would cut off whoever was signed
// under it, while the last good list still serves.
func convertRoots(w wireRoots) (*connect.TrustBundle, error) {
	if len(w.Roots) == 0 {
		return nil, fmt.Errorf("%w: the CA of the mesh is not set up yet, or Consul's connect is not enabled", connect.ErrNoRoots)
	}
	if len(w.Roots) > maxRoots {
		return nil, fmt.Errorf("the list has %d CA roots, at most %d can be right", len(w.Roots), maxRoots)
	}
	roots := make([]connect.Root, 0, len(w.Roots))
	for _, r := range w.Roots {
		root, err := convertRoot(r)
		if err != nil {
			return nil, fmt.Errorf("CA root %q: %w", r.ID, err)
		}
		root.Active = root.Active || (r.ID != "" && r.ID == w.ActiveRootID)
		roots = append(roots, root)
	}
	domain, err := trustDomain(w.TrustDomain, roots)
	if err != nil {
		return nil, err
	}
	return connect.NewTrustBundle(domain, roots)
}

func convertRoot(w wireRoot) (connect.Root, error) {
	certs, err := connect.ParseCertificates([]byte(w.RootCert))
	if err != nil {
		return connect.Root{}, err
	}
	root := connect.Root{ID: w.ID, Name: w.Name, Active: w.Active, SigningKeyID: w.SigningKeyID, Certificates: certs}
	for i, text := range w.IntermediateCerts {
		if i == maxRoots {
			return connect.Root{}, fmt.Errorf("more than %d intermediate certificates", maxRoots)
		}
		certs, err := connect.ParseCertificates([]byte(text))
		if err != nil {
			return connect.Root{}, fmt.Errorf("intermediate %d: %w", i+1, err)
		}
		root.Intermediates = append(root.Intermediates, certs...)
	}
	return root, nil
}

// trustDomain takes the name Consul gives, else the one in the URI SAN of a
// root, which Consul's own CA puts there.
func trustDomain(given string, roots []connect.Root) (string, error) {
	if given != "" {
		return strings.ToLower(given), nil
	}
	for _, root := range roots {
		for _, cert := range root.Certificates {
			for _, u := range cert.URIs {
				if u.Scheme == "spiffe" && u.Host != "" && u.Path == "" {
					return strings.ToLower(u.Host), nil
				}
			}
		}
	}
	return "", errors.New("neither the answer nor a CA root names the trust domain")
}

func equalBundles(a, b *connect.TrustBundle) bool {
	return a.TrustDomain == b.TrustDomain && slices.EqualFunc(a.Roots, b.Roots, func(a, b connect.Root) bool {
		return a.ID == b.ID && a.Name == b.Name && a.Active == b.Active && a.SigningKeyID == b.SigningKeyID &&
			slices.EqualFunc(a.Certificates, b.Certificates, (*x509.Certificate).Equal) &&
			slices.EqualFunc(a.Intermediates, b.Intermediates, (*x509.Certificate).Equal)
	})
}
