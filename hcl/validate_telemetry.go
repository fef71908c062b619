// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"net/url"
	"slices"
	"strings"
)

func (v *validator) telemetry(t *Telemetry) {
	if t.PrometheusAddress != "" {
		v.hostPort("telemetry.prometheus_address", t.PrometheusAddress, "Write host:port, for instance 127.0.0.1:9102.")
	}
	v.oneOf("telemetry.otlp_protocol", t.OTLPProtocol, "http/protobuf", "grpc")
	if t.OTLPEndpoint != "" {
		v.collector(t)
		return
	}
	for _, name := range []string{"otlp_protocol", "otlp_headers_file", "otlp_ca_file"} {
		if v.given("telemetry." + name) {
			v.err("telemetry."+name, "No collector that this belongs to",
				`Write otlp_endpoint = "…" too. A collector that the environment names has its settings there as well: OTEL_EXPORTER_OTLP_….`)
		}
	}
}

// collector checks where traces go.
func (v *validator) collector(t *Telemetry) {
	const path, remedy = "telemetry.otlp_endpoint", "Write a URL: http://127.0.0.1:4318."
	if v.broken(path) {
		return
	}
	u, err := url.Parse(t.OTLPEndpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		v.err(path, "Not an address of the collector", remedy)
	case u.User != nil:
		v.err(path, "Address with a user name", "Remove the part before the @, and send an Authorization header: otlp_headers_file = \"…\".")
	case u.RawQuery != "" || u.Fragment != "":
		v.err(path, "Address with a query", "Write only scheme, host, port and path.")
	case u.Port() != "" && !validPort(u.Port()):
		v.err(path, "Port out of range", "A port is a number from 1 to 65535.")
	case t.OTLPProtocol == "grpc" && strings.Trim(u.Path, "/") != "":
		v.err(path, "Address with a path", "OTLP over gRPC has none. Remove what follows the port.")
	case t.OTLPProtocol == "http/protobuf" && u.Port() == "4317":
		v.warn(path, "Port of another protocol", `Collectors take OTLP over gRPC at port 4317, and over HTTP at 4318. Write otlp_protocol = "grpc", or the other port.`)
	case u.Scheme == "http" && t.OTLPCAFile != "":
		v.err("telemetry.otlp_ca_file", "CA certificate for an address without TLS", "Write https:// in otlp_endpoint, or remove the line.")
	case u.Scheme == "http" && t.OTLPHeadersFile != "" && !loopback(u.Hostname()):
		v.warn(path, "Unencrypted connection to the collector", "The headers of otlp_headers_file cross the network in clear text. Write https://, or use a collector on this host.")
	}
}

// keptTelemetry lists the files of the telemetry block.
func keptTelemetry(t *Telemetry) []kept {
	if t == nil {
		return nil
	}
	return slices.DeleteFunc([]kept{
		{"telemetry.otlp_headers_file", t.OTLPHeadersFile, "the file with the headers for the collector", true},
		{"telemetry.otlp_ca_file", t.OTLPCAFile, "the CA certificate", false},
	}, func(k kept) bool { return k.file == "" })
}
