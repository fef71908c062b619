// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package explain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Line is one line of the text, for people. Text may hold what others have
// written, such as names: whoever prints it on a terminal removes control
// characters.
type Line struct {
	Step string // what the line is about, "" where it goes on with the line before
	Text string
}

// writer collects lines.
type writer struct {
	lines []Line
	now   time.Time
}

func (w *writer) step(step, format string, args ...any) {
	w.lines = append(w.lines, Line{step, fmt.Sprintf(format, args...)})
}

func (w *writer) more(format string, args ...any) { w.step("", format, args...) }

// Lines is the explanation as text, a step per line, with the verdict last. now
// is for what is told as so long ago.
func (e *Explanation) Lines(now time.Time) []Line {
	w := &writer{now: now}
	request := "a connection"
	if e.Method != "" {
		request = e.Method + " " + e.Path
	}
	w.step("call", "%s → %s, %s", e.Source, e.Destination, request)
	if e.Outbound != nil {
		w.outbound(e.Outbound)
	} else {
		w.step("upstream", "not known: %s has no sidecar on this host, so that only the destination's side is explained", e.Source)
	}
	for i := range e.Inbound {
		w.inbound(&e.Inbound[i])
	}
	w.verdict(&e.Verdict)
	return w.lines
}

func (w *writer) outbound(o *Outbound) {
	if o.Upstream == "" {
		w.step("upstream", "none: %s", o.Why)
		return
	}
	w.step("upstream", "%s at %s, %s (sidecar %s, snapshot %d)", o.Upstream, cmp.Or(o.Listener, "no listener"), cmp.Or(string(o.Protocol), "tcp"), cmp.Or(o.ProxyID, o.Service), o.Snapshot)
	for _, note := range o.Notes {
		w.more("note: %s", note)
	}
	if o.Reason != "" {
		w.more("it goes no further: %s: %s", o.Reason, o.Why)
		return
	}
	if o.Rule != nil {
		becomes := ""
		if o.Rule.Path != "" {
			becomes = fmt.Sprintf("; the path becomes %s", o.Rule.Path)
		}
		w.step("route", "%d of %d of the service-router: %s%s", o.Rule.Number, o.Rule.Of, o.Rule.Match, becomes)
	}
	for i := range o.Ways {
		w.way(&o.Ways[i], len(o.Ways) > 1)
	}
	w.step("identity", "presents %s", o.Identity)
	w.settings(o.Settings)
	w.lately(o.Lately)
}

func (w *writer) way(way *Way, split bool) {
	if split {
		w.step("split", "%s of the requests, by splitter %s", Percent(way.Share), strings.TrimPrefix(way.Splitter, "splitter:"))
	}
	w.step("resolver", "%s", strings.TrimPrefix(way.Node, "resolver:"))
	for i := range way.Targets {
		w.target(&way.Targets[i])
	}
	if way.Reason != "" {
		w.more("it goes no further: %s: %s", way.Reason, way.Why)
	}
	if way.Balance.Name != "" {
		w.more("balancing: %s (%s)", way.Balance.Value, way.Balance.Origin)
	}
}

func (w *writer) target(t *Target) {
	name := "target"
	if t.Failover > 0 {
		name = fmt.Sprintf("failover %d", t.Failover)
	}
	var facts []string
	if t.Subset != "" {
		facts = append(facts, fmt.Sprintf("subset %q where %s", t.Subset, cmp.Or(t.Filter, "nothing is filtered")))
	}
	if t.Peer != "" {
		facts = append(facts, "of peer "+t.Peer)
	}
	if t.Through != "" {
		facts = append(facts, "through "+t.Through)
	}
	use := "not needed"
	switch {
	case t.Called:
		use = "used"
	case !slices.ContainsFunc(t.Endpoints, func(e Endpoint) bool { return e.NotUsed == "" }):
		use = "without a usable endpoint"
	}
	w.step(name, "%s: %s%s", t.ID, use, prefixed("; ", strings.Join(facts, ", ")))
	for _, e := range t.Endpoints {
		w.endpoint(e)
	}
	if len(t.Endpoints) == 0 {
		w.more("  no endpoint in Consul")
	}
	w.more("  must prove to be %s; SNI %s", oneOf(t.Expects), cmp.Or(t.SNI, "none"))
	w.more("  connect timeout: %s (%s)", t.Connect.Value, t.Connect.Origin)
}

func (w *writer) endpoint(e Endpoint) {
	state := "usable"
	switch {
	case e.NotUsed != "" && e.Chosen:
		state = e.NotUsed + "; used all the same, for there is no other"
	case e.NotUsed != "":
		state = "not used: " + e.NotUsed
	case e.Chosen:
		state = "used"
	}
	weight := ""
	if e.Weight > 0 {
		weight = fmt.Sprintf(", weight %d", e.Weight)
	}
	w.more("  %s%s%s: %s%s", e.Address, prefixed(" on ", e.Node), weight, state, prefixed("; last failure: ", e.LastFailure))
}

func (w *writer) inbound(in *Inbound) {
	if in.Unknown != "" {
		w.step("destination", "%s: cannot be told: %s", in.Service, in.Unknown)
		return
	}
	w.step("destination", "%s, %s%s", in.Service, cmp.Or(string(in.Protocol), "tcp"), prefixed(": ", in.From))
	for _, note := range in.Notes {
		w.more("note: %s", note)
	}
	if in.Caller != "" {
		w.more("judges %s%s", in.Caller, prefixed(" for ", in.Path))
	}
	w.intention(in)
	w.settings(in.Settings)
	if in.Application != "" {
		w.step("application", "%s", in.Application)
	}
	w.lately(in.Lately)
}

func (w *writer) intention(in *Inbound) {
	if in.Intention == "" {
		w.step("intention", "not asked: %s: %s", in.Reason, in.Why)
		return
	}
	name := in.Intention
	if in.Precedence > 0 {
		name = fmt.Sprintf("%q, precedence %d", name, in.Precedence)
	}
	w.step("intention", "%s", name)
	for _, p := range in.Permissions {
		state := "not asked"
		switch {
		case p.Decides:
			state = "decides"
		case in.Permission == 0 || p.Number < in.Permission:
			state = "does not match"
		}
		if in.Path == "" {
			state = "cannot be met by a connection"
		}
		w.more("  permission %d, %s: %s: %s%s", p.Number, p.Action, p.Match, state, prefixed("; needs a JWT ", strings.Join(p.Tokens, " or ")))
	}
	if len(in.Tokens) > 0 {
		w.more("  needs a JWT %s", strings.Join(in.Tokens, " or "))
	}
	if in.Allowed || in.Reason != "" {
		w.more("%s%s", in.Why, prefixed(": ", string(in.Reason)))
	}
	w.written(in.Written)
}

func (w *writer) written(by *Written) {
	if by == nil {
		return
	}
	if by.Problem != "" {
		w.step("written", "config entry %s: %s", by.Entry, by.Problem)
		return
	}
	parts := []string{"config entry " + by.Entry + prefixed(" by ", by.By)}
	if by.Description != "" {
		parts = append(parts, strconv.Quote(by.Description))
	}
	if by.Modified > 0 {
		parts = append(parts, fmt.Sprintf("created at index %d", by.Created), fmt.Sprintf("last changed at index %d", by.Modified))
	}
	if !by.UpdatedAt.IsZero() {
		parts = append(parts, "last changed "+by.UpdatedAt.UTC().Format(time.RFC3339))
	}
	for _, key := range slices.Sorted(maps.Keys(by.Meta)) {
		parts = append(parts, fmt.Sprintf("%s=%q", key, by.Meta[key]))
	}
	w.step("written", "%s", strings.Join(parts, ", "))
}

func (w *writer) settings(all []Setting) {
	for i, s := range all {
		step := ""
		if i == 0 {
			step = "limits"
		}
		w.step(step, "%s: %s (%s)", s.Name, s.Value, s.Origin)
	}
}

func (w *writer) lately(l *Lately) {
	if l == nil {
		return
	}
	after := "none has been served since"
	if l.Since > 0 {
		after = fmt.Sprintf("%d have been served since", l.Since)
	}
	w.step("lately", "%s ago: %s%s%s; %s", max(0, w.now.Sub(l.At)).Round(time.Second), l.Reason, prefixed(" at ", l.Endpoint), prefixed(": ", l.Why), after)
}

func (w *writer) verdict(v *Verdict) {
	if len(v.Outcomes) > 1 {
		for i, o := range v.Outcomes {
			step := ""
			if i == 0 {
				step = "outcomes"
			}
			w.step(step, "%s: %s", Percent(o.Share), o.words())
		}
	}
	w.step("verdict", "%s", v.Words())
}

func (o *Outcome) words() string {
	switch {
	case o.Unknown:
		return "cannot be told: " + o.Why
	case o.Reason != "":
		return "refused, " + string(o.Reason) + prefixed(": ", o.Why)
	}
	return "served by " + cmp.Or(string(o.Target), o.Service)
}

// Words is the verdict in one sentence.
func (v *Verdict) Words() string {
	switch {
	case v.Observed && v.Unknown == Whole:
		return fmt.Sprintf("cannot be told here, but %s: %s", v.Why, v.Reason)
	case v.Observed:
		return fmt.Sprintf("nothing in the configuration refuses it, but %s: %s", v.Why, v.Reason)
	case v.Served == Whole:
		return "served, as far as this host can tell"
	case v.Unknown == Whole:
		return "cannot be told here: " + v.Why
	case v.Served == 0 && v.Unknown == 0:
		return fmt.Sprintf("refused: %s: %s", v.Reason, v.Why)
	}
	text := Percent(v.Served) + " served"
	if v.Unknown > 0 {
		text += ", " + Percent(v.Unknown) + " cannot be told here"
	}
	if rest := Whole - v.Served - v.Unknown; rest > 0 {
		text += fmt.Sprintf(", %s refused, most of it for %s: %s", Percent(rest), v.Reason, v.Why)
	}
	return text
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

func oneOf(names []string) string {
	switch len(names) {
	case 0:
		return "nobody that is known"
	case 1:
		return names[0]
	}
	return "one of " + strings.Join(names[:min(4, len(names))], ", ") + map[bool]string{true: " and others"}[len(names) > 4]
}
