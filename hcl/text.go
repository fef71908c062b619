// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// palette holds the ANSI sequences of a text; all empty without colour.
type palette struct{ strong, severity, faint, reset string }

func newPalette(severity string, color bool) palette {
	if !color {
		return palette{}
	}
	p := palette{strong: "\x1b[1m", severity: "\x1b[1;31m", faint: "\x1b[2m", reset: "\x1b[0m"}
	if severity == "warning" {
		p.severity = "\x1b[1;33m"
	}
	return p
}

// renderText writes one diagnostic: what is wrong, where, the line, the remedy.
func renderText(d Diagnostic, width int, color bool) string {
	p := newPalette(d.Severity, color)
	var b strings.Builder
	label := strings.ToUpper(d.Severity[:1]) + d.Severity[1:]
	fmt.Fprintf(&b, "%s%s%s: %s%s%s\n", p.severity, label, p.reset, p.strong, plain(d.Summary), p.reset)
	if d.Range != nil && d.Snippet != nil {
		b.WriteString("\n")
		place := fmt.Sprintf("  on %s line %d", plain(d.Range.Filename), d.Range.Start.Line)
		if d.Snippet.Context != "" {
			place += ", in " + plain(d.Snippet.Context)
		}
		fmt.Fprintf(&b, "%s:\n", place)
		renderSnippet(&b, d.Snippet, p)
	}
	if d.Detail != "" {
		b.WriteString("\n")
		for line := range strings.SplitSeq(d.Detail, "\n") {
			b.WriteString(wrap(plain(line), width))
		}
	}
	return b.String()
}

// renderSnippet writes the line and marks under what is meant. The marks repeat
// the tabs before them, so that they stand right at any tab width.
func renderSnippet(b *strings.Builder, s *Snippet, p palette) {
	number := fmt.Sprintf("%4d: ", s.Line)
	fmt.Fprintf(b, "%s%s%s%s\n", p.faint, number, p.reset, plain(s.Code))
	indent := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, s.Code[:s.Start])
	marks := strings.Repeat("^", max(1, utf8.RuneCountInString(s.Code[s.Start:s.End])))
	fmt.Fprintf(b, "%s%s%s%s%s\n", strings.Repeat(" ", len(number)), indent, p.severity, marks, p.reset)
}

// plain replaces control characters: what a file holds must not steer the
// terminal that shows it.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (r < ' ' || r >= 0x7f && r < 0xa0) {
			return '\uFFFD'
		}
		return r
	}, text)
}

// wrap breaks a line between words; a word longer than the width stays whole.
func wrap(line string, width int) string {
	if width <= 0 {
		return line + "\n"
	}
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(line) {
		length := utf8.RuneCountInString(word)
		switch {
		case column == 0:
		case column+1+length > width:
			b.WriteString("\n")
			column = 0
		default:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += length
	}
	b.WriteString("\n")
	return b.String()
}
