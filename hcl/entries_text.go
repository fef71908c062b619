// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// An entryParser reads the HCL of Consul's config entries. That is the first
// version of the language, in which blocks may stand within objects and commas
// may be left out; the tokens of both versions are the same. It fills nothing
// in: there are no variables, functions and templates.
type entryParser struct {
	tokens hclsyntax.Tokens // without comments
	at     int
	failed *hcl.Diagnostic // the first mistake; reading ends there
}

// hclEntry reads a whole text. checkLimits has bounded its depth.
func hclEntry(name string, src []byte) (any, hcl.Diagnostics) {
	tokens, diags := hclsyntax.LexConfig(src, name, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, explainSyntax(diags)
	}
	tokens = slices.DeleteFunc(tokens, func(t hclsyntax.Token) bool {
		// A comment of a line has its end in it, which ends nothing here.
		return t.Type == hclsyntax.TokenComment
	})
	p := &entryParser{tokens: tokens}
	value := p.object(hclsyntax.TokenEOF)
	if p.failed != nil {
		return nil, hcl.Diagnostics{p.failed}
	}
	return value, nil
}

func (p *entryParser) peek() hclsyntax.Token { return p.tokens[min(p.at, len(p.tokens)-1)] }

func (p *entryParser) next() hclsyntax.Token {
	t := p.peek()
	p.at++
	return t
}

// skip passes over line ends, and over commas where they are free to stand.
func (p *entryParser) skip(commas bool) {
	for t := p.peek().Type; t == hclsyntax.TokenNewline || (commas && t == hclsyntax.TokenComma); t = p.peek().Type {
		p.at++
	}
}

func (p *entryParser) fail(t hclsyntax.Token, summary, detail string) {
	if p.failed == nil {
		p.failed = problem(t.Range, summary, detail)[0]
	}
}

// object reads names and values up to the token that ends them.
func (p *entryParser) object(end hclsyntax.TokenType) map[string]any {
	out := map[string]any{}
	blocks := map[string][]any{}
	for {
		p.skip(true)
		t := p.peek()
		if t.Type == end {
			p.at++
			break
		}
		name := p.name()
		if p.failed != nil {
			return nil
		}
		value, block := p.assigned(name)
		_, twice := out[name]
		if list, before := blocks[name]; p.failed == nil && (twice && (!block || !before)) {
			p.fail(t, fmt.Sprintf("%q is given twice", name), "Keep one of the two.")
		} else if block {
			blocks[name] = append(list, value)
		}
		if p.failed != nil {
			return nil
		}
		out[name] = value
		if len(blocks[name]) > 1 {
			out[name] = blocks[name]
		}
	}
	return out
}

// name reads the name of a value: a word or a text in quotes.
func (p *entryParser) name() string {
	switch t := p.next(); t.Type {
	case hclsyntax.TokenIdent:
		return string(t.Bytes)
	case hclsyntax.TokenOQuote:
		return p.quoted(t)
	case hclsyntax.TokenEOF:
		p.fail(t, "Brace not closed", "A brace is open at the end of the file. Add the one that closes it.")
	default:
		p.fail(t, "A name is missing", fmt.Sprintf("%q stands where the name of a value should. Check the brackets and quotes before it.", t.Bytes))
	}
	return ""
}

// assigned reads what a name is given.
func (p *entryParser) assigned(name string) (value any, block bool) {
	switch t := p.next(); t.Type {
	case hclsyntax.TokenEqual, hclsyntax.TokenColon:
		p.skip(false)
		return p.value(), false
	case hclsyntax.TokenOBrace:
		return p.object(hclsyntax.TokenCBrace), true
	case hclsyntax.TokenOQuote, hclsyntax.TokenIdent:
		p.fail(t, fmt.Sprintf("%q has no label", name), "Remove the label, or add an equals sign before the value.")
	default:
		p.fail(t, "A value is missing", fmt.Sprintf("Write %s = …, or %s { … }.", name, name))
	}
	return nil, false
}

func (p *entryParser) value() any {
	const remedy = "Write text in quotes, a number, true, false, a list or a block; nothing is filled in here."
	switch t := p.next(); t.Type {
	case hclsyntax.TokenOQuote:
		return p.quoted(t)
	case hclsyntax.TokenOHeredoc:
		return p.heredoc(t)
	case hclsyntax.TokenOBrace:
		return p.object(hclsyntax.TokenCBrace)
	case hclsyntax.TokenOBrack:
		return p.list()
	case hclsyntax.TokenMinus, hclsyntax.TokenNumberLit:
		text := string(t.Bytes)
		if t.Type == hclsyntax.TokenMinus {
			text += string(p.next().Bytes)
		}
		if !json.Valid([]byte(text)) {
			p.fail(t, "Value cannot be read", remedy)
		}
		return json.Number(text)
	case hclsyntax.TokenIdent:
		switch string(t.Bytes) {
		case "true", "false":
			return t.Bytes[0] == 't'
		}
		p.fail(t, "A value must be written out", remedy)
	default:
		p.fail(t, "Value cannot be read", remedy)
	}
	return nil
}

func (p *entryParser) list() any {
	out := []any{}
	for {
		p.skip(false)
		if p.peek().Type == hclsyntax.TokenCBrack {
			p.at++
			return out
		}
		out = append(out, p.value())
		p.skip(false)
		switch t := p.peek(); {
		case p.failed != nil:
			return nil
		case t.Type == hclsyntax.TokenComma:
			p.at++
		case t.Type != hclsyntax.TokenCBrack:
			p.fail(t, "Comma or bracket missing", "Elements of a list are parted by commas, and a bracket ends it.")
			return nil
		}
	}
}

// quoted reads the rest of a text in quotes.
func (p *entryParser) quoted(open hclsyntax.Token) string {
	var raw strings.Builder
	for {
		switch t := p.next(); t.Type {
		case hclsyntax.TokenQuotedLit:
			raw.Write(t.Bytes)
		case hclsyntax.TokenCQuote:
			text, err := strconv.Unquote(`"` + raw.String() + `"`)
			if err != nil {
				p.fail(open, "Text cannot be read", `A backslash in it begins no escape. Write "\\" for a backslash.`)
			}
			return text
		case hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			p.fail(t, "Nothing is filled in here", `For text with "${" or "%{" write "\u0024{" or "\u0025{".`)
			return ""
		default:
			p.fail(open, "Quote not closed", "Text on this line begins with a quote and has none at its end. Add it.")
			return ""
		}
	}
}

// heredoc reads a text of whole lines. With "<<-" the white space that all lines
// begin with is not part of it.
func (p *entryParser) heredoc(open hclsyntax.Token) string {
	var lines []string
	for {
		switch t := p.next(); t.Type {
		case hclsyntax.TokenStringLit:
			lines = append(lines, strings.SplitAfter(string(t.Bytes), "\n")...)
		case hclsyntax.TokenCHeredoc:
			if strings.HasPrefix(string(open.Bytes), "<<-") {
				lines = dedent(lines)
			}
			return strings.Join(lines, "")
		default:
			p.fail(t, "Nothing is filled in here", `A text of several lines cannot hold "${" or "%{"; write it in quotes, with "\n".`)
			return ""
		}
	}
}

func dedent(lines []string) []string {
	common := -1
	for _, line := range lines {
		if strings.TrimSpace(line) == "" {
			continue
		}
		if width := len(line) - len(strings.TrimLeft(line, " \t")); common < 0 || width < common {
			common = width
		}
	}
	out := slices.Clone(lines)
	for i, line := range out {
		out[i] = line[min(max(common, 0), len(line)-len(strings.TrimLeft(line, " \t"))):]
	}
	return out
}
