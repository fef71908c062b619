// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package trace

import (
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/outrider-mesh/outrider/connect"
)

// forms are ways to write a trace into a header.
type forms uint8

const (
	w3c forms = 1 << iota
	b3
	b3multi
)

// The fields, as keys of a connect.Header.
const (
	traceparent = "Traceparent"
	tracestate  = "Tracestate"
	b3Single    = "B3"
	b3Trace     = "X-B3-Traceid"
	b3Span      = "X-B3-Spanid"
	b3Parent    = "X-B3-Parentspanid"
	b3Sampled   = "X-B3-Sampled"
	b3Flags     = "X-B3-Flags"
)

// maxState is the length of a tracestate that is carried on. Whoever passes
// one on must take 512 (W3C Trace Context, 3.3.1.5).
const maxState = 4096

// A propagation says which forms are read, in this order, and which are always
// written. A form that a request came with and that is read is written too:
// otherwise whoever reads it next would not see us.
type propagation struct {
	read  []forms
	write forms
}

// extract reads the trace that a request belongs to. The first form that is
// there and well-formed counts. What a field says twice is not believed.
func (p propagation) extract(h connect.Header) origin {
	var found origin
	var there forms
	for _, form := range p.read {
		o, present := read(form, h)
		if !present {
			continue
		}
		there |= form
		if found.from == 0 && (o.trace != traceID{} || o.decision != undecided) {
			found = o
			found.from = form
		}
	}
	found.forms = there
	return found
}

// read reads one form, and says whether it is there at all.
func read(form forms, h connect.Header) (origin, bool) {
	switch form {
	case w3c:
		return readW3C(h)
	case b3:
		values := h[b3Single]
		if len(values) != 1 {
			return origin{}, len(values) > 0
		}
		return readSingle(values[0]), true
	}
	return readMulti(h)
}

func readW3C(h connect.Header) (origin, bool) {
	values := h[traceparent]
	if len(values) != 1 {
		return origin{}, len(values) > 0 || len(h[tracestate]) > 0
	}
	t, s, flags, ok := readText(values[0])
	if !ok {
		return origin{}, true
	}
	o := origin{trace: t, parent: s, decision: unsampled, random: flags & flagRandom}
	if flags&flagSampled != 0 {
		o.decision = sampled
	}
	if len(h[tracestate]) > 0 {
		o.state = checkState(h[tracestate])
	}
	return o, true
}

// checkState returns a tracestate in one line; "" when it is not well-formed, in
// which case all of it is left out (W3C Trace Context, 3.3.1).
func checkState(values []string) string {
	length := 0
	for _, v := range values {
		length += len(v) + 1
	}
	if length > maxState {
		return ""
	}
	state, err := trace.ParseTraceState(strings.Join(values, ","))
	if err != nil {
		return ""
	}
	return state.String()
}

// readSingle reads "trace-span[-sampled[-parent]]", or the decision alone.
func readSingle(s string) origin {
	if len(s) <= 1 {
		d, debug := readDecision(s)
		return origin{decision: d, debug: debug}
	}
	if len(s) > 32+1+16+1+1+1+16 {
		return origin{}
	}
	part := strings.Split(s, "-")
	if len(part) < 2 || len(part) > 4 {
		return origin{}
	}
	t, span, ok := readB3(part[0], part[1])
	if !ok {
		return origin{}
	}
	o := origin{trace: t, parent: span}
	if len(part) > 2 {
		if o.decision, o.debug = readDecision(part[2]); o.decision == undecided {
			return origin{}
		}
	}
	return o
}

func readMulti(h connect.Header) (origin, bool) {
	fields := [4]string{}
	present := false
	for i, name := range [...]string{b3Trace, b3Span, b3Sampled, b3Flags} {
		values := h[name]
		if len(values) > 1 {
			return origin{}, true
		}
		if len(values) == 1 {
			fields[i], present = values[0], true
		}
	}
	if !present {
		return origin{}, false
	}
	var o origin
	o.decision, o.debug = readDecision(fields[2])
	if fields[3] == "1" {
		o.decision, o.debug = sampled, true
	}
	if fields[0] == "" && fields[1] == "" {
		return o, true
	}
	t, s, ok := readB3(fields[0], fields[1])
	if !ok {
		return origin{}, true
	}
	o.trace, o.parent = t, s
	return o, true
}

func readDecision(s string) (d decision, debug bool) {
	switch s {
	case "1", "true", "True":
		return sampled, false
	case "0", "false", "False":
		return unsampled, false
	case "d":
		return sampled, true
	}
	return undecided, false
}

// inject writes where the next one belongs into its header, in the given forms.
// parent is a traceparent.
func inject(h connect.Header, to forms, parent, state string, debug bool) {
	if to&w3c != 0 {
		h[traceparent] = []string{parent}
		delete(h, tracestate)
		if state != "" {
			h[tracestate] = []string{state}
		}
	}
	if to&(b3|b3multi) == 0 {
		return
	}
	decision := "0"
	switch {
	case debug:
		decision = "d"
	case digit(parent[textLength-1])&flagSampled != 0:
		decision = "1"
	}
	t, s := parent[traceAt:traceEnd], parent[spanAt:spanEnd]
	if to&b3 != 0 {
		h[b3Single] = []string{t + "-" + s + "-" + decision}
	}
	if to&b3multi == 0 {
		return
	}
	h[b3Trace], h[b3Span] = []string{t}, []string{s}
	delete(h, b3Parent) // it would be the parent of somebody else
	delete(h, b3Flags)
	delete(h, b3Sampled)
	if debug {
		h[b3Flags] = []string{"1"}
	} else {
		h[b3Sampled] = []string{decision}
	}
}
