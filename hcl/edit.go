// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

// A Step names one block inside another.
type Step struct {
	Type   string
	Labels []string // nil: whatever the labels are
	Index  int      // among the blocks of this type and these labels, from 0
}

// An Attribute is a name with a value: a string, an int, a bool or a []string.
// A string stands for exactly these characters; what looks like interpolation in
// it reaches the reader of the file as it is.
type Attribute struct {
	Name  string
	Value any
}

// A Block is a block to be written.
type Block struct {
	Type       string
	Labels     []string
	Attributes []Attribute
	Blocks     []Block
}

// A Change is one change of a text. Exactly one of Set and Put is given.
type Change struct {
	// In is the way from the top of the file to the block that is changed.
	In []Step

	// Set gives an attribute this value, in place of the one it has.
	Set *Attribute

	// Put writes a block at the end of the body, in place of the first block of
	// this type and these labels when there is one. With Add it is written next
	// to those that are there.
	Put *Block
	Add bool
}

// Edit changes a text and leaves every byte alone that the changes do not name:
// comments, order, formatting. A text in canonical form stays in it, for which
// equals signs next to a new line may move. The changes apply in their order. The
// error is an [*Error] when the text is not valid HCL, else it names the change
// that has no place; name is the name of the file for messages.
func Edit(name string, src []byte, changes []Change) ([]byte, error) {
	canonical := bytes.Equal(hclwrite.Format(src), src)
	out := src
	for _, c := range changes {
		next, err := edit(name, out, c)
		if err != nil {
			return nil, err
		}
		out = next
	}
	if canonical && len(changes) > 0 {
		out = hclwrite.Format(out)
	}
	return out, nil
}

func edit(name string, src []byte, c Change) ([]byte, error) {
	s := newSource(name, src)
	if s.diags.HasErrors() {
		return nil, newError([]*source{s}, s.diags)
	}
	e := editor{src: src, newline: newlineOf(src)}
	block, path, err := find(s.body, c.In)
	if err != nil {
		return nil, fmt.Errorf("edit %s: %w", name, err)
	}
	var cut splice
	switch {
	case c.Set != nil:
		cut = e.set(block, *c.Set)
	case c.Put != nil:
		cut = e.put(block, *c.Put, c.Add)
	}
	out := slices.Concat(src[:cut.start], []byte(cut.text), src[cut.end:])
	if newSource(name, out).diags.HasErrors() {
		return nil, fmt.Errorf("edit %s: the text around %s leaves no place for another line; put its parts on lines of their own", name, path)
	}
	return out, nil
}

// A splice replaces the bytes from start to end.
type splice struct {
	start, end int
	text       string
}

// find returns the block at the end of the way, and the way for people.
func find(body *hclsyntax.Body, steps []Step) (block *hclsyntax.Block, path string, err error) {
	for _, step := range steps {
		path = strings.TrimPrefix(path+" > "+step.String(), " > ")
		if block, err = step.in(body); err != nil {
			return nil, path, fmt.Errorf("%s: %w", path, err)
		}
		body = block.Body
	}
	if block == nil {
		return nil, path, errors.New("a change names no block")
	}
	return block, path, nil
}

// in returns the block that a step leads to.
func (s Step) in(body *hclsyntax.Body) (*hclsyntax.Block, error) {
	left := s.Index
	for _, b := range body.Blocks {
		if b.Type == "dynamic" && len(b.Labels) == 1 && b.Labels[0] == s.Type {
			return nil, fmt.Errorf("line %d generates these blocks by dynamic %q, so there is no text of one", b.TypeRange.Start.Line, s.Type)
		}
	}
	for _, b := range body.Blocks {
		if b.Type != s.Type || s.Labels != nil && !slices.Equal(b.Labels, s.Labels) {
			continue
		}
		if left == 0 {
			return b, nil
		}
		left--
	}
	return nil, fmt.Errorf("there is no such block in the text")
}

// String names the step as people count.
func (s Step) String() string {
	words := []string{s.Type}
	for _, l := range s.Labels {
		words = append(words, fmt.Sprintf("%q", l))
	}
	if s.Index > 0 {
		words = append(words, fmt.Sprintf("number %d", s.Index+1))
	}
	return strings.Join(words, " ")
}

// editor makes the text of one change.
type editor struct {
	src     []byte
	newline string
}

func newlineOf(src []byte) string {
	if bytes.Contains(src, []byte("\r\n")) {
		return "\r\n"
	}
	return "\n"
}

func (e editor) set(b *hclsyntax.Block, a Attribute) splice {
	if old := b.Body.Attributes[a.Name]; old != nil {
		r := old.Expr.Range()
		text := renderValue(a.Value)
		if r.End.Byte > r.Start.Byte && e.src[r.End.Byte-1] == '\n' {
			text += e.newline // a heredoc ends with its line
		}
		return splice{r.Start.Byte, r.End.Byte, text}
	}
	text := renderAttribute(a)
	last := b.OpenBraceRange.End.Byte
	for _, old := range b.Body.Attributes {
		last = max(last, old.SrcRange.End.Byte)
	}
	if oneLine(b) || last == b.OpenBraceRange.End.Byte && len(b.Body.Blocks) == 0 {
		return e.atEnd(b, text)
	}
	// Behind the attributes, where a reader looks for it: at the end of the line
	// of the last one, whose comment stays with it.
	end := e.lineEnd(last)
	return splice{end, end, e.indented(text, e.inner(b))}
}

func (e editor) put(b *hclsyntax.Block, block Block, add bool) splice {
	text := render(block)
	if !add {
		for _, old := range b.Body.Blocks {
			if old.Type == block.Type && slices.Equal(old.Labels, block.Labels) {
				return e.instead(old.TypeRange.Start.Byte, old.CloseBraceRange.End.Byte, e.indentAt(old.TypeRange.Start.Byte), text)
			}
		}
	}
	if len(b.Body.Attributes)+len(b.Body.Blocks) > 0 {
		text = "\n" + text // an empty line sets a block off
	}
	return e.atEnd(b, text)
}

// instead replaces a stretch that starts behind the indentation of its line.
func (e editor) instead(start, end int, indent, text string) splice {
	text = strings.TrimRight(e.indented(text, indent), "\r\n")
	return splice{start, end, strings.TrimPrefix(text, indent)}
}

// atEnd writes lines before the closing brace of a block. A block on one line
// becomes one of several lines, since a second argument is not allowed there.
func (e editor) atEnd(b *hclsyntax.Block, text string) splice {
	open, shut := b.OpenBraceRange.End.Byte, b.CloseBraceRange.Start.Byte
	indent := e.indentAt(b.TypeRange.Start.Byte)
	if oneLine(b) {
		lines := e.newline
		if inner := strings.TrimSpace(string(e.src[open:shut])); inner != "" {
			lines += e.inner(b) + inner + e.newline
		}
		return splice{open, shut, lines + e.indented(text, e.inner(b)) + indent}
	}
	start := shut - len(trailingBlanks(e.src[:shut]))
	if e.src[start-1] != '\n' {
		// A comment shares the line with the brace.
		return splice{start, shut, e.newline + e.indented(text, e.inner(b)) + indent}
	}
	return splice{start, start, e.indented(text, e.inner(b))}
}
