// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package request says what a request head means: whether it meets a match, what
// its path is once normalised or rewritten, how its header is edited and what it
// hashes to. It must not do I/O, read a clock or know how HTTP is spoken.
package request

import (
	"fmt"
	"net/textproto"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// A Matcher tells which requests are meant by a connect.RequestMatch. It never
// changes; safe for concurrent use. A nil Matcher matches every request.
type Matcher struct {
	path    PathMatcher
	methods []string
	headers []fieldMatcher
	query   []queryMatcher
}

// Compile prepares a match. A pattern that is not RE2 or is too large, a field
// without a name and an unknown kind are errors.
func Compile(m connect.RequestMatch) (*Matcher, error) {
	path, err := CompilePath(m.Path)
	if err != nil {
		return nil, err
	}
	out := &Matcher{path: path}
	for _, method := range m.Methods {
		// Methods are case-sensitive (RFC 9110, 9.1); Consul upper-cases them as
		// it stores them.
		out.methods = append(out.methods, strings.ToUpper(method))
	}
	for _, h := range m.Headers {
		c, err := compileField(h)
		if err != nil {
			return nil, fmt.Errorf("match header %q: %w", h.Name, err)
		}
		out.headers = append(out.headers, c)
	}
	for _, q := range m.Query {
		c, err := compileQuery(q)
		if err != nil {
			return nil, fmt.Errorf("match query parameter %q: %w", q.Name, err)
		}
		out.query = append(out.query, c)
	}
	return out, nil
}

// Matches reports whether the request meets everything that is asked for. It
// allocates nothing, except to join repeated fields and inside of regular
// expressions.
func (m *Matcher) Matches(h *connect.Head) bool {
	if m == nil {
		return true
	}
	if len(m.methods) > 0 && !slices.Contains(m.methods, h.Method) {
		return false
	}
	if !m.path.Matches(h.PathOnly()) {
		return false
	}
	for i := range m.headers {
		if !m.headers[i].matches(h) {
			return false
		}
	}
	for i := range m.query {
		if !m.query[i].matches(h.Query()) {
			return false
		}
	}
	return true
}

// A fieldMatcher compares one field of the head.
type fieldMatcher struct {
	name   string // as canonical returns it
	text   textMatcher
	invert bool
}

func compileField(h connect.HeaderMatch) (fieldMatcher, error) {
	if h.Name == "" {
		return fieldMatcher{}, fmt.Errorf("it has no name")
	}
	text, err := compileText(h.Kind, h.Value, h.IgnoreCase)
	return fieldMatcher{name: canonical(h.Name), text: text, invert: h.Invert}, err
}

func (m *fieldMatcher) matches(h *connect.Head) bool {
	// Presence needs no value, so repeated fields are not joined for it.
	if m.text.kind == connect.MatchPresent {
		return present(h, m.name) != m.invert
	}
	value, ok := lookup(h, m.name)
	if !ok {
		// Also where the match is inverted: a missing field must not open what
		// the match was to close (connect.HeaderMatch).
		return false
	}
	return m.text.matches(value) != m.invert
}

// canonical returns the name under which lookup finds a field: lower case for
// pseudo headers, the form of connect.Header for others. Host is a pseudo header
// by another name: engines keep it out of the header.
func canonical(name string) string {
	if strings.HasPrefix(name, ":") {
		return strings.ToLower(name)
	}
	if name = textproto.CanonicalMIMEHeaderKey(name); name == "Host" {
		return ":authority"
	}
	return name
}

// lookup returns a field, a pseudo header included. An unknown pseudo header is
// never there.
func lookup(h *connect.Head, name string) (string, bool) {
	if name == "" || name[0] != ':' {
		return h.Header.Lookup(name)
	}
	var value string
	switch name {
	case ":authority":
		value = h.Authority
	case ":method":
		value = h.Method
	case ":path":
		value = h.Path
	case ":scheme":
		value = h.Scheme
	}
	return value, value != ""
}

func present(h *connect.Head, name string) bool {
	if name != "" && name[0] != ':' {
		return len(h.Header[name]) > 0
	}
	_, ok := lookup(h, name)
	return ok
}

// A queryMatcher compares the first value of one parameter, as it is written:
// escapes in names and values are not decoded, as in Envoy.
type queryMatcher struct {
	name string
	text textMatcher
}

func compileQuery(q connect.QueryMatch) (queryMatcher, error) {
	if q.Name == "" {
		return queryMatcher{}, fmt.Errorf("it has no name")
	}
	switch q.Kind {
	case connect.MatchPresent, connect.MatchExact, connect.MatchRegex:
	default:
		return queryMatcher{}, fmt.Errorf("kind is %q, want present, exact or regex", q.Kind)
	}
	text, err := compileText(q.Kind, q.Value, false)
	return queryMatcher{name: q.Name, text: text}, err
}

func (m *queryMatcher) matches(query string) bool {
	value, ok := parameter(query, m.name)
	return ok && m.text.matches(value)
}

// parameter returns the first value of a query parameter, undecoded.
func parameter(query, name string) (string, bool) {
	for query != "" {
		var part string
		part, query, _ = strings.Cut(query, "&")
		if key, value, _ := strings.Cut(part, "="); key == name && part != "" {
			return value, true
		}
	}
	return "", false
}
