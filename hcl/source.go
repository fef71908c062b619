// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// A source is one configuration text and what parsing it gave.
type source struct {
	name  string
	text  []byte
	body  *hclsyntax.Body // nil when the text must not be decoded
	diags hcl.Diagnostics
	hide  []span // where secrets stand; found when first needed
	found bool   // hide is valid
}

// newSource parses a text after checking that parsing it is safe.
func newSource(name string, text []byte) *source {
	s := &source{name: name, text: text}
	if s.diags = checkText(name, text); s.diags.HasErrors() {
		s.text = nil // its lines are not worth showing
		return s
	}
	if s.diags = checkLimits(name, text); s.diags.HasErrors() {
		return s
	}
	file, diags := hclsyntax.ParseConfig(text, name, hcl.InitialPos)
	s.diags = explainSyntax(diags)
	if diags.HasErrors() {
		return s // decoding what is left of a torn file would only mislead
	}
	s.body, _ = file.Body.(*hclsyntax.Body)
	return s
}

// checkText checks that a text is small enough and a text at all.
func checkText(name string, text []byte) hcl.Diagnostics {
	whole := hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}
	if len(text) > maxFileSize {
		return problem(whole, "File too large", fmt.Sprintf(
			"The file has %d bytes, more than the limit of %d. Split it into several files.", len(text), maxFileSize))
	}
	if !utf8.Valid(text) {
		return problem(whole, "File is not UTF-8 text", "Save the file in UTF-8, and check that it is a configuration file.")
	}
	return nil
}

// checkLimits looks at the tokens before anything recursive sees the text: the
// parser and the evaluator of HCL use stack for every bracket and operator, and
// the stack of a process is not to be filled by a file.
func checkLimits(name string, text []byte) hcl.Diagnostics {
	tokens, _ := hclsyntax.LexConfig(text, name, hcl.InitialPos)
	depth, operators := 0, 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
			operators++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd:
			depth--
		case hclsyntax.TokenNumberLit:
			if i := strings.IndexAny(string(t.Bytes), "eE"); i >= 0 && len(t.Bytes)-i-1 > maxExponent {
				return problem(t.Range, "Number out of range", "Write a number with a smaller exponent.")
			}
		default:
			if isOperator(t.Type) {
				operators++
			}
		}
		if depth > maxNesting {
			return problem(t.Range, "Too deeply nested", fmt.Sprintf(
				"More than %d brackets are open here. Close the ones that are not needed.", maxNesting))
		}
		if operators > maxOperators {
			return problem(t.Range, "File too complex", fmt.Sprintf(
				"The file has more than %d brackets and operators. Split it into several files.", maxOperators))
		}
	}
	return nil
}

// explainSyntax makes the most frequent syntax errors helpful: one quote that is
// missing gives one problem instead of one for each line behind it, and Consul's
// habit of several arguments on a line gets its remedy.
func explainSyntax(diags hcl.Diagnostics) hcl.Diagnostics {
	for i, d := range diags {
		switch d.Summary {
		case "Invalid multi-line string", "Unterminated template string":
			first := *d
			first.Summary, first.Detail = "Quote not closed", "Text on this line begins with a quote and has none at its end. Add it."
			return append(diags[:i:i], &first)
		case "Invalid single-argument block definition", "Missing newline after argument":
			d.Detail += " Write each argument on a line of its own."
		}
	}
	return diags
}

// isOperator reports whether a token may add a level to an expression's tree.
func isOperator(t hclsyntax.TokenType) bool {
	switch t {
	case hclsyntax.TokenStar, hclsyntax.TokenSlash, hclsyntax.TokenPlus, hclsyntax.TokenMinus, hclsyntax.TokenPercent,
		hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq,
		hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq, hclsyntax.TokenAnd, hclsyntax.TokenOr,
		hclsyntax.TokenBang, hclsyntax.TokenDot, hclsyntax.TokenQuestion:
		return true
	}
	return false
}

// problem is a list of one error.
func problem(at hcl.Range, summary, detail string) hcl.Diagnostics {
	return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &at}}
}

// secrets returns where secrets stand, in the order of the text.
func (s *source) secrets() []span {
	if !s.found {
		s.hide, s.found = findSecrets(s.name, s.text), true
	}
	return s.hide
}
