// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/connect/request"
)

// Formats come from a config entry, and each line costs what they ask for.
const (
	maxFormat   = 64 << 10 // bytes of a format
	maxCommands = 256      // in a format
	maxDepth    = 16       // of objects and arrays in one another
)

// A parser makes the parts of one format.
type parser struct {
	facts    Facts
	secrets  map[string]bool // canonical names
	warnings []string

	parts    []part
	literal  strings.Builder // text before the next part
	commands int
	ofHeader bool // the command that is compiled asks for a header field
}

// line parses a text_format.
func (p *parser) line(format string) ([]part, error) {
	format = strings.TrimSuffix(format, "\n")
	if err := p.begin("text_format", format); err != nil {
		return nil, err
	}
	p.text(format, false)
	return p.end("text_format")
}

// object parses a json_format: an object, at any depth of which strings hold
// commands. Keys are sorted, as Envoy sorts them.
func (p *parser) object(format string) ([]part, error) {
	if err := p.begin("json_format", format); err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(format))
	d.UseNumber()
	var tree map[string]any
	if err := d.Decode(&tree); err != nil {
		return nil, fmt.Errorf("json_format is not a JSON object: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("json_format holds more than one JSON object")
	}
	if tree == nil {
		return nil, errors.New("json_format is null, not a JSON object")
	}
	if err := p.value(tree, 0); err != nil {
		return nil, err
	}
	return p.end("json_format")
}

func (p *parser) begin(name, format string) error {
	p.parts, p.commands = nil, 0
	p.literal.Reset()
	if len(format) > maxFormat {
		return fmt.Errorf("%s is longer than %d bytes", name, maxFormat)
	}
	return nil
}

func (p *parser) end(name string) ([]part, error) {
	if p.commands > maxCommands {
		return nil, fmt.Errorf("%s has more than %d commands", name, maxCommands)
	}
	if p.literal.Len() > 0 {
		p.parts = append(p.parts, part{literal: p.literal.String()})
	}
	return slices.Clip(p.parts), nil
}

// value parses a value of JSON.
func (p *parser) value(v any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("json_format has more than %d levels", maxDepth)
	}
	switch v := v.(type) {
	case map[string]any:
		return p.fields(v, depth)
	case []any:
		p.literal.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				p.literal.WriteByte(',')
			}
			if err := p.value(e, depth+1); err != nil {
				return err
			}
		}
		p.literal.WriteByte(']')
	case string:
		p.quoted(v)
	case json.Number:
		p.literal.WriteString(v.String())
	case bool:
		fmt.Fprintf(&p.literal, "%t", v)
	default:
		p.literal.WriteString("null")
	}
	return nil
}

func (p *parser) fields(object map[string]any, depth int) error {
	p.literal.WriteByte('{')
	for i, key := range slices.Sorted(maps.Keys(object)) {
		if i > 0 {
			p.literal.WriteByte(',')
		}
		p.literal.WriteByte('"')
		p.literal.Write(escape([]byte(key), 0, maxFormat, true))
		p.literal.WriteString(`":`)
		if err := p.value(object[key], depth+1); err != nil {
			return err
		}
	}
	p.literal.WriteByte('}')
	return nil
}

// quoted parses a string of JSON. One that is a command and nothing else becomes
// a value with the command's type.
func (p *parser) quoted(s string) {
	if rest, ok := strings.CutPrefix(s, "%"); ok {
		if c, after, ok := request.CutCommand(rest); ok && after == "" {
			p.add(part{operator: p.compile(c), typed: true, json: true})
			return
		}
	}
	p.literal.WriteByte('"')
	p.text(s, true)
	p.literal.WriteByte('"')
}

// text parses text with commands between percent signs, "%%" for one percent
// sign.
func (p *parser) text(s string, inJSON bool) {
	literal := func(text string) {
		if inJSON {
			text = string(escape([]byte(text), 0, maxFormat, true))
		}
		p.literal.WriteString(text)
	}
	for {
		before, rest, found := strings.Cut(s, "%")
		literal(before)
		if !found {
			return
		}
		if after, doubled := strings.CutPrefix(rest, "%"); doubled {
			p.literal.WriteByte('%')
			s = after
			continue
		}
		c, after, ok := request.CutCommand(rest)
		if !ok {
			p.warn("a percent sign starts no command and stays; write %% for a percent sign")
			p.literal.WriteByte('%')
			s = rest
			continue
		}
		s = after
		p.add(part{operator: p.compile(c), json: inJSON})
	}
}

// add ends the literal text with a part.
func (p *parser) add(next part) {
	p.commands++
	next.literal = p.literal.String()
	p.literal.Reset()
	p.parts = append(p.parts, next)
}

// warn keeps a warning, once and no more than a few.
func (p *parser) warn(text string) {
	const most = 20
	if len(p.warnings) < most && !slices.Contains(p.warnings, text) {
		p.warnings = append(p.warnings, text)
	}
}
