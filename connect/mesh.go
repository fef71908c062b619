// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

// Mesh is what the mesh config entry asks of every proxy (Consul, mesh config
// entry: TLS).
type Mesh struct {
	Incoming TLSLimits // of inbound listeners
	Outgoing TLSLimits // of connections to upstreams
}

// TLSLimits bound the TLS of one direction. Zero versions mean the default:
// at least 1.2, no maximum.
type TLSLimits struct {
	MinVersion   uint16   // a crypto/tls version number
	MaxVersion   uint16   // a crypto/tls version number
	CipherSuites []uint16 // crypto/tls numbers; nil means Go's choice; only for TLS 1.2 and below
}
