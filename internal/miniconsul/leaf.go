// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// A leaf is the certificate of one service, kept until it gets old or its root
// is replaced.
type leaf struct {
	view   leafView
	signer *meshca.CA
	renew  time.Time
}

// A leafView is a leaf as Consul's agents hand it out, key included.
type leafView struct {
	SerialNumber  string
	CertPEM       string
	PrivateKeyPEM string
	Service       string
	ServiceURI    string
	ValidAfter    time.Time
	ValidBefore   time.Time
	CreateIndex   uint64
	ModifyIndex   uint64
}

func (s *Server) getLeaf(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("service")
	return s.block(w, r, func(st *state) (answer, error) {
		l, err := st.leaf(name, time.Now())
		if err != nil {
			return answer{}, err
		}
		return answer{index: l.view.ModifyIndex, value: l.view, again: max(time.Until(l.renew), time.Millisecond)}, nil
	})
}

// leaf returns the certificate of a service, issued anew when it must be. As
// from Consul, every name gets one.
func (st *state) leaf(name string, now time.Time) (*leaf, error) {
	signer := st.ca.roots[0]
	old := st.leaves[name]
	if old != nil && old.signer == signer.ca && now.Before(old.renew) {
		return old, nil
	}
	if old == nil && len(st.leaves) >= maxLeaves {
		return nil, fmt.Errorf("issue a leaf for %q: %w: at most %d leaves", name, errFull, maxLeaves)
	}
	if len(name) > 255 {
		return nil, fail(http.StatusBadRequest, "issue a leaf: the name of the service has %d bytes, at most 255 are allowed", len(name))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("issue a leaf for %q: %w", name, err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("issue a leaf for %q: %w", name, err)
	}
	id := connect.Identity{
		TrustDomain: st.opts.TrustDomain, Partition: connect.DefaultName, Namespace: connect.DefaultName,
		Datacenter: st.opts.Datacenter, Service: name,
	}
	start, end := now.Add(-time.Minute), now.Add(st.ca.leafTTL)
	cert := signer.ca.SignLeaf(key.Public(), id.URI(), meshca.Life(start, end))
	at := st.bump()
	fresh := &leaf{signer: signer.ca, renew: now.Add(st.ca.leafTTL * 3 / 4), view: leafView{
		SerialNumber:  hexColons(cert.SerialNumber.Bytes()),
		CertPEM:       meshca.PEM(append([]*x509.Certificate{cert}, signer.intermediates...)...),
		PrivateKeyPEM: string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})),
		Service:       name, ServiceURI: id.String(),
		ValidAfter: cert.NotBefore.UTC(), ValidBefore: cert.NotAfter.UTC(),
		CreateIndex: at, ModifyIndex: at,
	}}
	if old != nil {
		fresh.view.CreateIndex = old.view.CreateIndex
	}
	st.leaves[name] = fresh
	return fresh, nil
}
