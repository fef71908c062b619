// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// Patterns come from config entries that somebody else may write, and every
// request is held against them: their size is the time that takes.
const (
	maxPattern = 4 << 10 // bytes of a pattern
	maxProgram = 20_000  // instructions of a compiled pattern
)

// A textMatcher compares one text.
type textMatcher struct {
	kind  connect.MatchKind
	value string
	fold  bool           // letters of ASCII are compared without case
	regex *regexp.Regexp // anchored at both ends; for regex only
}

func compileText(kind connect.MatchKind, value string, fold bool) (textMatcher, error) {
	m := textMatcher{kind: kind, value: value, fold: fold}
	switch kind {
	case connect.MatchPresent, connect.MatchExact, connect.MatchPrefix, connect.MatchSuffix, connect.MatchContains:
		return m, nil
	case connect.MatchRegex:
		// Case-insensitive patterns say so themselves: (?i).
		m.fold = false
		var err error
		m.regex, err = compileRegex(value)
		return m, err
	}
	return m, fmt.Errorf("kind is %q, want present, exact, prefix, suffix, contains or regex", kind)
}

func (m *textMatcher) matches(text string) bool {
	switch m.kind {
	case connect.MatchPresent:
		return true
	case connect.MatchRegex:
		return m.regex.MatchString(text)
	case connect.MatchExact:
		return len(text) == len(m.value) && m.equal(text)
	case connect.MatchPrefix:
		return len(text) >= len(m.value) && m.equal(text[:len(m.value)])
	case connect.MatchSuffix:
		return len(text) >= len(m.value) && m.equal(text[len(text)-len(m.value):])
	case connect.MatchContains:
		return m.contains(text)
	}
	return false
}

// equal compares with a text of the same length.
func (m *textMatcher) equal(text string) bool {
	if !m.fold {
		return text == m.value
	}
	// Not strings.EqualFold: it knows that the Kelvin sign is a K, and the
	// application behind us does not.
	for i := range len(text) {
		if lower(text[i]) != lower(m.value[i]) {
			return false
		}
	}
	return true
}

func (m *textMatcher) contains(text string) bool {
	if !m.fold {
		return strings.Contains(text, m.value)
	}
	for i := 0; i+len(m.value) <= len(text); i++ {
		if m.equal(text[i : i+len(m.value)]) {
			return true
		}
	}
	return false
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// compileRegex compiles a pattern that must match the whole text.
func compileRegex(pattern string) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("regular expression of %d bytes is longer than %d: match on a prefix or split it", len(pattern), maxPattern)
	}
	// On its own first: "a)|(b" is a pattern only between our parentheses, and
	// would slip out of the anchors.
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", pattern, err)
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", pattern, err)
	}
	if len(program.Inst) > maxProgram {
		return nil, fmt.Errorf("regular expression %q has %d steps, more than %d: repeat less", pattern, len(program.Inst), maxProgram)
	}
	whole, err := regexp.Compile(`\A(?:` + pattern + `)\z`)
	if err != nil {
		return nil, fmt.Errorf("regular expression %q: %w", pattern, err)
	}
	return whole, nil
}
