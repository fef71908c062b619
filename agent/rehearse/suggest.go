// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package rehearse

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/outrider-mesh/outrider/agent/ledger"
	"github.com/outrider-mesh/outrider/connect"
)

// A Suggestion is the service-intentions config entry of one service that lets
// in whoever was let in, and nobody else.
type Suggestion struct {
	Destination string
	HCL         string // "" when there is none to make
	// Notes are on what was left out and why, one sentence each.
	Notes []string
}

// Suggest makes a suggestion for each service on this host that was called.
// current are the rules in force, by service: what they deny by now is not
// suggested again, and where they ask for tokens or look at headers, of which
// edges say nothing, there is no suggestion, since it would let in more than
// before. A service whose rules are not there is taken as its edges say.
//
// With l7, sources get permissions by method and form of path; so do those that
// have permissions now.
func Suggest(edges []ledger.Edge, l7 bool, current map[string]Rules, now time.Time) ([]Suggestion, error) {
	byDestination := map[string][]ledger.Edge{}
	for _, e := range edges {
		if e.Inbound() {
			byDestination[e.Destination] = append(byDestination[e.Destination], e)
		}
	}
	var out []Suggestion
	for _, name := range slices.Sorted(maps.Keys(byDestination)) {
		d := draft{destination: name, l7: l7, sources: map[connect.Source]*sourceDraft{}}
		if rules, known := current[name]; known {
			j, err := NewJudge(rules, peersOf(edges)...)
			if err != nil {
				return nil, err
			}
			d.judge = j
		}
		for _, e := range byDestination[name] {
			d.add(e, now)
		}
		out = append(out, d.suggestion())
	}
	return out, nil
}

// A draft collects what one service needs.
type draft struct {
	destination string
	l7          bool
	judge       *Judge // nil when the rules in force are not known
	sources     map[connect.Source]*sourceDraft
	notes       []string
	beyond      string // why there can be no suggestion
}

type sourceDraft struct {
	count     uint64
	last      time.Time
	narrow    bool // it has permissions now
	plain     bool // connections without HTTP were seen
	byMethods map[string][]string
}

func (d *draft) add(e ledger.Edge, now time.Time) {
	if !d.wanted(e, now) {
		return
	}
	id := identity(e)
	key := connect.Source{Peer: id.Peer, Partition: id.Partition, Namespace: id.Namespace, Name: id.Service}
	s := d.sources[key]
	if s == nil {
		s = &sourceDraft{byMethods: map[string][]string{}}
		d.sources[key] = s
	}
	s.count += e.Count
	if e.Last.After(s.last) {
		s.last = e.Last
	}
	if d.judge != nil {
		r := d.judge.rule(id)
		s.narrow = s.narrow || (r != nil && len(r.Permissions) > 0)
	}
	if e.Method == "" {
		s.plain = true
		return
	}
	s.byMethods[e.Path] = append(s.byMethods[e.Path], e.Method)
}

// wanted reports whether the edge is to be allowed on.
func (d *draft) wanted(e ledger.Edge, now time.Time) bool {
	if d.judge == nil {
		return e.Allowed
	}
	if r := d.judge.rule(identity(e)); r != nil && e.Allowed {
		for _, p := range append([]connect.Permission{{JWT: r.JWT}}, r.Permissions...) {
			switch {
			case p.JWT != nil:
				d.beyond = fmt.Sprintf("intention %q asks for a JWT, of which nothing is written down: keep it", r)
			case len(p.HTTP.Headers) > 0:
				d.beyond = fmt.Sprintf("intention %q looks at headers, of which nothing is written down: keep it", r)
			}
		}
	}
	f := d.judge.foresee(e, now)
	if e.Allowed && f.sure() && f.mayDeny {
		d.notes = append(d.notes, fmt.Sprintf("left out %s: it was allowed once and is %s", e, f.why))
	}
	return e.Allowed && f.mayAllow
}

func (d *draft) suggestion() Suggestion {
	s := Suggestion{Destination: d.destination, Notes: d.notes}
	switch {
	case d.beyond != "":
		s.Notes = append(s.Notes, d.beyond)
		return s
	case len(d.sources) == 0:
		s.Notes = append(s.Notes, "nobody was let in")
		return s
	}
	var w writer
	w.line("Kind = \"service-intentions\"")
	w.line("Name = %s", quote(d.destination))
	w.line("Sources = [")
	for _, key := range slices.SortedFunc(maps.Keys(d.sources), compareSources) {
		d.source(&w, key, d.sources[key])
	}
	for _, peer := range append([]string{""}, d.peers()...) {
		w.line("  {")
		w.line("    Name = \"*\"")
		if peer != "" {
			w.line("    Peer = %s", quote(peer))
		}
		w.line("    Action = \"deny\"")
		w.line("  },")
	}
	w.line("]")
	s.HCL = w.String()
	return s
}

// peers are those whose other services must be denied by name: an intention for
// all destinations may let them in, and "*" stands for our own services only.
func (d *draft) peers() []string {
	names := map[string]bool{}
	for source := range d.sources {
		names[source.Peer] = true
	}
	if d.judge != nil {
		for _, i := range d.judge.rules.Intentions {
			names[i.Source.Peer] = true
		}
	}
	delete(names, "")
	return slices.Sorted(maps.Keys(names))
}

func compareSources(a, b connect.Source) int {
	return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// source writes what one source may do.
func (d *draft) source(w *writer, key connect.Source, s *sourceDraft) {
	w.line("  # Calls seen: %d, the last at %s.", s.count, s.last.UTC().Format(time.RFC3339))
	w.line("  {")
	w.line("    Name = %s", quote(key.Name))
	for _, part := range [][2]string{{"Peer", key.Peer}, {"Namespace", key.Namespace}, {"Partition", key.Partition}} {
		if part[1] != "" && part[1] != connect.DefaultName {
			w.line("    %s = %s", part[0], quote(part[1]))
		}
	}
	if d.http() && (d.l7 || s.narrow) && !s.plain {
		s.permissions(w)
	} else {
		w.line("    Action = \"allow\"")
	}
	w.line("  },")
}

// http reports whether Consul takes permissions for the service.
func (d *draft) http() bool { return d.judge == nil || d.judge.rules.Protocol.Speaks() }

// permissions writes one for each form of path, and at last one that denies the
// rest, whatever the default policy is.
func (s *sourceDraft) permissions(w *writer) {
	w.line("    Permissions = [")
	for _, path := range slices.Sorted(maps.Keys(s.byMethods)) {
		w.line("      {")
		w.line("        Action = \"allow\"")
		w.line("        HTTP = {")
		w.line("          %s", pathMatcher(path))
		methods := slices.Compact(slices.Sorted(slices.Values(s.byMethods[path])))
		if !slices.Contains(methods, connect.Wildcard) {
			for i, m := range methods {
				methods[i] = quote(m)
			}
			w.line("          Methods = [%s]", strings.Join(methods, ", "))
		}
		w.line("        }")
		w.line("      },")
	}
	w.line("      {")
	w.line("        Action = \"deny\"")
	w.line("        HTTP = {")
	w.line("          PathPrefix = \"/\"")
	w.line("        }")
	w.line("      },")
	w.line("    ]")
}

// pathMatcher is the narrowest matcher that has every path of a form.
func pathMatcher(form string) string {
	stem, open := wide(form)
	switch {
	case form == "*":
		return `PathRegex = "\\*"` // an exact one must begin with a slash
	case !strings.Contains(stem, "{id}") && open:
		return "PathPrefix = " + quote(stem+"/")
	case !strings.Contains(stem, "{id}"):
		return "PathExact = " + quote(stem)
	}
	expression := strings.ReplaceAll(regexp.QuoteMeta(stem), `\{id\}`, `[^/]+`)
	if open {
		expression += "/.*"
	}
	return "PathRegex = " + quote(expression)
}

// quote writes text for both dialects of HCL: what would begin an interpolation
// is escaped.
func quote(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range text {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case (r == '$' || r == '%') && strings.HasPrefix(text[i+1:], "{"):
			fmt.Fprintf(&b, `\u%04x`, r)
		case !unicode.IsPrint(r): // what could steer a terminal, too
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// A writer writes lines.
type writer struct{ strings.Builder }

func (w *writer) line(format string, args ...any) { fmt.Fprintf(&w.Builder, format+"\n", args...) }
