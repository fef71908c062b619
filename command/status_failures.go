// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent/outline"
	"github.com/outrider-mesh/outrider/agent/recorder"
)

// failures prints what the flight recorder of an agent holds.
func (i invocation) failures(ctx context.Context, q statusQuery) int {
	body, err := askAgent(ctx, cmp.Or(q.admin, defaultAdmin), "/v1/failures")
	if err != nil {
		return i.fail("status: %v", err)
	}
	var all recorder.Failures
	if err := json.Unmarshal(body, &all); err != nil {
		return i.fail("status: understand the agent's answer: %v; client and agent may be of different versions", err)
	}
	if q.asJSON {
		_, _ = i.stdout.Write(harmless(body))
		return exitOK
	}
	p := printer{i.stdout, time.Now()}
	if len(all.Failures) == 0 {
		p.line(0, "nothing has failed since the agent started")
		return exitOK
	}
	for n := range all.Failures {
		f := &all.Failures[n]
		p.line(0, "%s ago  %s", p.span(f.Time), sentence(f))
		if q.verbose {
			p.chain(f)
		}
	}
	p.line(0, "")
	p.line(0, "%d of %d failures since the agent started%s", len(all.Failures), all.Total, map[bool]string{true: "; -v shows what led to each"}[!q.verbose])
	return exitOK
}

// sentence is a connection or request on one line: who, what, what came of it.
func sentence(o *outline.Outline) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s %s → %s", o.Direction, cmp.Or(o.Source, "unknown"), destination(o))
	if o.Method != "" {
		fmt.Fprintf(&b, "  %s %s", o.Method, cmp.Or(o.Path, "/"))
	}
	b.WriteString("  " + outcome(o))
	fmt.Fprintf(&b, "  %s", took(o.TookMS))
	if o.Endpoint != "" {
		b.WriteString("  " + o.Endpoint)
	}
	return b.String()
}

func destination(o *outline.Outline) string {
	if o.Direction == "outbound" {
		return cmp.Or(o.Upstream, "unknown")
	}
	if o.Direction == "passed" {
		return "outside the mesh"
	}
	return cmp.Or(o.Service, "unknown")
}

// outcome is the status and the reason, or how much went through a connection.
func outcome(o *outline.Outline) string {
	var parts []string
	if o.Status != 0 {
		parts = append(parts, fmt.Sprint(o.Status))
	}
	if o.GRPCStatus != "" && o.GRPCStatus != "0" {
		parts = append(parts, "grpc "+o.GRPCStatus)
	}
	switch {
	case o.Reason != "":
		parts = append(parts, string(o.Reason))
	case o.Gone:
		parts = append(parts, "the caller left")
	case o.Kind == "connection":
		parts = append(parts, fmt.Sprintf("%d bytes up, %d down", o.Sent, o.Received))
	}
	if o.Remote {
		parts = append(parts, "(said by the other side)")
	}
	return strings.Join(parts, " ")
}

func took(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= 10*time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// chain prints what led to a failure, each thing once.
func (p printer) chain(o *outline.Outline) {
	row := func(name, format string, args ...any) {
		if text := strings.TrimSpace(fmt.Sprintf(format, args...)); text != "" {
			p.line(2, "%-10s %s", name, text)
		}
	}
	row("at", "%s, %s", o.Time.Format("2006-01-02T15:04:05.000Z07:00"), o.Kind)
	row("why", "%s", o.Why)
	if o.Intention != "" {
		row("intention", "%s, precedence %d%s", o.Intention, o.Precedence, permission(o.Permission))
	}
	row("route", "%s%s", o.Node, map[bool]string{true: fmt.Sprintf(", rule %d", o.Rule)}[o.Rule > 0])
	row("target", "%s", o.Target)
	for n := range o.Tries {
		t := &o.Tries[n]
		what := cmp.Or(string(t.Reason), fmt.Sprint(t.Status))
		row(fmt.Sprintf("try %d", n+1), "%s after %s, for %s: %s%s", cmp.Or(t.Endpoint, "no endpoint"), took(t.StartMS), took(t.TookMS), what, optional(": ", t.Error))
	}
	if shown := len(o.Tries); o.Retries+1 > shown && shown > 0 {
		row("", "%d tries in all; of those between the last two are left out", o.Retries+1)
	}
	row("timing", "handshake %s, first byte %s, end %s", took(o.HandshakeMS), took(o.FirstByteMS), took(o.TookMS))
	row("from", "%s", o.Downstream)
	row("trace", "%s", o.TraceID)
}

func permission(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", permission %d", n)
}
