// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// A collector takes traces by OTLP, over gRPC and HTTP.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []*tracedSpan
	text  strings.Builder // of every message
}

// A tracedSpan is one that has arrived.
type tracedSpan struct {
	service, name, id, parent, trace string

	kind  tracepb.Span_SpanKind
	bad   bool
	about map[string]string
}

// Export implements the service of OTLP.
func (c *collector) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	c.text.Write(text)
	for _, rs := range r.GetResourceSpans() {
		service := ""
		for _, kv := range rs.GetResource().GetAttributes() {
			if kv.GetKey() == "service.name" {
				service = kv.GetValue().GetStringValue()
			}
		}
		for _, scope := range rs.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, traced(service, s))
			}
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func traced(service string, s *tracepb.Span) *tracedSpan {
	out := &tracedSpan{
		service: service, name: s.GetName(), kind: s.GetKind(), about: map[string]string{},
		id: hex.EncodeToString(s.GetSpanId()), parent: hex.EncodeToString(s.GetParentSpanId()), trace: hex.EncodeToString(s.GetTraceId()),
		bad: s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR,
	}
	for _, kv := range s.GetAttributes() {
		value := kv.GetValue()
		out.about[kv.GetKey()] = value.GetStringValue()
		if value.GetStringValue() == "" {
			out.about[kv.GetKey()] = fmt.Sprint(max(value.GetIntValue(), 0))
		}
	}
	return out
}

// ServeHTTP is the same over HTTP.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	message := &collectorpb.ExportTraceServiceRequest{}
	if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, message) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if _, err := c.Export(r.Context(), message); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// listen serves OTLP over gRPC until the test ends.
func (c *collector) listen(t *testing.T) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(server, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return l.Addr()
}

// below are the spans of a trace with a parent, in the order of their tries.
func (c *collector) below(trace, parent string) []*tracedSpan {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*tracedSpan
	for _, s := range c.spans {
		if s.trace == trace && s.parent == parent {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *tracedSpan) int {
		return strings.Compare(a.about["http.request.resend_count"], b.about["http.request.resend_count"])
	})
	return out
}

// child waits for n spans below one, and returns the last of them.
func (c *collector) child(t *testing.T, trace, parent string, n int) []*tracedSpan {
	t.Helper()
	var found []*tracedSpan
	until(t, fmt.Sprintf("%d spans of trace %s below %s", n, trace, parent), func() error {
		if found = c.below(trace, parent); len(found) != n {
			return fmt.Errorf("there are %d", len(found))
		}
		return nil
	})
	return found
}

// is compares a span; fields are names and values of attributes, in turn.
func (s *tracedSpan) is(t *testing.T, what, service string, kind tracepb.Span_SpanKind, bad bool, fields ...string) {
	t.Helper()
	if s.service != service || s.kind != kind || s.bad != bad {
		t.Errorf("%s: service %q, kind %v, error %t; want %q, %v, %t", what, s.service, s.kind, s.bad, service, kind, bad)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		if got := s.about[fields[i]]; got != fields[i+1] {
			t.Errorf("%s: %s is %q, want %q", what, fields[i], got, fields[i+1])
		}
	}
}

const (
	tracesOf   = "4bf92f3577b34da6a3ce929d0e0e4736"
	tracesOf2  = "5bf92f3577b34da6a3ce929d0e0e4736"
	callerSpan = "00f067aa0ba902b7"
)

// A call goes through two processes and their sidecars, is tried twice, and is
// one trace from the calling application to the one that is called.
func TestCallIsOneTraceThroughBothSidecars(t *testing.T) {
	t.Parallel()
	consul := newHTTPMesh(t)
	retrying(t, consul, "traced", 1)
	entry(t, consul, `{"Kind":"service-intentions","Name":"traced","Sources":[{"Name":"web-traced","Permissions":[
		{"Action":"deny","HTTP":{"PathPrefix":"/admin"}},{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`)
	seen := make(chan string, 4) // traceparent of each request
	first := make(chan struct{}, 1)
	first <- struct{}{}
	api := service{name: "traced", app: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Traceparent")
		select {
		case <-first:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
		}
	}))}
	c := &collector{}
	start(t, consul, fmt.Sprintf("telemetry {\n otlp_endpoint = \"http://%s\"\n otlp_protocol = \"grpc\"\n}\n", c.listen(t))+api.stanza(t))
	web := service{name: "web-traced", upstream: "traced", port: freePort(t)}
	o := start(t, consul, fmt.Sprintf("telemetry { otlp_endpoint = \"http://%s\" }\n", serve(t, c))+web.stanza(t))
	o.endpoints(t, web.name, 1)
	call := newCaller(t, web.port, false)

	got, err := call.send(t.Context(), http.MethodGet, "/orders?key=s3cret", "",
		"Traceparent", "00-"+tracesOf+"-"+callerSpan+"-01", "Authorization", "Bearer s3cret", "Cookie", "s3cret")
	if err != nil || got.status != http.StatusOK {
		t.Fatalf("call: %d, %v", got.status, err)
	}
	request := c.child(t, tracesOf, callerSpan, 1)[0]
	request.is(t, "the request at the caller's sidecar", "web-traced", tracepb.Span_SPAN_KIND_INTERNAL, false,
		"outrider.retries", "1", "http.response.status_code", "200", "url.path", "/orders", "outrider.upstream", "traced")
	self, other := request.about["outrider.source"], strings.Replace(request.about["outrider.source"], "web-traced", "traced", 1)
	if !strings.HasPrefix(self, "spiffe://") || !strings.HasSuffix(self, "/svc/web-traced") {
		t.Errorf("the caller's identity is %q", self)
	}
	for i, status := range []string{"503", "200"} {
		what := fmt.Sprintf("try %d: ", i+1)
		try := c.child(t, tracesOf, request.id, 2)[i]
		try.is(t, what+"at the caller's sidecar", "web-traced", tracepb.Span_SPAN_KIND_CLIENT, i == 0,
			"http.response.status_code", status, "outrider.destination", other)
		inbound := c.child(t, tracesOf, try.id, 1)[0]
		inbound.is(t, what+"at the other sidecar", "traced", tracepb.Span_SPAN_KIND_SERVER, i == 0,
			"http.response.status_code", status, "outrider.source", self, "outrider.intention", "web-traced → traced", "outrider.intention.permission", "2")
		app := c.child(t, tracesOf, inbound.id, 1)[0]
		app.is(t, what+"to the application", "traced", tracepb.Span_SPAN_KIND_CLIENT, i == 0, "http.response.status_code", status)
		if told, want := <-seen, "00-"+tracesOf+"-"+app.id+"-01"; told != want {
			t.Errorf("%sthe application is told %q, want %q", what, told, want)
		}
	}

	got, err = call.send(t.Context(), http.MethodGet, "/admin", "", "Traceparent", "00-"+tracesOf2+"-"+callerSpan+"-01")
	if err != nil || got.status != http.StatusForbidden {
		t.Fatalf("denied call: %d, %v", got.status, err)
	}
	request = c.child(t, tracesOf2, callerSpan, 1)[0]
	request.is(t, "the denied request at the caller's sidecar", "web-traced", tracepb.Span_SPAN_KIND_INTERNAL, true,
		"outrider.reason", "intention_denied", "error.type", "intention_denied")
	inbound := c.child(t, tracesOf2, c.child(t, tracesOf2, request.id, 1)[0].id, 1)[0]
	inbound.is(t, "the denied request at the other sidecar", "traced", tracepb.Span_SPAN_KIND_SERVER, true,
		"outrider.reason", "intention_denied", "outrider.source", self, "outrider.intention", "web-traced → traced", "outrider.intention.permission", "1")
	if below := c.below(tracesOf2, inbound.id); len(below) != 0 || len(seen) != 0 {
		t.Errorf("the denied request went on: %d spans, %d requests", len(below), len(seen))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if strings.Contains(c.text.String(), "s3cret") {
		t.Error("a header or a query is in the traces")
	}
}
