// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

const (
	aTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	aSpan  = "00f067aa0ba902b7"
	// aParent is a traceparent that says "recorded", notRecorded one that does not.
	aParent     = "00-" + aTrace + "-" + aSpan + "-01"
	notRecorded = "00-" + aTrace + "-" + aSpan + "-00"
)

// byDefault is what is read and written without OTEL_PROPAGATORS.
func byDefault(t *testing.T) propagation {
	t.Helper()
	return (&environment{get: func(string) string { return "" }}).propagation()
}

func TestTraceIsReadFromWhatIsWellFormedOnly(t *testing.T) {
	t.Parallel()
	zero16, zero32 := strings.Repeat("0", 16), strings.Repeat("0", 32)
	many := make([]string, 33)
	for i := range many {
		many[i] = "k" + strings.Repeat("x", i) + "=v"
	}
	large := slices.Clone(many[:32]) // good, each of them
	for i := range large {
		large[i] += strings.Repeat("x", 200)
	}
	type want struct {
		Trace, Span, State string
		Decision           decision
		Debug              bool
	}
	known := want{Trace: aTrace, Span: aSpan, Decision: sampled}
	quiet := want{Trace: aTrace, Span: aSpan, Decision: unsampled}
	later := want{Trace: aTrace, Span: aSpan}
	half := want{Trace: zero16 + aTrace[16:], Span: aSpan, Decision: sampled}
	tests := map[string]struct {
		h    connect.Header
		want want
	}{
		"nothing":                         {h: connect.Header{}},
		"recorded":                        {h: connect.Header{traceparent: {aParent}}, want: known},
		"not recorded":                    {h: connect.Header{traceparent: {notRecorded}}, want: quiet},
		"other flags are no decision":     {h: connect.Header{traceparent: {notRecorded[:53] + "fe"}}, want: quiet},
		"a later version with more":       {h: connect.Header{traceparent: {"cc" + aParent[2:] + "-what-ever"}}, want: known},
		"a later version as long":         {h: connect.Header{traceparent: {"cc" + aParent[2:]}}, want: known},
		"a later version, no dash":        {h: connect.Header{traceparent: {"cc" + aParent[2:] + "0"}}},
		"version 00 with more":            {h: connect.Header{traceparent: {aParent + "-01"}}},
		"version ff":                      {h: connect.Header{traceparent: {"ff" + aParent[2:]}}},
		"capital letters":                 {h: connect.Header{traceparent: {strings.ToUpper(aParent)}}},
		"no trace":                        {h: connect.Header{traceparent: {"00-" + zero32 + "-" + aSpan + "-01"}}},
		"no span":                         {h: connect.Header{traceparent: {"00-" + aTrace + "-" + zero16 + "-01"}}},
		"no digits":                       {h: connect.Header{traceparent: {"00-" + aTrace[:31] + "g-" + aSpan + "-01"}}},
		"too short":                       {h: connect.Header{traceparent: {aParent[:54]}}},
		"dashes elsewhere":                {h: connect.Header{traceparent: {strings.ReplaceAll(aParent, "-", "_")}}},
		"twice":                           {h: connect.Header{traceparent: {aParent, aParent}}},
		"state":                           {h: connect.Header{traceparent: {aParent}, tracestate: {"a=1", "b=2"}}, want: want{Trace: aTrace, Span: aSpan, State: "a=1,b=2", Decision: sampled}},
		"a state with too many":           {h: connect.Header{traceparent: {aParent}, tracestate: {strings.Join(many, ",")}}, want: known},
		"a state with a key twice":        {h: connect.Header{traceparent: {aParent}, tracestate: {"a=1,a=2"}}, want: known},
		"a state that is none":            {h: connect.Header{traceparent: {aParent}, tracestate: {"\x00"}}, want: known},
		"a state that is too long":        {h: connect.Header{traceparent: {aParent}, tracestate: large}, want: known},
		"a state alone":                   {h: connect.Header{tracestate: {"a=1"}}},
		"B3 in one":                       {h: connect.Header{b3Single: {aTrace + "-" + aSpan + "-1-" + aSpan}}, want: known},
		"B3 in one, short":                {h: connect.Header{b3Single: {aTrace[16:] + "-" + aSpan + "-1"}}, want: half},
		"B3 in one, not recorded":         {h: connect.Header{b3Single: {aTrace + "-" + aSpan + "-0"}}, want: quiet},
		"B3 in one, debug":                {h: connect.Header{b3Single: {aTrace + "-" + aSpan + "-d"}}, want: want{Trace: aTrace, Span: aSpan, Decision: sampled, Debug: true}},
		"B3 in one, undecided":            {h: connect.Header{b3Single: {aTrace + "-" + aSpan}}, want: later},
		"B3 in one, no alone":             {h: connect.Header{b3Single: {"0"}}, want: want{Decision: unsampled}},
		"B3 in one, capital letters":      {h: connect.Header{b3Single: {strings.ToUpper(aTrace) + "-" + aSpan + "-1"}}, want: known},
		"B3 in one, no decision that is":  {h: connect.Header{b3Single: {aTrace + "-" + aSpan + "-2"}}},
		"B3 in one, too many parts":       {h: connect.Header{b3Single: {aTrace + "-" + aSpan + "-1-" + aSpan + "-1"}}},
		"B3 in one, one part":             {h: connect.Header{b3Single: {aTrace}}},
		"B3 in one, huge":                 {h: connect.Header{b3Single: {strings.Repeat("-", 100000)}}},
		"B3 in one, no trace":             {h: connect.Header{b3Single: {zero32 + "-" + aSpan + "-1"}}},
		"B3 in many":                      {h: connect.Header{b3Trace: {aTrace}, b3Span: {aSpan}, b3Sampled: {"1"}}, want: known},
		"B3 in many, not recorded":        {h: connect.Header{b3Trace: {aTrace}, b3Span: {aSpan}, b3Sampled: {"0"}}, want: quiet},
		"B3 in many, old words":           {h: connect.Header{b3Trace: {aTrace}, b3Span: {aSpan}, b3Sampled: {"false"}}, want: quiet},
		"B3 in many, debug":               {h: connect.Header{b3Trace: {aTrace}, b3Span: {aSpan}, b3Flags: {"1"}}, want: want{Trace: aTrace, Span: aSpan, Decision: sampled, Debug: true}},
		"B3 in many, decision alone":      {h: connect.Header{b3Sampled: {"0"}}, want: want{Decision: unsampled}},
		"B3 in many, no span":             {h: connect.Header{b3Trace: {aTrace}, b3Sampled: {"1"}}},
		"B3 in many, twice":               {h: connect.Header{b3Trace: {aTrace, aTrace}, b3Span: {aSpan}, b3Sampled: {"1"}}},
		"W3C before B3":                   {h: connect.Header{traceparent: {notRecorded}, b3Single: {zero32[:31] + "1-" + aSpan + "-1"}}, want: quiet},
		"B3 where W3C is no good":         {h: connect.Header{traceparent: {"no"}, b3Single: {aTrace + "-" + aSpan + "-1"}}, want: known},
		"B3 in one before B3 in many":     {h: connect.Header{b3Single: {aTrace + "-" + aSpan + "-0"}, b3Trace: {aTrace}, b3Span: {aSpan}, b3Sampled: {"1"}}, want: quiet},
		"B3's debug flag beats a refusal": {h: connect.Header{b3Trace: {aTrace}, b3Span: {aSpan}, b3Sampled: {"0"}, b3Flags: {"1"}}, want: want{Trace: aTrace, Span: aSpan, Decision: sampled, Debug: true}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := byDefault(t).extract(tc.h)
			got := want{State: o.state, Decision: o.decision, Debug: o.debug}
			if o.trace != (traceID{}) {
				line := text(o.trace, o.parent, 0)
				got.Trace, got.Span = line[traceAt:traceEnd], line[spanAt:spanEnd]
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTraceIsWrittenInTheFormsThatAreReadNext(t *testing.T) {
	t.Parallel()
	recorded := text(mustTrace(t, aTrace), spanID{7: 1}, flagSampled)
	const one = "0000000000000001"
	tests := map[string]struct {
		before connect.Header
		to     forms
		state  string
		debug  bool
		quiet  bool
		want   connect.Header
	}{
		"W3C": {
			before: connect.Header{traceparent: {aParent}, tracestate: {"a=1", "b=2"}, "X": {"y"}}, to: w3c, state: "a=1,b=2",
			want: connect.Header{traceparent: {"00-" + aTrace + "-" + one + "-01"}, tracestate: {"a=1,b=2"}, "X": {"y"}},
		},
		"a state that is not to go on": {
			before: connect.Header{tracestate: {"\x00"}}, to: w3c,
			want: connect.Header{traceparent: {"00-" + aTrace + "-" + one + "-01"}},
		},
		"B3 in one": {
			before: connect.Header{b3Single: {"old"}}, to: b3,
			want: connect.Header{b3Single: {aTrace + "-" + one + "-1"}},
		},
		"B3 in many": {
			before: connect.Header{b3Parent: {aSpan}, b3Sampled: {"true"}}, to: b3multi,
			want: connect.Header{b3Trace: {aTrace}, b3Span: {one}, b3Sampled: {"1"}},
		},
		"B3 with debug": {
			before: connect.Header{b3Flags: {"1"}}, to: b3 | b3multi, debug: true,
			want: connect.Header{b3Single: {aTrace + "-" + one + "-d"}, b3Trace: {aTrace}, b3Span: {one}, b3Flags: {"1"}},
		},
		"B3 that is not recorded": {
			to: b3 | b3multi, quiet: true,
			want: connect.Header{b3Single: {aTrace + "-" + one + "-0"}, b3Trace: {aTrace}, b3Span: {one}, b3Sampled: {"0"}},
		},
		"nothing": {before: connect.Header{traceparent: {aParent}}, want: connect.Header{traceparent: {aParent}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, line := maps.Clone(tc.before), recorded
			if h == nil {
				h = connect.Header{}
			}
			if tc.quiet {
				line = text(mustTrace(t, aTrace), spanID{7: 1}, 0)
			}
			inject(h, tc.to, line, tc.state, tc.debug)
			if diff := cmp.Diff(tc.want, h); diff != "" {
				t.Errorf("written (-want +got):\n%s", diff)
			}
		})
	}
}

func mustTrace(t *testing.T, s string) (id traceID) {
	t.Helper()
	if !readHex(id[:], s) {
		t.Fatalf("%q is no trace ID", s)
	}
	return id
}

// Whatever anybody sends: what is written next is well-formed, belongs to the
// same trace, and nothing else in the header changes.
func FuzzWhatIsWrittenIsReadAgain(f *testing.F) {
	f.Add(aParent, "a=1", aTrace+"-"+aSpan+"-1", aTrace, aSpan, "1", "1", false)
	f.Add(notRecorded, "", "0", "", "", "", "", true)
	f.Add("", "a", "d", "1", "2", "x", "0", true)
	f.Fuzz(func(t *testing.T, parent, state, single, trace, id, decided, flags string, twice bool) {
		h := connect.Header{"Authorization": {"kept"}}
		for name, value := range map[string]string{
			traceparent: parent, tracestate: state, b3Single: single, b3Trace: trace, b3Span: id, b3Sampled: decided, b3Flags: flags,
		} {
			if value != "" {
				h[name] = []string{value}
			}
		}
		if twice && parent != "" {
			h[traceparent] = append(h[traceparent], parent)
		}
		all := propagation{read: []forms{w3c, b3, b3multi}, write: w3c | b3 | b3multi}
		o := all.extract(h)
		if (o.trace == traceID{}) != (o.parent == spanID{}) {
			t.Fatalf("half a parent: %+v", o)
		}
		if o.trace == (traceID{}) {
			o.trace = newTraceID()
		}
		next := newSpanID()
		inject(h, all.write, text(o.trace, next, flagSampled), o.state, o.debug)
		for _, form := range all.read {
			got, there := read(form, h)
			if !there || got.trace != o.trace || got.parent != next || got.decision != sampled || got.debug != (o.debug && form != w3c) {
				t.Fatalf("form %d reads %+v, %t; was %+v", form, got, there, o)
			}
		}
		if got := readState(h); got != o.state {
			t.Fatalf("state %q, was %q", got, o.state)
		}
		if !slices.Equal(h["Authorization"], []string{"kept"}) {
			t.Fatalf("header changed: %v", h)
		}
	})
}

func readState(h connect.Header) string {
	if len(h[tracestate]) == 0 {
		return ""
	}
	return checkState(h[tracestate])
}
