// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

func identity(service string) connect.Identity {
	return connect.Identity{TrustDomain: "11.consul", Partition: "default", Namespace: "default", Datacenter: "dc1", Service: service}
}

// follow makes the spans of one record, with its tries.
func follow(tr *Tracing, h connect.Header, r *flow.Record) {
	span := tr.Begin(r, h)
	for i := range r.Tries {
		span.Try(h)(&r.Tries[i])
	}
	span.End(r)
}

func TestSpansOfACallOutTellWhereItWentAndWhatWasTriedAgain(t *testing.T) {
	t.Parallel()
	tr := newTracing(always(t), quietLog(), &box{})
	follow(tr, connect.Header{"Authorization": {"Bearer secret"}}, &flow.Record{
		Kind: flow.Request, Direction: flow.Outbound, Service: "web", ProxyID: "web-sidecar-proxy", Snapshot: 7,
		Source: identity("web"), Upstream: "api", Target: "v2.api.default.default.dc1", Node: "resolver:api.default.default", Rule: 2,
		Endpoint: "10.0.0.2:21000", Downstream: netip.MustParseAddrPort("127.0.0.1:40000"),
		Method: "GET", Authority: "api.internal:9191", Path: "/users/1?token=secret", OriginalPath: "/v1/users/1?token=secret",
		Protocol: "HTTP/1.1", Status: 200, RequestHeader: connect.Header{"Authorization": {"Bearer secret"}}, Retries: 1,
		Start: time.Unix(100, 0), Duration: 3 * time.Second,
		Tries: []flow.Try{
			{Target: "v2.api.default.default.dc1", Endpoint: "10.0.0.1:21000", Took: time.Second, Reason: connect.ConnectFailed, Error: "connection refused"},
			{Target: "v2.api.default.default.dc1", Endpoint: "10.0.0.2:21000", Peer: identity("api"), Start: time.Second, Took: 2 * time.Second, Status: 200},
		},
	})
	got := waiting(tr)[0]
	if flags := got.GetScopeSpans()[0].GetSpans()[0].GetFlags(); flags != 0x101 {
		t.Errorf("flags %#x of a request without a parent elsewhere", flags)
	}
	if diff := cmp.Diff(map[string]any{
		"service.name": "web", "service.instance.id": "web-sidecar-proxy",
		"telemetry.sdk.name": "outrider", "telemetry.sdk.language": "go",
	}, values(got.GetResource().GetAttributes())); diff != "" {
		t.Errorf("resource (-want +got):\n%s", diff)
	}
	spans := got.GetScopeSpans()[0].GetSpans()
	want := []map[string]any{
		{
			"http.request.method": "GET", "url.path": "/users/1", "url.scheme": "http", "server.address": "api.internal", "server.port": int64(9191),
			"http.response.status_code": int64(200), "network.protocol.name": "http", "network.protocol.version": "1.1",
			"network.peer.address": "127.0.0.1", "network.peer.port": int64(40000),
			"outrider.direction": "outbound", "outrider.source": "spiffe://11.consul/ns/default/dc/dc1/svc/web", "outrider.upstream": "api",
			"outrider.target": "v2.api.default.default.dc1", "outrider.node": "resolver:api.default.default", "outrider.route.rule": int64(2),
			"outrider.endpoint": "10.0.0.2:21000", "outrider.retries": int64(1), "outrider.snapshot": int64(7),
		},
		{
			"http.request.method": "GET", "url.full": "http://api.internal:9191/users/1", "server.address": "10.0.0.1", "server.port": int64(21000),
			"error.type": "connect_failed", "outrider.reason": "connect_failed", "outrider.error": "connection refused",
			"outrider.direction": "outbound", "outrider.target": "v2.api.default.default.dc1", "outrider.endpoint": "10.0.0.1:21000",
		},
		{
			"http.request.method": "GET", "url.full": "http://api.internal:9191/users/1", "server.address": "10.0.0.2", "server.port": int64(21000),
			"http.request.resend_count": int64(1), "http.response.status_code": int64(200),
			"outrider.direction": "outbound", "outrider.target": "v2.api.default.default.dc1", "outrider.endpoint": "10.0.0.2:21000",
			"outrider.destination": "spiffe://11.consul/ns/default/dc/dc1/svc/api",
		},
	}
	for i, s := range spans {
		if diff := cmp.Diff(want[i], values(s.GetAttributes())); diff != "" {
			t.Errorf("span %d (-want +got):\n%s", i, diff)
		}
	}
	if kind, name := spans[0].GetKind(), spans[0].GetName(); kind != tracepb.Span_SPAN_KIND_INTERNAL || name != "GET api" || spans[0].GetStatus() != nil {
		t.Errorf("the request is %v %q %v", kind, name, spans[0].GetStatus())
	}
	if s := spans[1].GetStatus(); s.GetCode() != tracepb.Status_STATUS_CODE_ERROR || s.GetMessage() != "connection refused" {
		t.Errorf("the first try ends as %v", s)
	}
	if spans[2].GetStartTimeUnixNano() != 101e9 || spans[2].GetEndTimeUnixNano() != 103e9 || spans[2].GetStatus() != nil {
		t.Errorf("the second try: %v", spans[2])
	}
	if whole, err := proto.Marshal(got); err != nil || strings.Contains(string(whole), "secret") {
		t.Errorf("a query or a header is in the spans: %v", err)
	}
}

func TestSpanOfARefusedCallTellsWhoWasRefusedAndByWhat(t *testing.T) {
	t.Parallel()
	tr := newTracing(always(t), quietLog(), &box{})
	east := identity("web")
	east.Peer = "east"
	follow(tr, connect.Header{traceparent: {aParent}}, &flow.Record{
		Kind: flow.Request, Direction: flow.Inbound, Service: "api", Source: east, Gateway: "gateway of east", TLS: &tls.ConnectionState{},
		Method: "PURGE", Authority: "api", Path: "/admin", Protocol: "HTTP/2", GRPC: true, GRPCStatus: "7", Status: 403,
		Judged: true, Intention: "web → api", Precedence: 9, Permission: 1,
		Reason: connect.IntentionDenied, Why: "permission 1 denies PURGE /admin",
	})
	spans := waiting(tr)[0].GetScopeSpans()[0].GetSpans()
	if len(spans) != 1 {
		t.Fatalf("%d spans of a request that went nowhere", len(spans))
	}
	want := map[string]any{
		"http.request.method": "_OTHER", "http.request.method_original": "PURGE", "url.path": "/admin", "url.scheme": "https", "server.address": "api",
		"http.response.status_code": int64(403), "network.protocol.name": "http", "network.protocol.version": "2",
		"rpc.system.name": "grpc", "rpc.response.status_code": "7", "error.type": "intention_denied",
		"outrider.direction": "inbound", "outrider.reason": "intention_denied", "outrider.intention": "web → api",
		"outrider.intention.allowed": false, "outrider.intention.precedence": int64(9), "outrider.intention.permission": int64(1),
		"outrider.source": "spiffe://11.consul/ns/default/dc/dc1/svc/web", "outrider.source.peer": "east", "outrider.gateway": "gateway of east",
		"outrider.snapshot": int64(0),
	}
	if diff := cmp.Diff(want, values(spans[0].GetAttributes())); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if s := spans[0]; s.GetKind() != tracepb.Span_SPAN_KIND_SERVER || s.GetName() != "HTTP" || s.GetStatus().GetMessage() != "permission 1 denies PURGE /admin" {
		t.Errorf("span %v", s)
	}
	const known, remote, recorded = 0x100, 0x200, 1
	if got := spans[0].GetFlags(); got != known|remote|recorded {
		t.Errorf("flags %#x", got)
	}
}

func TestStatusSaysErrorWhereSomebodyWasNotServed(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		r    flow.Record
		want string // error.type; "" is no error
	}{
		"served":                  {flow.Record{Status: 200}, ""},
		"the application's no":    {flow.Record{Status: 404}, ""},
		"the application's fault": {flow.Record{Status: 500}, "500"},
		"a caller who left":       {flow.Record{Reason: connect.StreamReset, Gone: true}, ""},
		"ours":                    {flow.Record{Status: 503, Reason: connect.NoHealthyEndpoint}, "no_healthy_endpoint"},
		"that of the other side":  {flow.Record{Status: 403, Reason: connect.IntentionDenied, Remote: true}, "intention_denied"},
		"a response that ended":   {flow.Record{Status: 200, Reason: connect.StreamReset}, "stream_reset"},
	} {
		tr := newTracing(always(t), quietLog(), &box{})
		follow(tr, connect.Header{}, &tc.r)
		s := waiting(tr)[0].GetScopeSpans()[0].GetSpans()[0]
		got, _ := values(s.GetAttributes())["error.type"].(string)
		if got != tc.want || (s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR) != (tc.want != "") {
			t.Errorf("%s: %q, status %v", name, got, s.GetStatus())
		}
	}
}

func TestServicesOfAHostHaveAResourceEach(t *testing.T) {
	t.Parallel()
	s := always(t)
	s.resource = resource{host: "vm1", version: "1.2.3", attributes: []pair{{"deployment.environment.name", "test"}, {"host.name", "other"}, {"service.instance.id", "all"}}}
	tr := newTracing(s, quietLog(), &box{})
	for _, service := range []string{"web", "api", "web"} {
		follow(tr, connect.Header{}, &flow.Record{Service: service, ProxyID: service + "-proxy"})
	}
	got := waiting(tr)
	if len(got) != 2 || len(got[0].GetScopeSpans()[0].GetSpans()) != 1 || len(got[1].GetScopeSpans()[0].GetSpans()) != 2 {
		t.Fatalf("spans are grouped as %v", got)
	}
	for i, service := range []string{"api", "web"} {
		want := map[string]any{
			"service.name": service, "service.instance.id": service + "-proxy", "host.name": "other", "deployment.environment.name": "test",
			"telemetry.sdk.name": "outrider", "telemetry.sdk.language": "go", "telemetry.sdk.version": "1.2.3",
		}
		if diff := cmp.Diff(want, values(got[i].GetResource().GetAttributes())); diff != "" {
			t.Errorf("resource (-want +got):\n%s", diff)
		}
	}
}

// One request must not spoil the message that it is sent in with others: texts of
// the protocol are UTF-8.
func TestTextThatIsNotUTF8IsMended(t *testing.T) {
	t.Parallel()
	tr := newTracing(always(t), quietLog(), &box{})
	follow(tr, connect.Header{}, &flow.Record{
		Direction: flow.Outbound, Method: "\xff", Authority: "\xff", Path: "/\xff", Why: "\xff", Reason: connect.NoRoute, Upstream: "\xff",
		Tries: []flow.Try{{Error: "\xff", Reason: connect.ConnectFailed}},
	})
	whole, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: waiting(tr)})
	if err != nil || !strings.Contains(string(whole), "/\uFFFD") {
		t.Errorf("encode: %v", err)
	}
}
