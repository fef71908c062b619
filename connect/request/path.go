// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"fmt"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// A PathMatcher compares a path without its query. The zero value matches every
// path.
type PathMatcher struct {
	text textMatcher // kind "" matches every path
}

// CompilePath prepares a match of the path: exact, prefix or regex, or "" for
// every path.
func CompilePath(m connect.PathMatch) (PathMatcher, error) {
	switch m.Kind {
	case "":
		return PathMatcher{}, nil
	case connect.MatchExact, connect.MatchPrefix, connect.MatchRegex:
	default:
		return PathMatcher{}, fmt.Errorf("match path: kind is %q, want exact, prefix or regex", m.Kind)
	}
	text, err := compileText(m.Kind, m.Value, m.IgnoreCase)
	if err != nil {
		return PathMatcher{}, fmt.Errorf("match path: %w", err)
	}
	return PathMatcher{text: text}, nil
}

// Matches reports whether a path without its query is meant.
func (m PathMatcher) Matches(path string) bool {
	return m.text.kind == "" || m.text.matches(path)
}

// A Rewrite puts another path in the place of what a match has matched. The zero
// value leaves the path as it is (Consul, service-router: prefix_rewrite).
type Rewrite struct {
	match  PathMatcher
	to     string // "" leaves the path as it is
	prefix int    // bytes of the path that go; -1 for all
}

// CompileRewrite prepares a rewrite to the path to, in the place of the prefix
// or of the whole exact path that m matches; "" leaves the path as it is. Consul
// allows it with these two only: with a pattern or without a path to match it is
// an error, and so is a path with a query, a fragment or bytes that no path has.
func CompileRewrite(m connect.PathMatch, to string) (Rewrite, error) {
	if to == "" {
		return Rewrite{}, nil
	}
	if m.Kind != connect.MatchExact && m.Kind != connect.MatchPrefix {
		return Rewrite{}, fmt.Errorf("rewrite path to %q: only path_exact and path_prefix have a part that can be replaced", to)
	}
	if strings.ContainsAny(to, "?#") || badByte(to) >= 0 {
		return Rewrite{}, fmt.Errorf("rewrite path to %q: it must be a path without query, fragment, blanks and control characters", to)
	}
	match, err := CompilePath(m)
	if err != nil {
		return Rewrite{}, err
	}
	if to[0] != '/' {
		to = "/" + to
	}
	if m.Kind == connect.MatchExact {
		return Rewrite{match: match, to: removeDotSegments(to), prefix: -1}, nil
	}
	return Rewrite{match: match, to: to, prefix: len(m.Value)}, nil
}

// Apply returns a path, which may have a query, rewritten; its query is kept. A
// path that the match does not meet is returned as it is. The result starts with
// a slash and has no dot segment where the path had none.
//
// A rewrite to "/" takes one slash that follows the prefix with it, so that
// "/v1/x" without "/v1" is "/x". Any other rewrite is plain text for plain text,
// as in Envoy: "/v1/x" with "/v2/" for "/v1" is "/v2//x".
func (r Rewrite) Apply(path string) string {
	if r.to == "" {
		return path
	}
	plain, query := path, ""
	if i := strings.IndexByte(path, '?'); i >= 0 {
		plain, query = path[:i], path[i:]
	}
	if !r.match.Matches(plain) {
		return path
	}
	if r.prefix < 0 {
		return r.to + query
	}
	rest := plain[r.prefix:]
	if r.to == "/" {
		rest = strings.TrimPrefix(rest, "/")
	}
	out := r.to + rest
	// "/v1" stripped from "/v1../admin" is "/../admin": what was part of a name
	// must not become a way out of it.
	if hasDotSegment(out) && !hasDotSegment(plain) {
		out = removeDotSegments(out)
	}
	return out + query
}
