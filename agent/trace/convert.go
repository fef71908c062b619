// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/outrider-mesh/outrider/connect/flow"
)

// scopeName says who has made a span.
const scopeName = "github.com/outrider-mesh/outrider"

// A resource is what all spans of one process have in common.
type resource struct {
	service    string // instead of the name of the local service; "" for none
	attributes []pair
	version    string
	host       string
}

// A pair is one attribute of a resource, or one header.
type pair struct{ key, value string }

// data makes one message of requests: those of one sidecar share a resource.
func (s *resource) data(items []*item) *tracepb.TracesData {
	slices.SortStableFunc(items, func(a, b *item) int {
		return cmp.Or(cmp.Compare(a.record.Service, b.record.Service), cmp.Compare(a.record.ProxyID, b.record.ProxyID))
	})
	data := &tracepb.TracesData{}
	var last *item
	for _, it := range items {
		if last == nil || last.record.Service != it.record.Service || last.record.ProxyID != it.record.ProxyID {
			last = it
			data.ResourceSpans = append(data.ResourceSpans, &tracepb.ResourceSpans{
				SchemaUrl: semconv.SchemaURL,
				Resource:  s.of(&it.record),
				ScopeSpans: []*tracepb.ScopeSpans{{
					SchemaUrl: semconv.SchemaURL,
					Scope:     &commonpb.InstrumentationScope{Name: scopeName, Version: s.version},
				}},
			})
		}
		scope := data.ResourceSpans[len(data.ResourceSpans)-1].ScopeSpans[0]
		scope.Spans = it.appendTo(scope.Spans)
	}
	return data
}

// of is the resource of one sidecar. What the environment says is kept, but for
// what tells sidecars of a host apart.
func (s *resource) of(r *flow.Record) *resourcepb.Resource {
	var a attributes
	a.text(semconv.ServiceNameKey, cmp.Or(s.service, r.Service, "unknown_service:outrider"))
	a.text(semconv.ServiceInstanceIDKey, r.ProxyID)
	a.text(semconv.HostNameKey, s.host)
	a.text(semconv.TelemetrySDKNameKey, "outrider")
	a.text(semconv.TelemetrySDKLanguageKey, "go")
	a.text(semconv.TelemetrySDKVersionKey, s.version)
	for _, p := range s.attributes {
		if i := slices.IndexFunc(a, func(kv *commonpb.KeyValue) bool { return kv.GetKey() == p.key }); i >= 0 {
			if p.key == string(semconv.ServiceInstanceIDKey) {
				continue
			}
			a = slices.Delete(a, i, i+1)
		}
		a.text(attribute.Key(p.key), p.value)
	}
	return &resourcepb.Resource{Attributes: a}
}

// appendTo adds the span of a request and those of its tries.
func (it *item) appendTo(spans []*tracepb.Span) []*tracepb.Span {
	r := &it.record
	out := &tracepb.Span{
		TraceId: it.trace[:], SpanId: it.id[:], TraceState: it.state, Flags: it.flagBits(true),
		Kind: tracepb.Span_SPAN_KIND_SERVER, Name: methodName(r.Method),
		StartTimeUnixNano: nano(r.Start), EndTimeUnixNano: nano(r.Start.Add(r.Duration)),
	}
	if it.parent != (spanID{}) {
		out.ParentSpanId = it.parent[:]
	}
	if r.Direction == flow.Outbound {
		// Not SERVER: the application calls, and is not called.
		out.Kind = tracepb.Span_SPAN_KIND_INTERNAL
		if r.Upstream != "" {
			out.Name += " " + valid(string(r.Upstream))
		}
	}
	out.Attributes, out.Status = it.attributes(), it.status()
	spans = append(spans, out)
	for i := range it.tries {
		spans = append(spans, it.trySpan(i))
	}
	return spans
}

// flagBits are the flags of a span as OTLP has them: bit 8 says that bit 9 is
// meant, and that one whether the parent is another process.
func (it *item) flagBits(remote bool) uint32 {
	flags := uint32(it.flags) | uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)
	if remote && it.parent != (spanID{}) {
		flags |= uint32(tracepb.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	return flags
}

func (it *item) attributes() attributes {
	r := &it.record
	a := make(attributes, 0, 24)
	a.method(r.Method)
	a.text(semconv.URLPathKey, r.Path)
	a.text(semconv.URLSchemeKey, it.scheme())
	a.hostPort(semconv.ServerAddressKey, semconv.ServerPortKey, r.Authority)
	a.positive(semconv.HTTPResponseStatusCodeKey, r.Status)
	a.protocol(r.Protocol)
	a.addrPort(semconv.NetworkPeerAddressKey, semconv.NetworkPeerPortKey, r.Downstream)
	a.grpc(r.GRPC, r.GRPCStatus)
	a.text(semconv.ErrorTypeKey, it.errorType())
	a.text(keyDirection, r.Direction.String())
	a.text(keyReason, string(r.Reason))
	if r.Remote {
		a.boolean(keyRemote, true)
	}
	if r.Judged {
		a.boolean(keyAllowed, r.Allowed)
		a.text(keyIntention, r.Intention)
		a.positive(keyPrecedence, r.Precedence)
		a.positive(keyPermission, r.Permission)
	}
	a.identity(keySource, keySourcePeer, r.Source)
	a.text(keyGateway, r.Gateway)
	a.text(keyUpstream, string(r.Upstream))
	a.text(keyTarget, string(r.Target))
	a.text(keyNode, r.Node)
	a.positive(keyRule, r.Rule)
	a.text(keyEndpoint, r.Endpoint)
	a.positive(keyRetries, r.Retries)
	a.number(keySnapshot, int64(r.Snapshot)) //nolint:gosec // counts publications
	return a
}

func (it *item) scheme() string {
	if it.tls {
		return "https"
	}
	return "http"
}

// grpc adds what is known of an RPC. Its method is in the path.
func (a *attributes) grpc(is bool, status string) {
	if !is {
		return
	}
	a.text(semconv.RPCSystemNameKey, "grpc")
	a.text(semconv.RPCResponseStatusCodeKey, status)
}

// errorType is the reason, or the status that the application failed with.
func (it *item) errorType() string {
	r := &it.record
	switch {
	case r.Gone:
		return ""
	case r.Reason != "":
		return string(r.Reason)
	case r.Status >= 500:
		return strconv.Itoa(r.Status)
	}
	return ""
}

// status is an error when somebody was not served. That the caller left is none.
func (it *item) status() *tracepb.Status {
	if it.errorType() == "" {
		return nil
	}
	why := it.record.Why
	if why == "" {
		why = string(it.record.Reason)
	}
	return &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: valid(why)}
}

func (it *item) trySpan(i int) *tracepb.Span {
	r, at := &it.record, &it.tries[i]
	t := &at.try
	out := &tracepb.Span{
		TraceId: it.trace[:], SpanId: at.id[:], ParentSpanId: it.id[:], TraceState: it.state, Flags: it.flagBits(false),
		Kind: tracepb.Span_SPAN_KIND_CLIENT, Name: methodName(r.Method),
		StartTimeUnixNano: nano(r.Start.Add(t.Start)), EndTimeUnixNano: nano(r.Start.Add(t.Start + t.Took)),
	}
	a := make(attributes, 0, 14)
	a.method(r.Method)
	a.text(semconv.URLFullKey, "http://"+r.Authority+r.Path)
	a.hostPort(semconv.ServerAddressKey, semconv.ServerPortKey, t.Endpoint)
	a.positive(semconv.HTTPRequestResendCountKey, i)
	a.positive(semconv.HTTPResponseStatusCodeKey, t.Status)
	a.text(keyDirection, r.Direction.String())
	a.text(keyTarget, string(t.Target))
	a.text(keyEndpoint, t.Endpoint)
	a.text(keyReason, string(t.Reason))
	a.text(keyError, t.Error)
	a.identity(keyDestination, keyDestPeer, t.Peer)
	failed := string(t.Reason)
	if failed == "" && t.Status >= 400 {
		failed = strconv.Itoa(t.Status)
	}
	a.text(semconv.ErrorTypeKey, failed)
	if failed != "" {
		out.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: valid(cmp.Or(t.Error, string(t.Reason)))}
	}
	out.Attributes = a
	return out
}

// nano is a time as OTLP has it.
func nano(t time.Time) uint64 {
	return uint64(max(0, t.UnixNano()))
}
