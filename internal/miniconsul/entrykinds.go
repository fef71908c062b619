// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// proxyDefaults are the settings of all sidecars (Consul, proxy defaults).
type proxyDefaults struct {
	head
	Config           map[string]any    `json:",omitempty"`
	Mode             string            `json:",omitempty"`
	TransparentProxy *transparentProxy `json:",omitempty"`
	MutualTLSMode    string            `json:",omitempty"`
	MeshGateway      meshGateway
	Expose           expose
	AccessLogs       accessLogs
}

func (e *proxyDefaults) complete() {}

func (e *proxyDefaults) validate() error {
	if e.Name != "global" {
		return fmt.Errorf("invalid name (%q), only %q is supported", e.Name, "global")
	}
	if err := e.AccessLogs.validate(); err != nil {
		return err
	}
	return checkModes(e.Mode, e.MutualTLSMode, e.MeshGateway.Mode)
}

func (a accessLogs) validate() error {
	switch {
	case !slices.Contains([]string{"", "stdout", "stderr", "file"}, a.Type):
		return fmt.Errorf("invalid access log type: %s", a.Type)
	case a.JSONFormat != "" && a.TextFormat != "":
		return errors.New("cannot specify both access log JSONFormat and TextFormat")
	case a.Type != "file" && a.Path != "":
		return errors.New("path is only valid for file type access logs")
	case a.Type == "file" && a.Path == "":
		return errors.New("path must be specified when using file type access logs")
	}
	return nil
}

// protocol is the one that services without their own have, "" for none.
func (e *proxyDefaults) protocol() string {
	protocol, _ := e.Config["protocol"].(string)
	return protocol
}

// serviceDefaults are the settings of one service (Consul, service defaults).
type serviceDefaults struct {
	head
	Protocol                  string            `json:",omitempty"`
	Mode                      string            `json:",omitempty"`
	TransparentProxy          *transparentProxy `json:",omitempty"`
	MutualTLSMode             string            `json:",omitempty"`
	MeshGateway               meshGateway
	Expose                    expose
	ExternalSNI               string          `json:",omitempty"`
	UpstreamConfig            *upstreamConfig `json:",omitempty"`
	MaxInboundConnections     int             `json:",omitempty"`
	LocalConnectTimeoutMs     int             `json:",omitempty"`
	LocalRequestTimeoutMs     int             `json:",omitempty"`
	BalanceInboundConnections string          `json:",omitempty"`
	MaxRequestHeadersKB       int             `json:",omitempty"`
	RateLimits                map[string]any  `json:",omitempty"` // refused, as by Consul's Community Edition
}

type upstreamConfig struct {
	Overrides []upstreamSettings `json:",omitempty"`
	Defaults  *upstreamSettings  `json:",omitempty"`
}

type upstreamSettings struct {
	Name                       string `json:",omitempty"`
	Peer                       string
	Protocol                   string          `json:",omitempty"`
	ConnectTimeoutMs           int             `json:",omitempty"`
	Limits                     *upstreamLimits `json:",omitempty"`
	PassiveHealthCheck         *passiveHealth  `json:",omitempty"`
	MeshGateway                meshGateway
	BalanceOutboundConnections string `json:",omitempty"`
}

type upstreamLimits struct {
	MaxConnections        *int `json:",omitempty"`
	MaxPendingRequests    *int `json:",omitempty"`
	MaxConcurrentRequests *int `json:",omitempty"`
}

type passiveHealth struct {
	Interval                span   `json:",omitempty"`
	MaxFailures             uint32 `json:",omitempty"`
	EnforcingConsecutive5xx *int   `json:",omitempty"`
	MaxEjectionPercent      *int   `json:",omitempty"`
	BaseEjectionTime        *span  `json:",omitempty"`
}

func (e *serviceDefaults) complete() {}

func (e *serviceDefaults) validate() error {
	if !slices.Contains([]string{"", "tcp", "http", "http2", "grpc"}, e.Protocol) {
		return refuse("1 error occurred:\n\t* invalid value for protocol: %s\n\n", e.Protocol)
	}
	if e.RateLimits != nil {
		return several([]string{"invalid rate_limits config. Rate limiting is a consul enterprise feature"})
	}
	if u := e.UpstreamConfig; u != nil {
		if u.Defaults != nil && u.Defaults.Name != "" {
			return fmt.Errorf("UpstreamConfig.Defaults: Name must be empty, it is %q", u.Defaults.Name)
		}
		for i, o := range u.Overrides {
			if o.Name == "" || o.Peer != "" {
				return fmt.Errorf("UpstreamConfig.Overrides[%d]: want a Name, and no Peer: the embedded mesh has no peers", i)
			}
		}
	}
	return checkModes(e.Mode, e.MutualTLSMode, e.MeshGateway.Mode)
}

func checkModes(proxy, mutualTLS, gateway string) error {
	switch {
	case !slices.Contains([]string{"", "direct", "transparent"}, proxy):
		return fmt.Errorf("invalid proxy mode %q", proxy)
	case !slices.Contains([]string{"", "strict"}, mutualTLS):
		return fmt.Errorf("invalid mutual TLS mode %q: the embedded mesh is strict", mutualTLS)
	case !slices.Contains([]string{"", "none", "local", "remote"}, gateway):
		return fmt.Errorf("invalid mesh gateway mode %q", gateway)
	}
	return nil
}

// mesh are the settings of the whole mesh (Consul, mesh config entry).
type mesh struct {
	head
	TransparentProxy                 meshTransparent
	AllowEnablingPermissiveMutualTLS bool         `json:",omitempty"`
	ValidateClusters                 bool         `json:",omitempty"`
	TLS                              *meshTLS     `json:",omitempty"`
	HTTP                             *meshHTTP    `json:",omitempty"`
	Peering                          *meshPeering `json:",omitempty"`
}

type meshTransparent struct{ MeshDestinationsOnly bool }

type meshTLS struct {
	Incoming *tlsLimits `json:",omitempty"`
	Outgoing *tlsLimits `json:",omitempty"`
}

type tlsLimits struct {
	TLSMinVersion string   `json:",omitempty"`
	TLSMaxVersion string   `json:",omitempty"`
	CipherSuites  []string `json:",omitempty"`
}

type meshHTTP struct {
	SanitizeXForwardedClientCert bool
	Incoming                     *meshHTTPIncoming `json:",omitempty"`
}

type meshHTTPIncoming struct {
	RequestNormalization *requestNormalization `json:",omitempty"`
}

type requestNormalization struct {
	InsecureDisablePathNormalization bool
	MergeSlashes                     bool
	PathWithEscapedSlashesAction     string
	HeadersWithUnderscoresAction     string
}

type meshPeering struct{ PeerThroughMeshGateways bool }

// complete drops the name: there is one mesh, and Consul shows none.
func (e *mesh) complete() { e.Name = "" }

func (e *mesh) validate() error {
	if e.HTTP != nil && e.HTTP.Incoming != nil && e.HTTP.Incoming.RequestNormalization != nil {
		if err := e.HTTP.Incoming.RequestNormalization.validate(); err != nil {
			return fmt.Errorf("error in HTTP incoming request normalization configuration: %w", err)
		}
	}
	if e.TLS == nil {
		return nil
	}
	if err := e.TLS.Incoming.validate(); err != nil {
		return fmt.Errorf("error in incoming TLS configuration: %w", err)
	}
	if err := e.TLS.Outgoing.validate(); err != nil {
		return fmt.Errorf("error in outgoing TLS configuration: %w", err)
	}
	return nil
}

func (n *requestNormalization) validate() error {
	for _, each := range []struct {
		field, value string
		words        []string
	}{
		{"PathWithEscapedSlashesAction", n.PathWithEscapedSlashesAction, []string{"IMPLEMENTATION_SPECIFIC_DEFAULT", "KEEP_UNCHANGED", "REJECT_REQUEST", "UNESCAPE_AND_REDIRECT", "UNESCAPE_AND_FORWARD"}},
		{"HeadersWithUnderscoresAction", n.HeadersWithUnderscoresAction, []string{"ALLOW", "REJECT_REQUEST", "DROP_HEADER"}},
	} {
		if each.value != "" && !slices.Contains(each.words, each.value) {
			return refuse("no matching %s value found for %s, please specify one of [%s]", each.field, each.value, strings.Join(each.words, ", "))
		}
	}
	return nil
}

func (l *tlsLimits) validate() error {
	if l == nil {
		return nil
	}
	versions := []string{"TLS_AUTO", "TLSv1_0", "TLSv1_1", "TLSv1_2", "TLSv1_3"}
	low, high := slices.Index(versions, l.TLSMinVersion), slices.Index(versions, l.TLSMaxVersion)
	for _, each := range []struct {
		name  string
		index int
	}{{l.TLSMinVersion, low}, {l.TLSMaxVersion, high}} {
		if each.name != "" && each.index < 0 {
			return fmt.Errorf("no matching TLS version found for %s, please specify one of [TLS_AUTO, TLSv1_0, TLSv1_1, TLSv1_2, TLSv1_3]", each.name)
		}
	}
	if low > 0 && high > 0 && high < low {
		return fmt.Errorf("configuring max version %s less than the configured min version %s", l.TLSMaxVersion, l.TLSMinVersion)
	}
	if len(l.CipherSuites) > 0 && low > 3 {
		return fmt.Errorf("configuring CipherSuites is only applicable to connections negotiated with TLS 1.2 or earlier, TLSMinVersion is set to %s", l.TLSMinVersion)
	}
	return nil
}
