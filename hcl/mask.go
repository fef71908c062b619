// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"bytes"
	"cmp"
	"regexp"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// secretName matches the end of a name whose value is not shown. Names that say
// where a secret is kept, such as token_file, do not match.
const secretName = `(?i)(?:token|secret|secret_?id|password|passwd|authorization|cookie|api[-_]?key)` //nolint:gosec // names that hold secrets, none itself

// findSecrets returns the stretches of a text that must not be shown, sorted and
// without overlap. It looks at lines and at tokens, not at the parsed file,
// because a torn file is shown too. It rather hides too much: the rest of a line
// is hidden with the secret, comments included.
func findSecrets(name string, text []byte) []span {
	var found []span
	assigned := regexp.MustCompile(secretName + `"?[ \t]*[=:][ \t]*`)
	done := 0
	for _, m := range assigned.FindAllIndex(text, -1) {
		if m[1] < done {
			continue // hidden already; a long line is not to be searched again and again
		}
		if line := lineAround(text, m[1]); m[1] < line.end {
			found = append(found, span{m[1], line.end})
			done = line.end
		}
	}
	// A user name and a password in a URL.
	for _, m := range regexp.MustCompile(`://[^/\s"@]*@`).FindAllIndex(text, -1) {
		found = append(found, span{m[0] + len("://"), m[1] - 1})
	}
	found = append(found, longSecrets(name, text)...)
	return merge(found)
}

// longSecrets finds values of more than one line: heredocs, lists, strings that
// were not closed.
func longSecrets(name string, text []byte) []span {
	tokens, _ := hclsyntax.LexConfig(text, name, hcl.InitialPos)
	last := regexp.MustCompile(secretName + `$`)
	var found []span
	done := 0
	for i, t := range tokens {
		if t.Range.Start.Byte < done {
			continue
		}
		if t.Type != hclsyntax.TokenEqual && t.Type != hclsyntax.TokenColon || i == 0 {
			continue
		}
		key := tokens[i-1]
		if key.Type == hclsyntax.TokenCQuote && i > 1 {
			key = tokens[i-2]
		}
		if !last.Match(key.Bytes) {
			continue
		}
		end := valueEnd(tokens[i+1:], len(text))
		done = end
		// The newline behind a value is not part of it.
		value := bytes.TrimRight(text[t.Range.End.Byte:end], "\r\n")
		found = append(found, span{t.Range.End.Byte + len(value) - len(bytes.TrimLeft(value, " \t")), t.Range.End.Byte + len(value)})
	}
	return found
}

// valueEnd returns the byte behind the value that begins the tokens: its line
// ends with no bracket open. A value that does not end hides the rest.
func valueEnd(tokens hclsyntax.Tokens, end int) int {
	depth := 0
	for _, t := range tokens {
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenOHeredoc,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			depth++
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCHeredoc, hclsyntax.TokenTemplateSeqEnd:
			depth--
		case hclsyntax.TokenNewline:
			if depth <= 0 {
				return t.Range.Start.Byte
			}
		}
		if depth < 0 {
			return t.Range.Start.Byte
		}
	}
	return end
}

// merge sorts spans and joins those that overlap.
func merge(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(a.start-b.start, a.end-b.end) })
	var merged []span
	for _, s := range spans {
		if n := len(merged); n > 0 && s.start <= merged[n-1].end {
			merged[n-1].end = max(merged[n-1].end, s.end)
			continue
		}
		if s.start < s.end {
			merged = append(merged, s)
		}
	}
	return merged
}
