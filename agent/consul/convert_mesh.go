// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"crypto/tls"
	"fmt"

	"github.com/outrider-mesh/outrider/connect"
)

type wireMesh struct {
	Kind string
	TLS  *struct{ Incoming, Outgoing *wireTLS }
}

type wireTLS struct {
	TLSMinVersion string
	TLSMaxVersion string
	CipherSuites  []string
}

// convertMesh reads the list of mesh config entries, of which there is one or
// none. A limit that is not understood refuses the entry: the operator asked
// for more safety than we could then give.
func convertMesh(list []wireMesh) (connect.Mesh, error) {
	if len(list) == 0 {
		return connect.Mesh{}, nil
	}
	if len(list) > 1 {
		return connect.Mesh{}, fmt.Errorf("there are %d mesh config entries, at most one can be right", len(list))
	}
	w := list[0]
	if w.Kind != "mesh" {
		return connect.Mesh{}, fmt.Errorf("the mesh config entry is of kind %q", w.Kind)
	}
	var mesh connect.Mesh
	if w.TLS == nil {
		return mesh, nil
	}
	var err error
	if mesh.Incoming, err = convertTLS(w.TLS.Incoming); err != nil {
		return connect.Mesh{}, fmt.Errorf("mesh config entry, TLS.Incoming: %w", err)
	}
	if mesh.Outgoing, err = convertTLS(w.TLS.Outgoing); err != nil {
		return connect.Mesh{}, fmt.Errorf("mesh config entry, TLS.Outgoing: %w", err)
	}
	return mesh, nil
}

func convertTLS(w *wireTLS) (connect.TLSLimits, error) {
	var limits connect.TLSLimits
	if w == nil {
		return limits, nil
	}
	var err error
	if limits.MinVersion, err = tlsVersion(w.TLSMinVersion); err != nil {
		return limits, fmt.Errorf("TLSMinVersion: %w", err)
	}
	if limits.MaxVersion, err = tlsVersion(w.TLSMaxVersion); err != nil {
		return limits, fmt.Errorf("TLSMaxVersion: %w", err)
	}
	if limits.MaxVersion != 0 && limits.MinVersion > limits.MaxVersion {
		return limits, fmt.Errorf("TLSMinVersion %s is above TLSMaxVersion %s", w.TLSMinVersion, w.TLSMaxVersion)
	}
	for _, name := range w.CipherSuites {
		id, err := cipherSuite(name)
		if err != nil {
			return limits, err
		}
		limits.CipherSuites = append(limits.CipherSuites, id)
	}
	return limits, nil
}

func tlsVersion(name string) (uint16, error) {
	switch name {
	case "", "TLS_AUTO":
		return 0, nil
	case "TLSv1_0":
		return tls.VersionTLS10, nil
	case "TLSv1_1":
		return tls.VersionTLS11, nil
	case "TLSv1_2":
		return tls.VersionTLS12, nil
	case "TLSv1_3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("%q is not a TLS version", name)
}

// cipherSuite knows the suites of Go, whose names are those of Consul; the
// legacy ones that Consul accepts are among Go's insecure ones.
func cipherSuite(name string) (uint16, error) {
	for _, suites := range [][]*tls.CipherSuite{tls.CipherSuites(), tls.InsecureCipherSuites()} {
		for _, s := range suites {
			if s.Name == name {
				return s.ID, nil
			}
		}
	}
	return 0, fmt.Errorf("cipher suite %q is not known", name)
}
