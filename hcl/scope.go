// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// A scope decodes one object: every name is asked for once, and end reports
// those that nobody asked for.
type scope struct {
	d     *decoder
	o     *object
	known []string // names asked for: what "did you mean" chooses from
	taken []bool   // by index of o.fields
}

// scope begins the decoding of an object.
func (d *decoder) scope(o *object) *scope {
	return &scope{d: d, o: o, taken: make([]bool, len(o.fields))}
}

// path is the path of a name in this object.
func (s *scope) path(name string) string {
	if s.o.path == "" {
		return name
	}
	return s.o.path + "." + name
}

// fold is the form in which names are compared. Inside a service it ignores
// case and underscores, because Consul accepts CheckID, checkid and check_id in
// service definitions; the rest of the language is ours and has one spelling.
func (s *scope) fold(name string) string {
	if !strings.HasPrefix(s.o.path, "service") {
		return name
	}
	return strings.ToLower(strings.ReplaceAll(name, "_", ""))
}

// take marks and returns the fields with a name or one of its aliases.
func (s *scope) take(name string, aliases ...string) []field {
	s.known = append(s.known, name)
	return s.find(name, aliases...)
}

// find is take without offering the name as a suggestion.
func (s *scope) find(name string, aliases ...string) []field {
	names := []string{s.fold(name)}
	for _, alias := range aliases {
		names = append(names, s.fold(alias))
	}
	var found []field
	for i, f := range s.o.fields {
		if !s.taken[i] && slices.Contains(names, s.fold(f.name)) {
			s.taken[i] = true
			found = append(found, f)
		}
	}
	return found
}

// argument returns the expression of a name that may be given once; nil when it
// is absent or null.
func (s *scope) argument(name string, aliases ...string) hclsyntax.Expression {
	var given *field
	for _, f := range s.take(name, aliases...) {
		switch {
		case f.block != nil:
			s.d.bad(s.path(name), f.nameRange, fmt.Sprintf("%q is not a block", f.name),
				fmt.Sprintf("Write it with an equals sign: %s = …", f.name))
		case isNull(f.expr):
		case given != nil:
			s.d.err(f.nameRange, fmt.Sprintf("%q is given twice", f.name), fmt.Sprintf(
				"It stands at %s already. Keep one of the two.", where(given.nameRange)))
		default:
			given = &f
		}
	}
	if given == nil {
		return nil
	}
	s.d.pos[s.path(name)] = place{at: given.expr.Range()}
	return given.expr
}

// block returns the object of a name that may be given once, and an empty object
// when it is absent.
func (s *scope) block(name string) (o *object, given bool) {
	fields := s.take(name)
	s.noLabels(fields)
	found := s.d.objects(s.path(name), fields, false)
	if len(found) == 0 {
		return &object{path: s.path(name), def: s.o.def}, false
	}
	for _, again := range found[1:] {
		s.d.err(again.def, fmt.Sprintf("Second %q block", name), fmt.Sprintf(
			"The first one is at %s, and there can be one only. Merge the two.", where(found[0].def)))
	}
	return found[0], true
}

// blocks returns the objects of a name that may be repeated.
func (s *scope) blocks(name string, aliases ...string) []*object {
	fields := s.take(name, aliases...)
	s.noLabels(fields)
	return s.d.objects(s.path(name), fields, true)
}

// noLabels reports labels of blocks that have none.
func (s *scope) noLabels(fields []field) {
	for _, f := range fields {
		if f.block != nil && len(f.block.Labels) > 0 {
			s.d.err(f.block.LabelRanges[0], fmt.Sprintf("%q has no label", f.name), fmt.Sprintf(
				"Remove %q; a name belongs inside the block.", f.block.Labels[0]))
		}
	}
}

// A refusal is a name that is known and not accepted, with its reason.
type refusal struct{ name, why string }

// refuse reports names that people may bring along from other places, with what
// to do instead of a bare "unknown". The summary has one %q for the name.
func (s *scope) refuse(summary string, refusals []refusal) {
	for _, r := range refusals {
		for _, f := range s.find(r.name) {
			s.d.bad(s.path(r.name), f.nameRange, fmt.Sprintf(summary, f.name), r.why)
		}
	}
}

// ignore warns about names that are accepted and do nothing.
func (s *scope) ignore(refusals []refusal) {
	for _, r := range refusals {
		for _, f := range s.find(r.name) {
			s.d.diags = append(s.d.diags, &hcl.Diagnostic{Severity: hcl.DiagWarning, Subject: f.nameRange.Ptr(),
				Summary: fmt.Sprintf("%q has no effect", f.name), Detail: r.why})
		}
	}
}

// end reports the names that nobody asked for.
func (s *scope) end() {
	for i, f := range s.o.fields {
		if s.taken[i] {
			continue
		}
		detail := "The names here are " + strings.Join(slices.Sorted(slices.Values(s.known)), ", ") + "."
		if near := suggest(f.name, s.known); near != "" {
			detail = fmt.Sprintf("Did you mean %q?", near)
		}
		s.d.err(f.nameRange, fmt.Sprintf("Unknown name %q", f.name), detail)
	}
}

// where names a place in words: file:line.
func where(r hcl.Range) string {
	return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line)
}
