// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import "strings"

// A Default is what an absent name means.
type Default struct {
	Path    string // names from the top, joined by dots
	Value   string // as it would be written; "" when it depends on other values
	Meaning string // one phrase for people
}

// Defaults returns every default of the configuration, in the order of the
// documentation. Decoding reads this table and nothing else, so what it says is
// what happens. The slice belongs to the caller.
func Defaults() []Default {
	const (
		service  = "service."
		sidecar  = service + "connect.sidecar_service."
		proxy    = sidecar + "proxy."
		upstream = proxy + "upstreams."
	)
	return []Default{
		{"log.level", "info", "one of trace, debug, info, warn, error"},
		{"log.format", "text", "text for people, json for machines"},
		{"consul.address", "127.0.0.1:8500", "the Consul agent of this host"},
		{"consul.datacenter", "", "the datacenter of the Consul agent"},
		{"consul.default_intention_policy", "", "what Consul says, and deny when it cannot tell"},
		{"vault.auth.mount", "", "the name of the method: approle, jwt, cert, aws, gcp, azure"},
		{"vault.auth.region", "", "none: AWS's global endpoint, as Vault's own default"},
		{"vault.auth.service_account", "", "the default service account of the machine"},
		{"vault.auth.resource", "", "https://management.azure.com/, as in Vault's documentation"},
		{"vault.pki.mount", "pki", "the path where Vault's PKI engine is mounted"},
		{"vault.pki.ttl", "24h", "the lifetime that is requested for a leaf"},
		{"admin.address", "unix:///run/outrider/admin.sock", "where status and explain reach the agent"},
		{"telemetry.otlp_protocol", "http/protobuf", "what OpenTelemetry prefers; grpc is the other"},
		{"telemetry.sample_ratio", "", "every request, unless OTEL_TRACES_SAMPLER says otherwise"},
		{"drain.propagation", "2s", "from failing health to no longer accepting, so that peers learn of it"},
		{"limits.memory_mb", "", "a part of what the system gives the process, see memory"},
		{"limits.inbound_connections", "", "20000 for each service, as Consul documents for its proxies"},
		{"limits.outbound_connections", "", "1024 for each upstream, as Consul documents for its proxies"},
		{"drain.timeout", "30s", "how long open connections may take to end"},
		{service + "id", "", "the name of the service"},
		{service + "address", "", "the address of Consul's node"},
		{service + "weights.passing", "1", "as in Consul"},
		{service + "weights.warning", "1", "as in Consul"},
		{sidecar + "name", "", "the name of the service and -sidecar-proxy"},
		{sidecar + "address", "", "the address of the service"},
		{sidecar + "port", "", "a free port from 21000 to 21255"},
		{sidecar + "weights.passing", "1", "as in Consul"},
		{sidecar + "weights.warning", "1", "as in Consul"},
		{proxy + "local_service_address", "127.0.0.1", "where the application listens"},
		{proxy + "local_service_port", "", "the port of the service"},
		{proxy + "local_service_socket_path", "", "the socket_path of the service"},
		{proxy + "expose.paths.protocol", "http", "http or http2"},
		{upstream + "destination_type", "service", "service or prepared_query"},
		{upstream + "local_bind_address", "127.0.0.1", "unless local_bind_socket_path is set"},
		{upstream + "datacenter", "", "the datacenter of the service"},
		{upstream + "local_bind_socket_mode", "", "left to the umask"},
	}
}

// defaultValues is the table by path, without what depends on other values.
func defaultValues() map[string]string {
	values := map[string]string{}
	for _, d := range Defaults() {
		if d.Value != "" {
			values[d.Path] = d.Value
		}
	}
	return values
}

// tablePath is the path in the table of a place in a configuration: without the
// numbers of repeated blocks.
func tablePath(path string) string {
	var b strings.Builder
	inside := false
	for _, r := range path {
		switch {
		case r == '[':
			inside = true
		case r == ']':
			inside = false
		case !inside:
			b.WriteRune(r)
		}
	}
	return b.String()
}
