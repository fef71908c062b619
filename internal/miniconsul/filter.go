// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A filter is a conjunction of terms over one instance. It is the part of
// Consul's filter language that subsets are written in:
//
//	Service.Meta.version == "2" and "canary" not in Service.Tags
type filter []term

type term struct {
	meta   string // the key of Service.Meta; empty: the term is about Service.Tags
	value  string
	negate bool
}

const maxFilter = 4 << 10

// grammar is what a term looks like at the start of an expression: a value in
// quotes or a bare word.
const value = "(?:\"([^\"\\\\]*)\"|`([^`]*)`|([A-Za-z0-9_./:-]+))"

func metaTerm() *regexp.Regexp {
	return regexp.MustCompile(`^\s*Service\.Meta(?:\.([A-Za-z0-9_-]+)|\["([^"\\]+)"\])\s*(==|!=)\s*` + value)
}

func tagTerm() *regexp.Regexp {
	return regexp.MustCompile(`^\s*` + value + `\s+(not\s+)?in\s+Service\.Tags`)
}

// parseFilter reads an expression; an empty one matches everything. What it
// does not understand is an error: a filter that is guessed at would let
// traffic reach the wrong instances.
func parseFilter(text string) (filter, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if len(text) > maxFilter {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", len(text), maxFilter)
	}
	var out filter
	meta, tag := metaTerm(), tagTerm()
	and := regexp.MustCompile(`^\s+and\s`)
	for {
		t, rest, err := parseTerm(text, meta, tag)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
		if strings.TrimSpace(rest) == "" {
			return out, nil
		}
		if !and.MatchString(rest) {
			return nil, fmt.Errorf("at %.40q: %w", rest, errFilter)
		}
		text = rest[len(and.FindString(rest)):]
	}
}

var errFilter = errors.New(`the embedded mesh understands only Service.Meta.key == "value", !=, "tag" in Service.Tags, not in, and terms joined by and`)

func parseTerm(text string, meta, tag *regexp.Regexp) (term, string, error) {
	if m := meta.FindStringSubmatch(text); m != nil {
		return term{meta: m[1] + m[2], negate: m[3] == "!=", value: m[4] + m[5] + m[6]}, text[len(m[0]):], nil
	}
	if m := tag.FindStringSubmatch(text); m != nil {
		return term{value: m[1] + m[2] + m[3], negate: m[4] != ""}, text[len(m[0]):], nil
	}
	return term{}, "", fmt.Errorf("at %.40q: %w", text, errFilter)
}

func (f filter) match(d definition) bool {
	for _, t := range f {
		var is bool
		if t.meta != "" {
			is = d.Meta[t.meta] == t.value
			if _, has := d.Meta[t.meta]; !has {
				is = false
			}
		} else {
			is = slices.Contains(d.Tags, t.value)
		}
		if is == t.negate {
			return false
		}
	}
	return true
}
