// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// An Error is what is wrong with a configuration: diagnostics together with the
// lines they are about. Lines are shown without the secrets on them. An Error is
// immutable.
type Error struct {
	report Report
}

// A Report is the machine form of an [Error]; the text for people is made from it
// and says nothing else.
type Report struct {
	Valid       bool         `json:"valid"` // there are warnings at most
	Errors      int          `json:"error_count"`
	Warnings    int          `json:"warning_count"`
	Diagnostics []Diagnostic `json:"diagnostics"` // by file and line
}

// A Diagnostic is one problem.
type Diagnostic struct {
	Severity string   `json:"severity"` // error, warning
	Summary  string   `json:"summary"`
	Detail   string   `json:"detail"`            // with the remedy
	Range    *Range   `json:"range,omitempty"`   // nil when no place is to blame
	Snippet  *Snippet `json:"snippet,omitempty"` // nil with Range
}

// A Range is a stretch of a file.
type Range struct {
	Filename string   `json:"filename"`
	Start    Position `json:"start"`
	End      Position `json:"end"` // the first position behind it
}

// A Position is a place in a file.
type Position struct {
	Line   int `json:"line"`   // from 1
	Column int `json:"column"` // from 1, in characters as people see them
	Byte   int `json:"byte"`   // from 0
}

// A Snippet is the line where a range starts.
type Snippet struct {
	Context string `json:"context,omitempty"` // the blocks around it, outermost first
	Code    string `json:"code"`              // without secrets
	Line    int    `json:"line"`
	Start   int    `json:"highlight_start"` // byte in Code
	End     int    `json:"highlight_end"`   // byte in Code, not less than Start
}

// Error returns the first problem on one line and how many there are besides.
func (e *Error) Error() string {
	text := e.first().line()
	if others := len(e.report.Diagnostics) - 1; others > 0 {
		text += fmt.Sprintf(" (and %d more)", others)
	}
	return text
}

// Lines returns each problem on one line, warnings as such, for logs. The slice
// belongs to the caller.
func (e *Error) Lines() []string {
	var lines []string
	for _, d := range e.report.Diagnostics {
		if d.Severity == "warning" {
			d.Summary = "Warning: " + d.Summary
		}
		lines = append(lines, d.line())
	}
	return lines
}

// line is a problem on one line: place, what, remedy.
func (d Diagnostic) line() string {
	text := strings.ToLower(d.Summary[:1]) + d.Summary[1:] + ": " + d.Detail
	if d.Range != nil {
		text = fmt.Sprintf("%s:%d: %s", d.Range.Filename, d.Range.Start.Line, text)
	}
	return plain(strings.ReplaceAll(text, "\n", " "))
}

// first is the first error, or the first warning when there are only such.
func (e *Error) first() Diagnostic {
	i := slices.IndexFunc(e.report.Diagnostics, func(d Diagnostic) bool { return d.Severity == "error" })
	return e.report.Diagnostics[max(i, 0)]
}

// JSON returns the machine form; it belongs to the caller.
func (e *Error) JSON() Report {
	report := e.report
	report.Diagnostics = slices.Clone(report.Diagnostics)
	return report
}

// Write writes the diagnostics for people. Lines of prose are at most width
// characters wide, unless width is zero or less; color adds ANSI colours. The
// error is that of the writer.
func (e *Error) Write(w io.Writer, width int, color bool) error {
	for i, d := range e.report.Diagnostics {
		if i > 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return fmt.Errorf("write diagnostics: %w", err)
			}
		}
		if _, err := io.WriteString(w, renderText(d, width, color)); err != nil {
			return fmt.Errorf("write diagnostics: %w", err)
		}
	}
	return nil
}

// newError makes the report of all problems; there must be at least one, or the
// result is nil.
func newError(sources []*source, problems hcl.Diagnostics) *Error {
	if len(problems) == 0 {
		return nil
	}
	byName := map[string]*source{}
	order := map[string]int{}
	for i, s := range sources {
		byName[s.name], order[s.name] = s, i
	}
	e := &Error{}
	for _, p := range sorted(problems, order) {
		severity := "error"
		if p.Severity == hcl.DiagWarning {
			severity = "warning"
			e.report.Warnings++
		} else {
			e.report.Errors++
		}
		if len(e.report.Diagnostics) >= maxProblems {
			continue
		}
		d := Diagnostic{Severity: severity, Summary: strings.TrimSuffix(p.Summary, "."), Detail: p.Detail}
		if s := byName[subjectFile(p)]; s != nil {
			d.Range, d.Snippet = newRange(*p.Subject), s.snippet(*p.Subject)
			d.Summary, d.Detail = s.redact(*p.Subject, d.Summary), s.redact(*p.Subject, d.Detail)
		}
		e.report.Diagnostics = append(e.report.Diagnostics, d)
	}
	e.report.Valid = e.report.Errors == 0
	if more := len(problems) - maxProblems; more > 0 {
		severity := "error"
		if e.report.Valid {
			severity = "warning"
		}
		e.report.Diagnostics = append(e.report.Diagnostics, Diagnostic{Severity: severity, Summary: "Too many problems",
			Detail: fmt.Sprintf("%d more are not shown. Mend these first.", more)})
	}
	return e
}

// sorted orders problems by file and place, those of no place last. When there
// are too many to show, errors come before warnings.
func sorted(problems hcl.Diagnostics, order map[string]int) hcl.Diagnostics {
	byPlace := slices.Clone(problems)
	slices.SortStableFunc(byPlace, func(a, b *hcl.Diagnostic) int {
		if a.Subject == nil || b.Subject == nil {
			return cmp.Compare(missing(a), missing(b))
		}
		return cmp.Or(
			cmp.Compare(order[a.Subject.Filename], order[b.Subject.Filename]),
			cmp.Compare(a.Subject.Start.Byte, b.Subject.Start.Byte),
			cmp.Compare(a.Summary, b.Summary))
	})
	if len(byPlace) > maxProblems && byPlace.HasErrors() {
		slices.SortStableFunc(byPlace, func(a, b *hcl.Diagnostic) int { return cmp.Compare(a.Severity, b.Severity) })
	}
	return byPlace
}

func missing(d *hcl.Diagnostic) int {
	if d.Subject == nil {
		return 1
	}
	return 0
}

func subjectFile(d *hcl.Diagnostic) string {
	if d.Subject == nil {
		return ""
	}
	return d.Subject.Filename
}

func newRange(r hcl.Range) *Range {
	return &Range{Filename: r.Filename,
		Start: Position{Line: r.Start.Line, Column: r.Start.Column, Byte: r.Start.Byte},
		End:   Position{Line: r.End.Line, Column: r.End.Column, Byte: r.End.Byte}}
}
