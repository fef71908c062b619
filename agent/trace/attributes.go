// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"

	"github.com/outrider-mesh/outrider/connect"
)

// Attributes of our own. The others are OpenTelemetry's semantic conventions for
// HTTP.
const (
	keyDirection   attribute.Key = "outrider.direction"
	keyReason      attribute.Key = "outrider.reason"
	keyRemote      attribute.Key = "outrider.reason.remote"
	keyIntention   attribute.Key = "outrider.intention"
	keyPrecedence  attribute.Key = "outrider.intention.precedence"
	keyPermission  attribute.Key = "outrider.intention.permission"
	keyAllowed     attribute.Key = "outrider.intention.allowed"
	keySource      attribute.Key = "outrider.source"
	keySourcePeer  attribute.Key = "outrider.source.peer"
	keyDestination attribute.Key = "outrider.destination"
	keyDestPeer    attribute.Key = "outrider.destination.peer"
	keyGateway     attribute.Key = "outrider.gateway"
	keyUpstream    attribute.Key = "outrider.upstream"
	keyTarget      attribute.Key = "outrider.target"
	keyNode        attribute.Key = "outrider.node"
	keyRule        attribute.Key = "outrider.route.rule"
	keyEndpoint    attribute.Key = "outrider.endpoint"
	keySnapshot    attribute.Key = "outrider.snapshot"
	keyRetries     attribute.Key = "outrider.retries"
	keyError       attribute.Key = "outrider.error"
)

// attributes grow by what is known.
type attributes []*commonpb.KeyValue

func (a *attributes) text(key attribute.Key, value string) {
	if value != "" {
		*a = append(*a, &commonpb.KeyValue{Key: string(key), Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: valid(value)}}})
	}
}

// valid makes a text UTF-8. Otherwise one request could spoil the message that
// it is sent in with others.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func (a *attributes) number(key attribute.Key, value int64) {
	*a = append(*a, &commonpb.KeyValue{Key: string(key), Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: value}}})
}

// positive adds a number unless it is zero, which means that there is none.
func (a *attributes) positive(key attribute.Key, value int) {
	if value != 0 {
		a.number(key, int64(value))
	}
}

func (a *attributes) boolean(key attribute.Key, value bool) {
	*a = append(*a, &commonpb.KeyValue{Key: string(key), Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: value}}})
}

// identity adds a SPIFFE ID, and the peer whose roots have proved it.
func (a *attributes) identity(key, peer attribute.Key, id connect.Identity) {
	if id.Service == "" {
		return
	}
	a.text(key, id.String())
	a.text(peer, id.Peer)
}

// hostPort adds an address in two attributes; a path, or a host without a port,
// in the first.
func (a *attributes) hostPort(host, port attribute.Key, address string) {
	name, number, err := net.SplitHostPort(address)
	if err != nil {
		a.text(host, address)
		return
	}
	a.text(host, name)
	if n, err := strconv.ParseUint(number, 10, 16); err == nil {
		a.positive(port, int(n))
	}
}

func (a *attributes) addrPort(host, port attribute.Key, address netip.AddrPort) {
	if address.IsValid() {
		a.text(host, address.Addr().Unmap().String())
		a.positive(port, int(address.Port()))
	}
}

// method adds a request's method. Those that the conventions do not know would
// give a caller as many values as it likes.
func (a *attributes) method(method string) {
	known := knownMethod(method)
	a.text(semconv.HTTPRequestMethodKey, known)
	if known != method {
		a.text(semconv.HTTPRequestMethodOriginalKey, method)
	}
}

func knownMethod(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY":
		return method
	}
	return "_OTHER"
}

// methodName is the first word of a span's name.
func methodName(method string) string {
	if known := knownMethod(method); known != "_OTHER" {
		return known
	}
	return "HTTP"
}

// protocol adds what a record calls HTTP/1.1 or HTTP/2.
func (a *attributes) protocol(p string) {
	if version, ok := strings.CutPrefix(p, "HTTP/"); ok {
		a.text(semconv.NetworkProtocolNameKey, "http")
		a.text(semconv.NetworkProtocolVersionKey, version)
	}
}
