// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"crypto/ecdsa"
	"crypto/sha1" //nolint:gosec // the name of a certificate, not a signature
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// An authority is the CA of the mesh with its former roots. The active root is
// the first one.
type authority struct {
	roots   []*root
	config  caSettings
	leafTTL time.Duration
	modify  uint64
}

type root struct {
	ca            *meshca.CA
	intermediates []*x509.Certificate // the certificate that the former root gave it
	create        uint64
	modify        uint64
}

// caSettings are those of the settings of Consul's own CA that are acted on.
// The others are read, so that a configuration written for Consul is accepted.
type caSettings struct {
	LeafCertTTL         checkTime
	IntermediateCertTTL checkTime
	RootCertTTL         checkTime
	PrivateKey          string
	RootCert            string
	PrivateKeyType      string
	PrivateKeyBits      int
	CSRMaxPerSecond     float64
	CSRMaxConcurrent    int
}

func newAuthority(opts Options, index uint64) authority {
	return authority{
		roots:   []*root{{ca: meshca.NewIn("Outrider Dev CA", opts.TrustDomain), create: index, modify: index}},
		leafTTL: opts.LeafTTL,
		modify:  index,
	}
}

// rotate makes ca the active root, a new one if it is nil. Every leaf is issued
// anew when it is asked for next; at once, where Consul's agents spread that
// over 30 s to spare the servers.
func (st *state) rotate(ca *meshca.CA) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if ca == nil {
		ca = meshca.NewIn(fmt.Sprintf("Outrider Dev CA %d", st.index), st.opts.TrustDomain)
	}
	st.adopt(ca)
	return nil
}

func (st *state) adopt(ca *meshca.CA) {
	old := *st.ca.roots[0]
	at := st.bump(caTopic)
	old.modify = at
	fresh := &root{ca: ca, intermediates: []*x509.Certificate{old.ca.CrossSign(ca)}, create: at, modify: at}
	roots := append([]*root{fresh, &old}, st.ca.roots[1:]...)
	st.ca.roots, st.ca.modify = roots[:min(len(roots), maxRoots)], at
}

type rootsView struct {
	ActiveRootID string
	TrustDomain  string
	Roots        []rootView
}

type rootView struct {
	ID                  string
	Name                string
	SerialNumber        uint64
	SigningKeyID        string
	ExternalTrustDomain string
	NotBefore           time.Time
	NotAfter            time.Time
	RootCert            string
	IntermediateCerts   []string
	Active              bool
	PrivateKeyType      string
	PrivateKeyBits      int
	CreateIndex         uint64
	ModifyIndex         uint64
}

func (s *Server) getRoots(w http.ResponseWriter, r *http.Request) error {
	return s.block(w, r, func(st *state) (answer, error) {
		view := rootsView{ActiveRootID: rootID(st.ca.roots[0].ca.Cert), TrustDomain: st.opts.TrustDomain}
		for i, each := range st.ca.roots {
			view.Roots = append(view.Roots, st.viewRoot(each, i == 0))
		}
		slices.SortFunc(view.Roots, func(a, b rootView) int { return strings.Compare(a.ID, b.ID) })
		return answer{index: st.at(caTopic), value: view}, nil
	})
}

func (st *state) viewRoot(r *root, active bool) rootView {
	cert := r.ca.Cert
	v := rootView{
		ID: rootID(cert), Name: cert.Subject.CommonName, SerialNumber: cert.SerialNumber.Uint64(),
		SigningKeyID:        meshca.KeyID(cert),
		ExternalTrustDomain: strings.TrimSuffix(st.opts.TrustDomain, ".consul"),
		NotBefore:           cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		RootCert: meshca.PEM(cert), Active: active,
		PrivateKeyType: "ec", PrivateKeyBits: r.ca.Key.Params().BitSize,
		CreateIndex: r.create, ModifyIndex: r.modify,
	}
	for _, each := range r.intermediates {
		v.IntermediateCerts = append(v.IntermediateCerts, meshca.PEM(each))
	}
	return v
}

// rootID names a root by its certificate's SHA-1, as Consul does.
func rootID(cert *x509.Certificate) string {
	sum := sha1.Sum(cert.Raw) //nolint:gosec // a name
	return hexColons(sum[:])
}

func hexColons(b []byte) string {
	parts := make([]string, len(b))
	for i := range b {
		parts[i] = fmt.Sprintf("%02x", b[i])
	}
	return strings.Join(parts, ":")
}

type caConfigView struct {
	Provider                 string
	Config                   map[string]any
	State                    map[string]string
	ForceWithoutCrossSigning bool
	CreateIndex              uint64
	ModifyIndex              uint64
}

// getCAConfig shows the settings without the key.
func (s *Server) getCAConfig(w http.ResponseWriter, _ *http.Request) error {
	s.state.mu.Lock()
	view := caConfigView{
		Provider: "consul", CreateIndex: 1, ModifyIndex: s.state.ca.modify,
		Config: map[string]any{"LeafCertTTL": s.state.ca.leafTTL.String()},
	}
	s.state.mu.Unlock()
	return reply(w, view)
}

// putCAConfig changes the root. As with Consul's own CA, a configuration that
// is the one in force changes nothing; one without a key and a certificate
// makes a new root.
func (s *Server) putCAConfig(w http.ResponseWriter, r *http.Request) error {
	body, err := receive(w, r)
	if err != nil {
		return err
	}
	var wanted struct {
		Provider                 string
		Config                   caSettings
		State                    map[string]string
		ForceWithoutCrossSigning bool
		CreateIndex, ModifyIndex uint64
	}
	if err := decode(body, &wanted); err != nil {
		return fail(http.StatusBadRequest, "Request decode failed: %v", err)
	}
	switch {
	case wanted.Provider != "consul":
		return fmt.Errorf("could not initialize provider: unknown CA provider %q", wanted.Provider)
	case wanted.ForceWithoutCrossSigning:
		return fail(http.StatusBadRequest, "the embedded mesh always signs its new root with the old one: leave ForceWithoutCrossSigning out")
	}
	return s.state.configureCA(wanted.Config)
}

func (st *state) configureCA(wanted caSettings) error {
	ttl := wanted.LeafCertTTL.value
	if ttl != 0 && ttl < time.Hour {
		return fmt.Errorf("leaf cert TTL must be greater or equal than 1h")
	}
	var ca *meshca.CA
	if wanted.PrivateKey != "" || wanted.RootCert != "" {
		var err error
		if ca, err = parseCA(wanted); err != nil {
			return err
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	same := wanted.PrivateKey == st.ca.config.PrivateKey && wanted.RootCert == st.ca.config.RootCert
	st.ca.config = wanted
	if ttl != 0 {
		st.ca.leafTTL = ttl
	}
	if same {
		return nil
	}
	if ca == nil {
		ca = meshca.NewIn(fmt.Sprintf("Outrider Dev CA %d", st.index), st.opts.TrustDomain)
	}
	if want := st.opts.TrustDomain; len(ca.Cert.URIs) != 1 || !strings.EqualFold(ca.Cert.URIs[0].Host, want) {
		return fmt.Errorf("the root certificate must have one URI SAN, spiffe://%s", want)
	}
	st.adopt(ca)
	return nil
}

// parseCA reads a root and its key. No error shows any of the key.
func parseCA(settings caSettings) (*meshca.CA, error) {
	certs, err := connect.ParseCertificates([]byte(settings.RootCert))
	if err != nil || len(certs) != 1 {
		return nil, errors.New("RootCert is not one certificate in PEM")
	}
	block, _ := pem.Decode([]byte(settings.PrivateKey))
	if block == nil {
		return nil, errors.New("PrivateKey is no key in PEM")
	}
	key, err := parseKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) || !certs[0].IsCA {
		return nil, errors.New("PrivateKey is not that of RootCert, or RootCert is not a CA")
	}
	return &meshca.CA{Cert: certs[0], Key: key}, nil
}

func parseKey(der []byte) (*ecdsa.PrivateKey, error) {
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	if any, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		if key, ok := any.(*ecdsa.PrivateKey); ok {
			return key, nil
		}
	}
	return nil, errors.New("PrivateKey is no EC key: the embedded mesh has no others")
}
