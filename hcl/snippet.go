// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// maxSnippet is how many bytes of a line are shown.
const maxSnippet = 200

// A span is a stretch of bytes.
type span struct{ start, end int }

// snippet takes the line where a range starts, without secrets. Hiding a secret
// changes lengths, so the highlight moves along.
func (s *source) snippet(r hcl.Range) *Snippet {
	line := lineAround(s.text, r.Start.Byte)
	at := span{min(max(r.Start.Byte, line.start), line.end), min(max(r.End.Byte, line.start), line.end)}
	var code strings.Builder
	var shown span
	done := line.start
	// copyTo appends the text up to a byte and notes where the highlight falls.
	copyTo := func(end int) {
		if at.start >= done && at.start <= end {
			shown.start = code.Len() + at.start - done
		}
		if at.end >= done && at.end <= end {
			shown.end = code.Len() + at.end - done
		}
		code.Write(s.text[done:end])
		done = end
	}
	for _, secret := range s.secrets() {
		from, to := max(secret.start, line.start, done), min(secret.end, line.end)
		if from >= to {
			continue
		}
		copyTo(from)
		before := code.Len()
		code.WriteString(hidden)
		if at.start > from && at.start < to {
			shown.start = before
		}
		if at.end > from && at.end <= to {
			shown.end = code.Len()
		}
		done = to
	}
	copyTo(line.end)
	text, visible := clip(code.String())
	shown.start = min(shown.start, visible)
	shown.end = min(max(shown.end, shown.start), visible)
	return &Snippet{Context: s.context(r.Start.Byte), Code: text, Line: r.Start.Line, Start: shown.start, End: shown.end}
}

// redact takes from a message what it quotes of a secret: a token without its
// quotes, say, is a word that nobody knows, and messages name such words.
func (s *source) redact(r hcl.Range, message string) string {
	for _, secret := range s.secrets() {
		from, to := max(secret.start, r.Start.Byte), min(secret.end, r.End.Byte)
		if from >= to {
			continue
		}
		word := strings.Trim(string(s.text[from:to]), "\" \t\r\n")
		if word == "" || word == "env(" || word == "file(" {
			continue // nothing is secret about it, and remedies name it
		}
		message = strings.ReplaceAll(message, `"`+word+`"`, hidden)
		if len(word) >= 4 { // less would tear words of ours
			message = strings.ReplaceAll(message, word, hidden)
		}
	}
	return message
}

// clip shortens a line that nobody would read to its end, and returns how many
// bytes of it are left.
func clip(code string) (text string, visible int) {
	if len(code) <= maxSnippet {
		return code, len(code)
	}
	cut := maxSnippet
	for cut > 0 && !utf8.RuneStart(code[cut]) {
		cut--
	}
	return code[:cut] + "…", cut
}

// lineAround is the line that holds a byte, without its line end.
func lineAround(text []byte, at int) span {
	at = min(max(at, 0), len(text))
	line := span{start: bytes.LastIndexByte(text[:at], '\n') + 1, end: len(text)}
	if next := bytes.IndexByte(text[at:], '\n'); next >= 0 {
		line.end = at + next
	}
	if line.end > line.start && text[line.end-1] == '\r' {
		line.end--
	}
	return line
}

// context names the blocks around a place, outermost first; a service with its
// name, because there may be many.
func (s *source) context(at int) string {
	var words []string
	body := s.body
	for body != nil {
		var inside *hclsyntax.Block
		for _, block := range body.Blocks {
			if r := block.Range(); r.Start.Byte <= at && at < r.End.Byte {
				inside = block
			}
		}
		if inside == nil {
			break
		}
		words = append(words, blockName(inside))
		body = inside.Body
	}
	return strings.Join(words, " > ")
}

func blockName(block *hclsyntax.Block) string {
	var name strings.Builder
	name.WriteString(block.Type)
	for _, label := range block.Labels {
		fmt.Fprintf(&name, " %q", label)
	}
	if attr := block.Body.Attributes["name"]; attr != nil && block.Type == "service" {
		if value, diags := attr.Expr.Value(nil); !diags.HasErrors() {
			if text, ok := stringOf(value); ok {
				fmt.Fprintf(&name, " %q", text)
			}
		}
	}
	return name.String()
}
