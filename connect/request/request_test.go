// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

func TestWhatCannotBeMatchedIsAnError(t *testing.T) {
	field := func(kind connect.MatchKind, value string) connect.RequestMatch {
		return connect.RequestMatch{Headers: []connect.HeaderMatch{{Name: "x-a", Kind: kind, Value: value}}}
	}
	for _, tc := range []struct {
		name string
		in   connect.RequestMatch
		want string
	}{
		{"broken pattern", field(connect.MatchRegex, "a("), `match header "x-a": regular expression "a(": `},
		{"pattern that leaves its anchors", field(connect.MatchRegex, "a)|(b"), "regular expression"},
		{"pattern that looks ahead", field(connect.MatchRegex, "(?!a)"), "regular expression"},
		{"long pattern", field(connect.MatchRegex, strings.Repeat("a", maxPattern+1)), "longer than 4096"},
		{"large pattern", field(connect.MatchRegex, strings.Repeat("a{1000}", 100)), "steps, more than"},
		{"kind of field", field("glob", "a*"), `kind is "glob"`},
		{"no kind of field", field("", "a"), `kind is ""`},
		{"field without a name", connect.RequestMatch{Headers: []connect.HeaderMatch{{Kind: connect.MatchPresent}}}, "no name"},
		{"kind of path", connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchSuffix, Value: "/a"}}, "match path: kind"},
		{"pattern of path", connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchRegex, Value: "["}}, "match path: regular"},
		{"kind of parameter", connect.RequestMatch{Query: []connect.QueryMatch{{Name: "a", Kind: connect.MatchPrefix}}}, `parameter "a": kind`},
		{"parameter without a name", connect.RequestMatch{Query: []connect.QueryMatch{{Kind: connect.MatchPresent}}}, "no name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Compile(tc.in); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestNilMatcherMatchesEverything(t *testing.T) {
	var m *Matcher
	if !m.Matches(&connect.Head{}) {
		t.Error("nil does not match the empty head")
	}
}

func TestMethodsOfAMatchAreUpperCasedAndThoseOfARequestAreNot(t *testing.T) {
	m, err := Compile(connect.RequestMatch{Methods: []string{"get"}})
	if err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]bool{"GET": true, "get": false, "": false} {
		if got := m.Matches(&connect.Head{Method: method, Path: "/"}); got != want {
			t.Errorf("%q: got %v", method, got)
		}
	}
}

func TestUnknownPseudoHeadersAreMissing(t *testing.T) {
	for _, invert := range []bool{false, true} {
		m, err := Compile(connect.RequestMatch{Headers: []connect.HeaderMatch{{Name: ":protocol", Kind: connect.MatchPresent, Invert: invert}}})
		if err != nil {
			t.Fatal(err)
		}
		h := &connect.Head{Path: "/", Header: connect.Header{":protocol": {"websocket"}}}
		if got := m.Matches(h); got != invert {
			t.Errorf("invert %v: got %v", invert, got)
		}
	}
}

func TestCaseIsFoldedInASCIIOnly(t *testing.T) {
	// U+212A is the Kelvin sign, which Unicode folds to k.
	for _, kind := range []connect.MatchKind{connect.MatchExact, connect.MatchPrefix, connect.MatchSuffix, connect.MatchContains} {
		m, err := compileText(kind, "k", true)
		if err != nil {
			t.Fatal(err)
		}
		if !m.matches("K") || m.matches("\u212a") {
			t.Errorf("%s: K %v, Kelvin %v", kind, m.matches("K"), m.matches("\u212a"))
		}
	}
}

// busy has one of everything that a match without patterns can ask for.
func busy() connect.RequestMatch {
	return connect.RequestMatch{
		Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/API", IgnoreCase: true},
		Headers: []connect.HeaderMatch{
			{Name: "x-env", Kind: connect.MatchExact, Value: "prod"},
			{Name: "x-role", Kind: connect.MatchContains, Value: "ADMIN", IgnoreCase: true},
			{Name: "x-none", Kind: connect.MatchPresent, Invert: true},
			{Name: ":authority", Kind: connect.MatchSuffix, Value: ".test"},
		},
		Query:   []connect.QueryMatch{{Name: "v", Kind: connect.MatchExact, Value: "2"}},
		Methods: []string{"GET", "POST"},
	}
}

func busyHead() *connect.Head {
	return &connect.Head{
		Method: "POST", Scheme: "http", Authority: "api.test", Path: "/api/x?a=b&v=2",
		Header: connect.Header{"X-Env": {"prod"}, "X-Role": {"super-admin"}},
	}
}

func TestMatchingAllocatesNothing(t *testing.T) {
	m, err := Compile(busy())
	if err != nil {
		t.Fatal(err)
	}
	h := busyHead()
	if !m.Matches(h) {
		t.Fatal("no match")
	}
	if n := testing.AllocsPerRun(100, func() { m.Matches(h) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNormalizingANormalPathAllocatesNothing(t *testing.T) {
	h := &connect.Head{Method: "GET", Path: "/api/v1/users/42?x=%2f"}
	if n := testing.AllocsPerRun(100, func() { Normalize(connect.Normalization{MergeSlashes: true}, h) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	m, err := Compile(busy())
	if err != nil {
		b.Fatal(err)
	}
	h := busyHead()
	b.ReportAllocs()
	for b.Loop() {
		m.Matches(h)
	}
}
