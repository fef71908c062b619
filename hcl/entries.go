// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/hcl/v2"
)

// An Entry is one config entry of Consul as a file writes it (Consul, consul
// config write). What its names mean is not looked at.
type Entry struct {
	File string
	// JSON is an object. Names are spelt as in the file; a block stands as an
	// object, several of one name as a list of objects.
	JSON []byte
}

// LoadEntries reads config entries, one a file, from files and directories. Of a
// directory it takes the files whose names end in ".hcl" or ".json" as [Load]
// does.
//
// The error is an [*Error] when the content is at fault, of the first file that
// is.
func LoadEntries(paths ...string) ([]Entry, error) {
	files, err := expand(paths, ".hcl", ".json")
	if err != nil {
		return nil, err
	}
	var entries []Entry
	for _, name := range files {
		text, err := readLimited(name)
		if err != nil {
			return nil, fmt.Errorf("read config entry %q: %w%s", name, reason(err), permissionRemedy(err))
		}
		entry, err := ParseEntry(name, text)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// ParseEntry reads one config entry from a text: JSON when it begins with a
// brace, else HCL. The error is always an [*Error].
func ParseEntry(name string, src []byte) (Entry, error) {
	s := &source{name: name, text: src}
	var value any
	if bytes.HasPrefix(bytes.TrimSpace(src), []byte("{")) {
		if s.diags = checkText(name, src); !s.diags.HasErrors() {
			value, s.diags = jsonEntry(name, src)
		}
	} else if s.diags = append(checkText(name, src), checkLimits(name, src)...); !s.diags.HasErrors() {
		value, s.diags = hclEntry(name, src)
	}
	if s.diags.HasErrors() {
		return Entry{}, newError([]*source{s}, s.diags)
	}
	text, err := json.Marshal(value)
	if err != nil {
		return Entry{}, newError([]*source{s}, problem(hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}, "Config entry cannot be read", sentence(err)))
	}
	return Entry{File: name, JSON: text}, nil
}

// jsonEntry reads JSON in which no name stands twice in one object, so that no
// two readers of the file can disagree.
func jsonEntry(name string, src []byte) (any, hcl.Diagnostics) {
	decoder := json.NewDecoder(bytes.NewReader(src))
	decoder.UseNumber()
	value, err := jsonValue(decoder, 0)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("something follows after its end; write one config entry a file")
		}
	}
	if err == nil {
		return value, nil
	}
	offset := decoder.InputOffset()
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = syntax.Offset
	}
	before := src[:min(max(0, int(offset)), len(src))]
	line := bytes.Count(before, []byte("\n"))
	at := hcl.Pos{Line: line + 1, Column: len(before) - bytes.LastIndexByte(before, '\n'), Byte: len(before)}
	return nil, problem(hcl.Range{Filename: name, Start: at, End: at}, "Config entry is not JSON", sentence(err))
}

func jsonValue(decoder *json.Decoder, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("more than %d brackets are open", maxNesting)
	}
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		out := map[string]any{}
		for decoder.More() {
			key, err := decoder.Token()
			if err != nil {
				return nil, err
			}
			name, _ := key.(string)
			if _, twice := out[name]; twice {
				return nil, fmt.Errorf("%q is given twice", name)
			}
			if out[name], err = jsonValue(decoder, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = decoder.Token()
		return out, err
	case json.Delim('['):
		out := []any{}
		for decoder.More() {
			one, err := jsonValue(decoder, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		}
		_, err = decoder.Token()
		return out, err
	}
	return token, nil
}
