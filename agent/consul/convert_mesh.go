// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"crypto/tls"
	"encoding/json"
	"fmt"

	"github.com/outrider-mesh/outrider/connect"
)

type wireMesh struct {
	Kind string
	TLS  *struct{ Incoming, Outgoing *wireTLS }

	TransparentProxy struct{ MeshDestinationsOnly bool }
	HTTP             *struct {
		SanitizeXForwardedClientCert bool
		Incoming                     *struct {
			RequestNormalization json.RawMessage // a wireNormalization, read strictly
		}
	}
}

type wireNormalization struct {
	InsecureDisablePathNormalization bool
	MergeSlashes                     bool
	PathWithEscapedSlashesAction     string
	HeadersWithUnderscoresAction     string
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
	mesh := connect.Mesh{DestinationsOnly: w.TransparentProxy.MeshDestinationsOnly}
	var err error
	if w.TLS != nil {
		if mesh.Incoming, err = convertTLS(w.TLS.Incoming); err != nil {
			return connect.Mesh{}, fmt.Errorf("mesh config entry, TLS.Incoming: %w", err)
		}
		if mesh.Outgoing, err = convertTLS(w.TLS.Outgoing); err != nil {
			return connect.Mesh{}, fmt.Errorf("mesh config entry, TLS.Outgoing: %w", err)
		}
	}
	if w.HTTP != nil {
		mesh.SanitizeXFCC = w.HTTP.SanitizeXForwardedClientCert
		if w.HTTP.Incoming != nil {
			if mesh.Normalization, err = convertNormalization(w.HTTP.Incoming.RequestNormalization); err != nil {
				return connect.Mesh{}, fmt.Errorf("mesh config entry, HTTP.Incoming.RequestNormalization: %w", err)
			}
		}
	}
	return mesh, nil
}

// convertNormalization reads how requests are brought into one form before they
// are authorised. A step that is not understood refuses the entry: rules would
// be asked about another path than the application sees.
func convertNormalization(text []byte) (connect.Normalization, error) {
	var w wireNormalization
	if err := decodeStrictly(text, &w); err != nil {
		return connect.Normalization{}, err
	}
	n := connect.Normalization{KeepPath: w.InsecureDisablePathNormalization, MergeSlashes: w.MergeSlashes}
	switch action := connect.SlashAction(w.PathWithEscapedSlashesAction); action {
	case "", "IMPLEMENTATION_SPECIFIC_DEFAULT":
	case connect.SlashKeep, connect.SlashReject, connect.SlashRedirect, connect.SlashForward:
		n.EscapedSlashes = action
	default:
		return n, fmt.Errorf("PathWithEscapedSlashesAction %.40q is not known", w.PathWithEscapedSlashesAction)
	}
	switch action := connect.UnderscoreAction(w.HeadersWithUnderscoresAction); action {
	case "":
	case connect.UnderscoreAllow, connect.UnderscoreReject, connect.UnderscoreDrop:
		n.Underscores = action
	default:
		return n, fmt.Errorf("HeadersWithUnderscoresAction %.40q is not known", w.HeadersWithUnderscoresAction)
	}
	return n, nil
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
