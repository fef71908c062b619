// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"crypto/tls"
	"net/netip"
	"strconv"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// texts are the commands without arguments that yield text; nil for others.
func texts(name string) ask {
	switch name {
	case "PROTOCOL":
		return text(func(r *flow.Record) string { return r.Protocol })
	case "ROUTE_NAME":
		return route
	case "RESPONSE_FLAGS":
		return flags(false)
	case "RESPONSE_FLAGS_LONG":
		return flags(true)
	case "RESPONSE_CODE_DETAILS":
		return details
	case "CONNECTION_TERMINATION_DETAILS":
		return termination
	case "UPSTREAM_TRANSPORT_FAILURE_REASON":
		return transportFailure(true)
	case "DOWNSTREAM_TRANSPORT_FAILURE_REASON":
		return transportFailure(false)
	case "ACCESS_LOG_TYPE":
		return text(func(r *flow.Record) string {
			if r.Kind == flow.Request {
				return "DownstreamEnd"
			}
			return "TcpConnectionEnd"
		})
	case "TRACE_ID":
		return text(func(r *flow.Record) string { return r.TraceID })
	case "UPSTREAM_CLUSTER", "UPSTREAM_CLUSTER_RAW":
		return text(cluster)
	}
	if a := tlsTexts(name); a != nil {
		return a
	}
	return addresses(name)
}

// text appends what is not empty.
func text(of func(r *flow.Record) string) ask {
	return func(dst []byte, r *flow.Record) ([]byte, bool) {
		s := of(r)
		return append(dst, s...), s != ""
	}
}

// route appends which route of the service-router decided.
func route(dst []byte, r *flow.Record) ([]byte, bool) {
	if r.Rule <= 0 {
		return dst, false
	}
	return strconv.AppendInt(append(dst, "route "...), int64(r.Rule), 10), true
}

// cluster is the name of whom it goes to: Envoy's where Consul gives one that
// says something, else the target.
func cluster(r *flow.Record) string {
	switch {
	case r.Direction == flow.Inbound:
		return "local_app"
	case r.Direction == flow.Exposed:
		return "exposed_path"
	case r.Direction == flow.Passed:
		return "original-destination"
	case r.Target != "":
		return string(r.Target)
	case r.Reason == connect.NoRoute:
		return ""
	}
	return string(r.Upstream)
}

func tlsTexts(name string) ask {
	of := func(state func(s *tls.ConnectionState) string) ask {
		return text(func(r *flow.Record) string {
			if r.TLS == nil {
				return ""
			}
			return state(r.TLS)
		})
	}
	switch name {
	case "REQUESTED_SERVER_NAME":
		return of(func(s *tls.ConnectionState) string { return s.ServerName })
	case "DOWNSTREAM_TLS_VERSION":
		return of(func(s *tls.ConnectionState) string {
			switch s.Version {
			case tls.VersionTLS13:
				return "TLSv1.3"
			case tls.VersionTLS12:
				return "TLSv1.2"
			}
			return ""
		})
	case "DOWNSTREAM_TLS_CIPHER":
		return of(func(s *tls.ConnectionState) string {
			if s.CipherSuite == 0 {
				return ""
			}
			return tls.CipherSuiteName(s.CipherSuite)
		})
	case "DOWNSTREAM_PEER_URI_SAN":
		return text(func(r *flow.Record) string {
			if r.Direction != flow.Inbound || r.Source.Service == "" {
				return ""
			}
			return r.Source.String()
		})
	}
	return nil
}

func addresses(name string) ask {
	of := func(which func(r *flow.Record) netip.AddrPort, port bool) ask {
		return func(dst []byte, r *flow.Record) ([]byte, bool) {
			a := which(r)
			switch {
			case !a.IsValid():
				return dst, false
			case port:
				return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(dst), true
			}
			return a.Addr().Unmap().AppendTo(dst), true
		}
	}
	downstream := func(r *flow.Record) netip.AddrPort { return r.Downstream }
	local := func(r *flow.Record) netip.AddrPort { return r.DownstreamLocal }
	upstreamLocal := func(r *flow.Record) netip.AddrPort { return r.UpstreamLocal }
	switch name {
	case "DOWNSTREAM_REMOTE_ADDRESS", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS":
		return of(downstream, true)
	case "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT":
		return of(downstream, false)
	case "DOWNSTREAM_LOCAL_ADDRESS", "DOWNSTREAM_DIRECT_LOCAL_ADDRESS":
		return of(local, true)
	case "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT":
		return of(local, false)
	case "UPSTREAM_LOCAL_ADDRESS":
		return of(upstreamLocal, true)
	case "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":
		return of(upstreamLocal, false)
	case "UPSTREAM_HOST", "UPSTREAM_REMOTE_ADDRESS", "UPSTREAM_HOST_NAME":
		return text(func(r *flow.Record) string { return r.Endpoint })
	case "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "UPSTREAM_HOST_NAME_WITHOUT_PORT":
		return text(func(r *flow.Record) string {
			host, _ := splitEndpoint(r.Endpoint)
			return host
		})
	}
	return nil
}

// splitEndpoint parts host and port; that of a unix socket has no port.
func splitEndpoint(endpoint string) (host, port string) {
	if strings.HasPrefix(endpoint, "/") {
		return endpoint, ""
	}
	host, port = cutLast(endpoint, ':')
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), port
}

// cutLast cuts at the last separator; without one all is before it.
func cutLast(s string, separator byte) (before, after string) {
	i := strings.LastIndexByte(s, separator)
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i+1:]
}
