// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package rehearse

import (
	"regexp"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/agent/ledger"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/request"
)

// A likelihood is whether a permission is about the calls of an edge.
type likelihood int

const (
	never likelihood = iota
	maybe
	always
)

// match says whether the HTTP part of a permission matches all, some or none of
// the calls of an edge, as far as the edge says.
func match(m connect.RequestMatch, e ledger.Edge) likelihood {
	out := matchPath(m.Path, e)
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, e.Method) {
		if e.Method != connect.Wildcard {
			return never
		}
		out = min(out, maybe)
	}
	if len(m.Headers)+len(m.Query) > 0 {
		out = min(out, maybe)
	}
	return out
}

func matchPath(m connect.PathMatch, e ledger.Edge) likelihood {
	// What every path of the edge begins with, and whether that is all.
	known, whole := e.Path, true
	if i := strings.Index(known, "{id}"); i >= 0 {
		known, whole = known[:i], false
	}
	if stem, open := wide(known); open {
		known, whole = stem+"/", false
	}
	value := m.Value
	if m.IgnoreCase {
		known, value = strings.ToLower(known), strings.ToLower(value)
	}
	switch m.Kind {
	case "":
		return always
	case connect.MatchPrefix:
		return begins(known, value, whole)
	case connect.MatchExact:
		switch {
		case whole && known == value:
			return always
		case !whole && strings.HasPrefix(value, known):
			return maybe
		}
		return never
	case connect.MatchRegex:
		return matchRegex(m, known, whole, e)
	}
	return maybe
}

// begins compares a prefix with what paths begin with.
func begins(known, prefix string, whole bool) likelihood {
	switch {
	case strings.HasPrefix(known, prefix):
		return always
	case !whole && strings.HasPrefix(prefix, known):
		return maybe
	}
	return never
}

// matchRegex takes an expression that matches the made-up path of a form for one
// that matches all paths of the form: the made-up one has their letters, digits
// and lengths in kind.
func matchRegex(m connect.PathMatch, known string, whole bool, e ledger.Edge) likelihood {
	matcher, err := request.Compile(connect.RequestMatch{Path: m})
	if err != nil {
		return maybe // the evaluator denies everything then
	}
	_, open := wide(e.Path)
	if open {
		matcher = matchRest(m.Value)
	}
	if matcher != nil && matcher.Matches(&connect.Head{Path: strings.TrimSuffix(e.Example(), rest(open))}) {
		return always
	}
	if whole {
		return never
	}
	if expression, err := regexp.Compile(m.Value); err == nil {
		if literal, _ := expression.LiteralPrefix(); !strings.HasPrefix(literal, known) && !strings.HasPrefix(known, literal) {
			return never
		}
	}
	return maybe
}

// rest is what an example has at its end that stands for any rest.
func rest(open bool) string {
	if open {
		return "x"
	}
	return ""
}

// matchRest returns a matcher for what an expression wants before any rest, nil
// when the expression does not end so for sure.
func matchRest(expression string) *request.Matcher {
	before, ok := strings.CutSuffix(expression, ".*")
	if !ok || strings.HasSuffix(before, `\`) || strings.Contains(before, "|") {
		return nil
	}
	matcher, err := request.Compile(connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchRegex, Value: before}})
	if err != nil {
		return nil
	}
	return matcher
}
