// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

// Mesh is what the mesh config entry asks of every proxy (Consul, mesh config
// entry: TLS and HTTP).
type Mesh struct {
	Incoming TLSLimits // of inbound listeners
	Outgoing TLSLimits // of connections to upstreams

	Normalization Normalization // of requests on inbound listeners
	SanitizeXFCC  bool          // x-forwarded-client-cert never reaches the application

	// DestinationsOnly forbids proxies in transparent mode to pass on connections
	// to anything outside the mesh (mesh_destinations_only).
	DestinationsOnly bool
}

// Normalization says what is done to a request before it is authorised and
// routed on (Consul, mesh config entry: http.incoming.request_normalization).
// The zero value is Consul's default: the path is normalised, nothing else.
type Normalization struct {
	KeepPath       bool // insecure_disable_path_normalization
	MergeSlashes   bool
	EscapedSlashes SlashAction
	Underscores    UnderscoreAction
}

// A SlashAction is what happens to a path with an escaped slash or backslash.
type SlashAction string

// Every SlashAction, in Consul's words. The zero value and any other word count
// as SlashKeep, which is also what Envoy's "implementation specific default" is.
const (
	SlashKeep     SlashAction = "KEEP_UNCHANGED"
	SlashReject   SlashAction = "REJECT_REQUEST"
	SlashRedirect SlashAction = "UNESCAPE_AND_REDIRECT"
	SlashForward  SlashAction = "UNESCAPE_AND_FORWARD"
)

// An UnderscoreAction is what happens to header fields with an underscore in
// their name.
type UnderscoreAction string

// Every UnderscoreAction, in Consul's words. The zero value counts as allow.
const (
	UnderscoreAllow  UnderscoreAction = "ALLOW"
	UnderscoreReject UnderscoreAction = "REJECT_REQUEST"
	UnderscoreDrop   UnderscoreAction = "DROP_HEADER"
)

// TLSLimits bound the TLS of one direction. Zero versions mean the default:
// at least 1.2, no maximum.
type TLSLimits struct {
	MinVersion   uint16   // a crypto/tls version number
	MaxVersion   uint16   // a crypto/tls version number
	CipherSuites []uint16 // crypto/tls numbers; nil means Go's choice; only for TLS 1.2 and below
}
