// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"context"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A box is a collector without a network.
type box struct {
	mu      sync.Mutex
	got     []*tracepb.ResourceSpans
	batches []int             // spans of each message
	fail    func(n int) error // nil: never; n counts calls from 1
	hang    bool              // answer nothing
	refuse  int64             // spans of each message
	closed  bool
	calls   int
}

func (b *box) send(ctx context.Context, data *tracepb.TracesData) (int64, error) {
	if b.hang {
		<-ctx.Done()
		return 0, &later{cause: ctx.Err()}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls++
	if b.fail != nil {
		if err := b.fail(b.calls); err != nil {
			return 0, err
		}
	}
	n := 0
	for _, rs := range data.GetResourceSpans() {
		n += len(rs.GetScopeSpans()[0].GetSpans())
	}
	b.batches = append(b.batches, n)
	b.got = append(b.got, proto.Clone(data).(*tracepb.TracesData).GetResourceSpans()...)
	return b.refuse, nil
}

// seen is how large the messages were so far, and how often there was a call.
func (b *box) seen() (batches []int, calls int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.batches), b.calls
}

func (b *box) close() { b.closed = true }

func always(t *testing.T) settings {
	t.Helper()
	return settings{
		destination: destination{url: "http://collector.invalid/v1/traces", timeout: defaultTimeout},
		sampler:     sampler{parentBased: true, ratio: 1}, propagation: byDefault(t),
		queue: defaultQueue, batch: defaultBatch, delay: defaultDelay,
	}
}

func quietLog() hclog.Logger { return hclog.NewNullLogger() }

// spanOf is the span in a message with the ID that a traceparent names.
func spanOf(t *testing.T, all []*tracepb.Span, parent string) *tracepb.Span {
	t.Helper()
	for _, s := range all {
		if hex.EncodeToString(s.GetSpanId()) == parent[spanAt:spanEnd] {
			return s
		}
	}
	t.Fatalf("no span %s among %d", parent, len(all))
	return nil
}

// waiting is what the queue holds, as a collector gets it.
func waiting(t *Tracing) []*tracepb.ResourceSpans {
	var items []*item
	for {
		select {
		case it := <-t.queue:
			items = append(items, it)
			continue
		default:
		}
		return t.settings.resource.data(items).GetResourceSpans()
	}
}

func values(all []*commonpb.KeyValue) map[string]any {
	out := map[string]any{}
	for _, kv := range all {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			out[kv.GetKey()] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			out[kv.GetKey()] = v.IntValue
		case *commonpb.AnyValue_BoolValue:
			out[kv.GetKey()] = v.BoolValue
		}
	}
	return out
}

func TestHeadersOfARequestThatNobodyRecordsGoOnAsTheyCame(t *testing.T) {
	t.Parallel()
	s := always(t)
	s.sampler.ratio = 0
	tr := newTracing(s, quietLog(), &box{})
	for name, h := range map[string]connect.Header{
		"not recorded": {traceparent: {notRecorded}, tracestate: {"a=1", "b=2"}, "X": {"y"}},
		"with random":  {traceparent: {notRecorded[:53] + "02"}},
	} {
		before := maps.Clone(h)
		span := tr.Begin(&flow.Record{}, h)
		if trace, id := span.IDs(); trace != aTrace || id != aSpan {
			t.Errorf("%s: IDs %s %s", name, trace, id)
		}
		span.Try(h)(&flow.Try{})
		span.End(&flow.Record{})
		if diff := cmp.Diff(before, h); diff != "" {
			t.Errorf("%s: header (-before +after):\n%s", name, diff)
		}
	}
	if got := tr.Stats(); got != (Stats{}) {
		t.Errorf("spans were made: %+v", got)
	}
}

func TestStateThatIsMalformedGoesNoFurther(t *testing.T) {
	t.Parallel()
	tr := newTracing(always(t), quietLog(), &box{})
	for _, parent := range []string{aParent, notRecorded} {
		h := connect.Header{traceparent: {parent}, tracestate: {"\x00"}}
		tr.Begin(&flow.Record{}, h).Try(h)
		if len(h[tracestate]) != 0 || len(h[traceparent]) != 1 || h[traceparent][0][traceAt:traceEnd] != aTrace {
			t.Errorf("header %v", h)
		}
	}
}

func TestNobodyBeginsATraceInItsMiddle(t *testing.T) {
	t.Parallel()
	s := always(t)
	s.sampler.ratio = 0
	tr := newTracing(s, quietLog(), &box{})
	h := connect.Header{}
	span := tr.Begin(&flow.Record{}, h)
	trace, id := span.IDs()
	span.Try(h)
	if want := "00-" + trace + "-" + id + "-00"; len(h[traceparent]) != 1 || h[traceparent][0] != want {
		t.Errorf("the next one is told %q, want %q", h[traceparent], want)
	}
}

func TestOneWhoSamplesByHimselfTellsTheNextOne(t *testing.T) {
	t.Parallel()
	s := always(t)
	s.sampler = sampler{ratio: 0}
	tr := newTracing(s, quietLog(), &box{})
	h := connect.Header{traceparent: {aParent}, b3Single: {aTrace + "-" + aSpan + "-1"}}
	tr.Begin(&flow.Record{}, h).Try(h)
	if h[traceparent][0] != notRecorded || h[b3Single][0] != aTrace+"-"+aSpan+"-0" {
		t.Errorf("header %v", h)
	}
}

func TestWhatIsNotTheMeshsIsNotFollowed(t *testing.T) {
	t.Parallel()
	tr := newTracing(always(t), quietLog(), &box{})
	for direction, want := range map[flow.Direction]bool{flow.Inbound: true, flow.Outbound: true, flow.Exposed: false, flow.Passed: false} {
		span := tr.Begin(&flow.Record{Direction: direction}, connect.Header{traceparent: {aParent}})
		if (span != nil) != want {
			t.Errorf("%v: span %v", direction, span)
		}
	}
}

func TestEveryTryHasASpanBelowThatOfTheRequest(t *testing.T) {
	t.Parallel()
	tr := newTracing(always(t), quietLog(), &box{})
	h := connect.Header{traceparent: {aParent}, tracestate: {"a=1"}}
	r := &flow.Record{Direction: flow.Outbound, Service: "web", Upstream: "api", Method: "GET", Start: time.Now()}
	span := tr.Begin(r, h)
	trace, id := span.IDs()
	var sent []string
	for i := range flow.MaxTries + 2 {
		end := span.Try(h)
		sent = append(sent, h[traceparent][0])
		if i != 1 {
			end(&flow.Try{Endpoint: "10.0.0.1:80", Start: time.Second, Took: time.Second, Status: 503})
		}
	}
	r.Duration = time.Minute
	span.End(r)
	all := waiting(tr)[0].GetScopeSpans()[0].GetSpans()
	if len(all) != 1+flow.MaxTries || trace != aTrace {
		t.Fatalf("%d spans of trace %s", len(all), trace)
	}
	request := spanOf(t, all, "00-"+trace+"-"+id+"-01")
	if got := hex.EncodeToString(request.GetParentSpanId()); got != aSpan || request.GetTraceState() != "a=1" {
		t.Errorf("the request's parent is %s, state %q", got, request.GetTraceState())
	}
	for i, line := range sent {
		if i >= flow.MaxTries {
			if line[spanAt:spanEnd] != id {
				t.Errorf("try %d, which nobody keeps: the next one's parent is %s", i, line)
			}
			continue
		}
		s := spanOf(t, all, line)
		if got := hex.EncodeToString(s.GetParentSpanId()); got != id || s.GetKind() != tracepb.Span_SPAN_KIND_CLIENT {
			t.Errorf("try %d: parent %s, kind %v", i, got, s.GetKind())
		}
		over := time.Duration(s.GetEndTimeUnixNano() - request.GetStartTimeUnixNano()) //nolint:gosec // a minute
		if want := map[bool]time.Duration{true: time.Minute, false: 2 * time.Second}[i == 1]; over.Round(time.Millisecond) != want {
			t.Errorf("try %d ends after %v, want %v", i, over, want)
		}
	}
}

// What waits for the collector is bounded, whatever requests look like.
func TestWhatARequestPutsIntoTheQueueIsBounded(t *testing.T) {
	t.Parallel()
	tr := newTracing(always(t), quietLog(), &box{})
	long := strings.Repeat("ä", 1<<20)
	for range 100_000 {
		r := &flow.Record{Method: long, Authority: long, Path: "/" + long + "?" + long, Why: long, GRPCStatus: long, OriginalPath: long}
		span := tr.Begin(r, connect.Header{"Cookie": {long}})
		for range flow.MaxTries {
			span.Try(connect.Header{})(&flow.Try{Error: long})
		}
		span.End(r)
		if tr.held.Load() > maxHeld {
			t.Fatalf("%d bytes are held", tr.held.Load())
		}
		if tr.Stats().Dropped > 0 {
			break
		}
	}
	stats, items := tr.Stats(), len(tr.queue)
	if stats.Dropped != 1+flow.MaxTries || items == 0 || items == defaultQueue {
		t.Fatalf("%d items wait, %+v", items, stats)
	}
	for _, rs := range waiting(tr) {
		for _, s := range rs.GetScopeSpans()[0].GetSpans() {
			if n := proto.Size(s); n > 4<<10 {
				t.Fatalf("a span of %d bytes", n)
			}
		}
	}
}

// A request that is not recorded costs next to nothing.
func TestARequestThatIsNotRecordedCostsNextToNothing(t *testing.T) {
	s := always(t)
	s.sampler.ratio = 0
	tr := newTracing(s, quietLog(), &box{})
	r := &flow.Record{Direction: flow.Inbound}
	for name, tc := range map[string]struct {
		h    connect.Header
		most float64
	}{
		"one that was decided on": {connect.Header{traceparent: {notRecorded}}, 1},
		"the first of a trace":    {connect.Header{}, 3},
	} {
		got := testing.AllocsPerRun(100, func() {
			span := tr.Begin(r, tc.h)
			span.IDs()
			span.Try(tc.h)(nil)
			span.End(r)
			if tc.most == 3 {
				delete(tc.h, traceparent)
			}
		})
		if got > tc.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, tc.most)
		}
	}
}

func BenchmarkRequest(b *testing.B) {
	for name, ratio := range map[string]float64{"unsampled": 0, "sampled": 1} {
		b.Run(name, func(b *testing.B) {
			p := (&environment{get: func(string) string { return "" }}).propagation()
			tr := newTracing(settings{sampler: sampler{ratio: ratio}, propagation: p, queue: 1}, quietLog(), &box{})
			r := &flow.Record{Direction: flow.Outbound, Method: "GET", Path: "/", Start: time.Now()}
			h, try := connect.Header{traceparent: {notRecorded}}, &flow.Try{}
			b.ReportAllocs()
			for b.Loop() {
				span := tr.Begin(r, h)
				span.IDs()
				span.Try(h)(try)
				span.End(r)
			}
		})
	}
}
