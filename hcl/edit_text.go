// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"bytes"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
)

// canonicalUnit is one step of indentation in canonical form.
const canonicalUnit = "  "

// render returns a block in canonical form, from the first column.
func render(b Block) string {
	var text strings.Builder
	writeBlock(&text, b)
	return string(hclwrite.Format([]byte(text.String())))
}

func writeBlock(text *strings.Builder, b Block) {
	text.WriteString(b.Type)
	for _, l := range b.Labels {
		text.WriteString(" " + renderValue(l))
	}
	if len(b.Attributes)+len(b.Blocks) == 0 {
		text.WriteString(" {}\n")
		return
	}
	text.WriteString(" {\n")
	for _, a := range b.Attributes {
		text.WriteString(renderAttribute(a))
	}
	for n, inner := range b.Blocks {
		if n > 0 || len(b.Attributes) > 0 {
			text.WriteString("\n")
		}
		writeBlock(text, inner)
	}
	text.WriteString("}\n")
}

func renderAttribute(a Attribute) string {
	return a.Name + " = " + renderValue(a.Value) + "\n"
}

// renderValue returns a value as an expression on one line. A value of another
// type than [Attribute] allows is a mistake of the program.
func renderValue(v any) string {
	var value cty.Value
	switch v := v.(type) {
	case string:
		value = cty.StringVal(v)
	case int:
		value = cty.NumberIntVal(int64(v))
	case bool:
		value = cty.BoolVal(v)
	case []string:
		items := make([]cty.Value, len(v))
		for n, s := range v {
			items[n] = cty.StringVal(s)
		}
		value = cty.TupleVal(items)
	default:
		panic("hcl: an attribute is a string, an int, a bool or a list of strings")
	}
	return string(hclwrite.TokensForValue(value).Bytes())
}

// oneLine reports whether a block opens and closes on one line.
func oneLine(b *hclsyntax.Block) bool {
	return b.OpenBraceRange.Start.Line == b.CloseBraceRange.Start.Line
}

// indented puts an indentation before every line that has text.
func (e editor) indented(text, indent string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if text := strings.TrimLeft(line, " "); text != "" {
			depth := (len(line) - len(text)) / len(canonicalUnit)
			out.WriteString(indent + strings.Repeat(e.unit(indent), depth) + text)
		}
		out.WriteString(e.newline)
	}
	return out.String()
}

// inner is the indentation inside a block: that of what is there, else one unit
// more than that of the block.
func (e editor) inner(b *hclsyntax.Block) string {
	first := len(e.src)
	for _, a := range b.Body.Attributes {
		first = min(first, a.SrcRange.Start.Byte)
	}
	for _, inner := range b.Body.Blocks {
		first = min(first, inner.TypeRange.Start.Byte)
	}
	outer := e.indentAt(b.TypeRange.Start.Byte)
	if first == len(e.src) || oneLine(b) {
		return outer + e.unit(outer)
	}
	return e.indentAt(first)
}

// unit is one step of indentation in a text that is indented like this.
func (e editor) unit(indent string) string {
	if strings.HasPrefix(indent, "\t") || indent == "" && bytes.Contains(e.src, []byte("\n\t")) {
		return "\t"
	}
	return canonicalUnit
}

// indentAt returns the blanks with which the line around a byte starts.
func (e editor) indentAt(at int) string {
	line := e.src[bytes.LastIndexByte(e.src[:at], '\n')+1:]
	return string(line[:len(line)-len(bytes.TrimLeft(line, " \t"))])
}

// lineEnd returns the first byte of the line after the one in which an attribute
// ends. Only the lexer knows which line breaks are part of a comment.
func (e editor) lineEnd(at int) int {
	if e.src[at-1] == '\n' {
		return at // a heredoc ends with its line
	}
	tokens, _ := hclsyntax.LexConfig(e.src, "", hcl.InitialPos)
	for _, t := range tokens {
		if t.Range.Start.Byte >= at && bytes.HasSuffix(t.Bytes, []byte("\n")) {
			return t.Range.End.Byte
		}
	}
	return len(e.src)
}

func trailingBlanks(text []byte) []byte {
	return text[len(bytes.TrimRight(text, " \t")):]
}
