// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// A wirePermissionMatch is the HTTP part of a permission. Consul 1.22 sends
// these keys and no others; it leaves out those that are not set.
type wirePermissionMatch struct {
	PathExact, PathPrefix, PathRegex string
	Header                           []wireHeaderMatch
	Methods                          []string
}

// A wireRouteMatch is the HTTP part of a route's match. Its headers have no
// Contains and no IgnoreCase yet; they would mean what they do in permissions.
type wireRouteMatch struct {
	PathExact, PathPrefix, PathRegex string
	CaseInsensitive                  bool
	Header                           []wireHeaderMatch
	QueryParam                       []wireQueryMatch
	Methods                          []string
}

type wireHeaderMatch struct {
	Name                                   string
	Present                                bool
	Exact, Prefix, Suffix, Contains, Regex string
	Invert, IgnoreCase                     bool
}

type wireQueryMatch struct {
	Name         string
	Present      bool
	Exact, Regex string
}

func (w *wirePermissionMatch) convert() (connect.RequestMatch, error) {
	if w.PathExact == "" && w.PathPrefix == "" && w.PathRegex == "" && len(w.Header) == 0 && len(w.Methods) == 0 {
		return connect.RequestMatch{}, errors.New("it matches on nothing")
	}
	path, err := convertPath(w.PathExact, w.PathPrefix, w.PathRegex, false)
	if err != nil {
		return connect.RequestMatch{}, err
	}
	headers, err := convertHeaderMatches(w.Header)
	if err != nil {
		return connect.RequestMatch{}, err
	}
	methods, err := convertMethods(w.Methods)
	return connect.RequestMatch{Path: path, Headers: headers, Methods: methods}, err
}

func (w *wireRouteMatch) convert() (connect.RequestMatch, error) {
	path, err := convertPath(w.PathExact, w.PathPrefix, w.PathRegex, w.CaseInsensitive)
	if err != nil {
		return connect.RequestMatch{}, err
	}
	headers, err := convertHeaderMatches(w.Header)
	if err != nil {
		return connect.RequestMatch{}, err
	}
	query, err := convertQuery(w.QueryParam)
	if err != nil {
		return connect.RequestMatch{}, err
	}
	methods, err := convertMethods(w.Methods)
	return connect.RequestMatch{Path: path, Headers: headers, Query: query, Methods: methods}, err
}

// A choice is one of several matchers of which exactly one must be set.
type choice struct {
	kind  connect.MatchKind
	value string
	set   bool
}

// choose returns the matcher that is set; more than one is an error. Consul
// leaves out what is empty, so that an empty text is no matcher.
func choose(choices ...choice) (choice, error) {
	var chosen choice
	for _, c := range choices {
		if !c.set {
			continue
		}
		if chosen.set {
			return choice{}, fmt.Errorf("%s and %s are both set, only one may be", chosen.kind, c.kind)
		}
		chosen = c
	}
	if len(chosen.value) > maxText {
		return choice{}, fmt.Errorf("%s: %d bytes, at most %d are read", chosen.kind, len(chosen.value), maxText)
	}
	if chosen.kind == connect.MatchRegex {
		// Consul stores expressions that do not compile.
		if _, err := regexp.Compile(chosen.value); err != nil {
			return choice{}, fmt.Errorf("regular expression %q: %w: it must be one of RE2", chosen.value, err)
		}
	}
	return chosen, nil
}

func ofText(kind connect.MatchKind, value string) choice { return choice{kind, value, value != ""} }

func convertPath(exact, prefix, regex string, ignoreCase bool) (connect.PathMatch, error) {
	c, err := choose(ofText(connect.MatchExact, exact), ofText(connect.MatchPrefix, prefix), ofText(connect.MatchRegex, regex))
	if err != nil {
		return connect.PathMatch{}, fmt.Errorf("path: %w", err)
	}
	if c.set && c.kind != connect.MatchRegex && !strings.HasPrefix(c.value, "/") {
		return connect.PathMatch{}, fmt.Errorf("path: %s %q does not begin with \"/\"", c.kind, c.value)
	}
	return connect.PathMatch{Kind: c.kind, Value: c.value, IgnoreCase: ignoreCase && c.set && c.kind != connect.MatchRegex}, nil
}

func convertHeaderMatches(list []wireHeaderMatch) ([]connect.HeaderMatch, error) {
	if err := sizes("headers to match", len(list), maxMatchers); err != nil {
		return nil, err
	}
	var matches []connect.HeaderMatch
	for _, w := range list {
		m, err := w.convert()
		if err != nil {
			return nil, fmt.Errorf("header %q: %w", w.Name, err)
		}
		matches = append(matches, m)
	}
	return matches, nil
}

func (w wireHeaderMatch) convert() (connect.HeaderMatch, error) {
	if len(w.Name) > maxText || !isToken(strings.TrimPrefix(w.Name, ":")) {
		return connect.HeaderMatch{}, errors.New("no field can have this name")
	}
	c, err := choose(choice{connect.MatchPresent, "", w.Present}, ofText(connect.MatchExact, w.Exact), ofText(connect.MatchPrefix, w.Prefix),
		ofText(connect.MatchSuffix, w.Suffix), ofText(connect.MatchContains, w.Contains), ofText(connect.MatchRegex, w.Regex))
	switch {
	case err != nil:
		return connect.HeaderMatch{}, err
	case !c.set:
		return connect.HeaderMatch{}, errors.New("it has no matcher")
	case w.IgnoreCase && (c.kind == connect.MatchPresent || c.kind == connect.MatchRegex):
		return connect.HeaderMatch{}, fmt.Errorf("%s cannot ignore case", c.kind)
	}
	return connect.HeaderMatch{Name: w.Name, Kind: c.kind, Value: c.value, Invert: w.Invert, IgnoreCase: w.IgnoreCase}, nil
}

func convertQuery(list []wireQueryMatch) ([]connect.QueryMatch, error) {
	if err := sizes("query parameters to match", len(list), maxMatchers); err != nil {
		return nil, err
	}
	var matches []connect.QueryMatch
	for _, w := range list {
		c, err := choose(choice{connect.MatchPresent, "", w.Present}, ofText(connect.MatchExact, w.Exact), ofText(connect.MatchRegex, w.Regex))
		switch {
		case err != nil:
			return nil, fmt.Errorf("query parameter %q: %w", w.Name, err)
		case w.Name == "" || len(w.Name) > maxText:
			return nil, errors.New("a query parameter has no name, or one that is too long")
		case !c.set:
			return nil, fmt.Errorf("query parameter %q: it has no matcher", w.Name)
		}
		matches = append(matches, connect.QueryMatch{Name: w.Name, Kind: c.kind, Value: c.value})
	}
	return matches, nil
}

// convertMethods writes methods in upper case, as Consul stores them.
func convertMethods(list []string) ([]string, error) {
	if err := sizes("methods", len(list), maxMatchers, list...); err != nil {
		return nil, err
	}
	var methods []string
	for _, name := range list {
		if !isToken(name) {
			return nil, fmt.Errorf("%q is not a method", name)
		}
		methods = append(methods, strings.ToUpper(name))
	}
	return methods, nil
}

type wireHeaderEdits struct {
	Add, Set map[string]string
	Remove   []string
}

// convertEdits refuses what would make another field or none: Consul stores
// names and values with line breaks in them.
func convertEdits(w *wireHeaderEdits) (connect.HeaderEdits, error) {
	if w == nil {
		return connect.HeaderEdits{}, nil
	}
	if err := sizes("header edits", len(w.Add)+len(w.Set)+len(w.Remove), maxMatchers, w.Remove...); err != nil {
		return connect.HeaderEdits{}, err
	}
	for _, fields := range []map[string]string{w.Add, w.Set} {
		for name, value := range fields {
			if err := sizes("header edits", 0, 0, name, value); err != nil {
				return connect.HeaderEdits{}, err
			}
			if !isToken(name) {
				return connect.HeaderEdits{}, fmt.Errorf("%q is not the name of a header field", name)
			}
			if !isFieldValue(value) {
				return connect.HeaderEdits{}, fmt.Errorf("header %q: the value has control characters", name)
			}
		}
	}
	for _, name := range w.Remove {
		if !isToken(name) {
			return connect.HeaderEdits{}, fmt.Errorf("%q is not the name of a header field", name)
		}
	}
	return connect.HeaderEdits{Add: w.Add, Set: w.Set, Remove: w.Remove}, nil
}
