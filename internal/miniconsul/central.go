// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"encoding/json"
	"maps"
)

// merged returns the proxy block of a sidecar with the defaults of the mesh:
// what is registered wins over the service-defaults of its service, which win
// over proxy-defaults (Consul, precedence of configuration entries). nil stays
// nil. The entries of upstreams are config only; there are no synthetic ones.
func (st *state) merged(registered *proxy) *proxy {
	if registered == nil {
		return nil
	}
	p := *registered
	global, own := st.entries.global(), st.entries.defaults(p.DestinationServiceName)
	p.Config = merge(global.Config, own.config(), p.Config)
	p.Mode = first(p.Mode, own.Mode, global.Mode)
	p.TransparentProxy = mergeTransparent(p.TransparentProxy, own.TransparentProxy, global.TransparentProxy)
	if p.Expose.isZero() {
		p.Expose = own.Expose
	}
	if p.Expose.isZero() {
		p.Expose = global.Expose
	}
	p.AccessLogs = mergeAccessLogs(p.AccessLogs, global.AccessLogs)
	central := first(own.MeshGateway.Mode, global.MeshGateway.Mode)
	p.Upstreams = make([]upstream, len(registered.Upstreams))
	for i, u := range registered.Upstreams {
		p.Upstreams[i] = st.mergedUpstream(u, own.UpstreamConfig, registered.MeshGateway.Mode, central)
	}
	p.MeshGateway.Mode = first(registered.MeshGateway.Mode, central)
	return &p
}

// mergeAccessLogs merges field by field; nil when there is nothing.
func mergeAccessLogs(own *accessLogs, global accessLogs) *accessLogs {
	var out accessLogs
	if own != nil {
		out = *own
	}
	out.Enabled = out.Enabled || global.Enabled
	out.DisableListenerLogs = out.DisableListenerLogs || global.DisableListenerLogs
	out.Type, out.Path = first(out.Type, global.Type), first(out.Path, global.Path)
	out.JSONFormat, out.TextFormat = first(out.JSONFormat, global.JSONFormat), first(out.TextFormat, global.TextFormat)
	if out == (accessLogs{}) {
		return nil
	}
	return &out
}

func (st *state) mergedUpstream(u upstream, central *upstreamConfig, registered, mesh string) upstream {
	if u.DestinationType != "service" || u.DestinationPeer != "" {
		return u
	}
	var defaults, override upstreamSettings
	if central != nil {
		if central.Defaults != nil {
			defaults = *central.Defaults
		}
		for _, o := range central.Overrides {
			if o.Name == u.DestinationName {
				override = o
			}
		}
	}
	base := map[string]any{}
	if protocol := first(st.entries.defaults(u.DestinationName).Protocol, st.entries.global().protocol()); protocol != "" {
		base["protocol"] = protocol
	}
	u.Config = merge(base, defaults.config(), override.config(), u.Config)
	u.MeshGateway.Mode = first(u.MeshGateway.Mode, override.MeshGateway.Mode, registered, defaults.MeshGateway.Mode, mesh)
	return u
}

// config is what service-defaults put into the opaque config of the proxy.
func (e *serviceDefaults) config() map[string]any {
	config := map[string]any{}
	put(config, "protocol", e.Protocol)
	put(config, "max_inbound_connections", e.MaxInboundConnections)
	put(config, "local_connect_timeout_ms", e.LocalConnectTimeoutMs)
	put(config, "local_request_timeout_ms", e.LocalRequestTimeoutMs)
	put(config, "balance_inbound_connections", e.BalanceInboundConnections)
	put(config, "max_request_headers_kb", e.MaxRequestHeadersKB)
	return config
}

// config is what upstream_config puts into the opaque config of an upstream.
func (u upstreamSettings) config() map[string]any {
	config := map[string]any{}
	put(config, "protocol", u.Protocol)
	put(config, "connect_timeout_ms", u.ConnectTimeoutMs)
	put(config, "balance_outbound_connections", u.BalanceOutboundConnections)
	put(config, "limits", object(u.Limits))
	put(config, "passive_health_check", object(u.PassiveHealthCheck))
	return config
}

// put sets what is not empty.
func put(config map[string]any, key string, value any) {
	switch v := value.(type) {
	case string:
		if v != "" {
			config[key] = v
		}
	case int:
		if v != 0 {
			config[key] = v
		}
	case map[string]any:
		if len(v) > 0 {
			config[key] = v
		}
	}
}

// object is a struct as JSON shows it; nil is empty.
func object(v any) map[string]any {
	body, err := json.Marshal(v)
	if err != nil {
		return nil // what was read from JSON can be written
	}
	var out map[string]any
	if json.Unmarshal(body, &out) != nil {
		return nil
	}
	return out
}

// merge lays maps over each other, key by key, the last one on top. An empty
// result is nil.
func merge(layers ...map[string]any) map[string]any {
	out := make(map[string]any)
	for _, layer := range layers {
		maps.Copy(out, layer)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func mergeTransparent(layers ...*transparentProxy) *transparentProxy {
	var out transparentProxy
	for _, t := range layers {
		if t == nil {
			continue
		}
		if out.OutboundListenerPort == 0 {
			out.OutboundListenerPort = t.OutboundListenerPort
		}
		out.DialedDirectly = out.DialedDirectly || t.DialedDirectly
	}
	if out == (transparentProxy{}) {
		return nil
	}
	return &out
}

func (e expose) isZero() bool { return !e.Checks && len(e.Paths) == 0 }

// first returns the first that is not empty.
func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}
