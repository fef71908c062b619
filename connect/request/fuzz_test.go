// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"regexp"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

func FuzzMatch(f *testing.F) {
	f.Add("prefix", "/api", "/api/x?y", "a,b", false, false)
	f.Add("regex", "/a|/b", "/ab", "", false, true)
	f.Add("exact", "/K", "/\u212a", "K", true, true)
	f.Add("contains", "", "", "\xff", true, false)
	f.Fuzz(func(t *testing.T, kind, value, path, field string, fold, invert bool) {
		h := &connect.Head{Method: "GET", Path: path, Header: connect.Header{"X-F": {field}}}
		in := connect.HeaderMatch{Name: "x-f", Kind: connect.MatchKind(kind), Value: value, Invert: invert, IgnoreCase: fold}
		m, err := Compile(connect.RequestMatch{Headers: []connect.HeaderMatch{in}})
		if err != nil {
			return
		}
		got := m.Matches(h)
		in.Invert = !invert
		other, err := Compile(connect.RequestMatch{Headers: []connect.HeaderMatch{in}})
		if err != nil {
			t.Fatal(err)
		}
		if other.Matches(h) == got {
			t.Error("a match and its inverse agree on a field that is there")
		}
		// A missing field meets one matcher only.
		delete(h.Header, "X-F")
		if m.Matches(h) != (kind == "present" && invert) {
			t.Errorf("missing field: got %v", m.Matches(h))
		}
		if kind == "regex" {
			plain, err := regexp.Compile(value)
			if err != nil {
				t.Fatalf("compiled what is no pattern: %v", err)
			}
			if got != invert && !plain.MatchString(field) {
				t.Error("matches the whole, but no part of it")
			}
		}
		p, err := CompilePath(connect.PathMatch{Kind: connect.MatchKind(kind), Value: value, IgnoreCase: fold})
		if err != nil {
			return
		}
		if kind != "regex" && !fold && p.Matches(path) && !strings.HasPrefix(path, value) {
			t.Errorf("%s %q matches %q", kind, value, path)
		}
	})
}

func FuzzNormalize(f *testing.F) {
	for _, path := range []string{
		"/", "/a/../b", "/%2e%2E/x", "/a%2f..%5c..;/b?c#d", "//a\\..\\", "/%%32%65", "/\xff{|}", "/.//../%2e/", "*", "http://a/b", "/%255c%c0%ae",
	} {
		for flags := range uint8(8) {
			f.Add(path, "X_a", flags)
		}
	}
	f.Fuzz(func(t *testing.T, path, name string, flags uint8) {
		n := connect.Normalization{
			KeepPath: flags&1 != 0, MergeSlashes: flags&2 != 0,
			EscapedSlashes: []connect.SlashAction{connect.SlashKeep, connect.SlashReject, connect.SlashForward, connect.SlashRedirect}[flags>>2&3],
			Underscores:    []connect.UnderscoreAction{connect.UnderscoreAllow, connect.UnderscoreReject, connect.UnderscoreDrop, ""}[flags>>4&3],
		}
		h := &connect.Head{Method: "GET", Path: path, Header: connect.Header{name: {"v"}}}
		first := Normalize(n, h)
		if first.Status == 400 {
			return
		}
		once := h.Path
		checkNormal(t, n, path, once)
		// The path that a redirect leads to must go on, so apply it again too.
		again := Normalize(n, h)
		if h.Path != once || again.Status != 0 {
			t.Errorf("%q is %q, and then %q with %d", path, once, h.Path, again.Status)
		}
		if n.Underscores == connect.UnderscoreDrop && strings.Contains(name, "_") && len(h.Header) > 0 {
			t.Errorf("field %q is still there", name)
		}
		if first.Status == 307 {
			l := &connect.Head{Method: "GET", Path: first.Location}
			if n.KeepPath && strings.HasPrefix(first.Location, "/.//") {
				return
			}
			if out := Normalize(n, l); out.Status != 0 || l.Path != once {
				t.Errorf("redirect of %q to %q: %+v %q", path, first.Location, out, l.Path)
			}
		}
	})
}

// checkNormal holds what may never be left of a path.
func checkNormal(t *testing.T, n connect.Normalization, in, out string) {
	t.Helper()
	_, queryIn, _ := strings.Cut(in, "?")
	plain, queryOut, _ := strings.Cut(out, "?")
	if queryIn != queryOut {
		t.Errorf("query %q became %q", queryIn, queryOut)
	}
	if !strings.HasPrefix(plain, "/") {
		t.Fatalf("%q became %q", in, out)
	}
	for _, c := range []byte(out) {
		if c <= ' ' || c == 0x7f || c == '#' {
			t.Errorf("%q became %q, which holds %q", in, out, c)
		}
	}
	if n.MergeSlashes && strings.Contains(plain, "//") {
		t.Errorf("%q became %q with two slashes", in, out)
	}
	lower := strings.ToLower(plain)
	if n.EscapedSlashes != connect.SlashKeep && (strings.Contains(lower, "%2f") || strings.Contains(lower, "%5c")) {
		t.Errorf("%q became %q with an escaped slash", in, out)
	}
	if n.KeepPath {
		return
	}
	if strings.ContainsAny(plain, "\\\"<>^`{|}") || strings.Contains(lower, "%2e") || strings.Contains(lower, "%61") {
		t.Errorf("%q became %q, which is not its only spelling", in, out)
	}
	for segment := range strings.SplitSeq(plain, "/") {
		if segment == "." || segment == ".." {
			t.Errorf("%q became %q with a dot segment", in, out)
		}
	}
}

func FuzzRewrite(f *testing.F) {
	f.Add("/v1", "/", "/v1../x?y", false, false)
	f.Add("/v1", "/v2", "/v1/x", false, true)
	f.Add("/", "//", "/..", false, false)
	f.Add("/a", "b", "/A//", true, false)
	f.Fuzz(func(t *testing.T, value, to, path string, fold, exact bool) {
		match := connect.PathMatch{Kind: connect.MatchPrefix, Value: value, IgnoreCase: fold}
		if exact {
			match.Kind = connect.MatchExact
		}
		r, err := CompileRewrite(match, to)
		if err != nil {
			return
		}
		m, err := CompilePath(match)
		if err != nil {
			t.Fatal(err)
		}
		plain, query, found := strings.Cut(path, "?")
		out := r.Apply(path)
		if to == "" || !m.Matches(plain) {
			if out != path {
				t.Errorf("%q became %q", path, out)
			}
			return
		}
		if !strings.HasPrefix(out, "/") {
			t.Errorf("%q became %q", path, out)
		}
		if found && !strings.HasSuffix(out, "?"+query) || !found && strings.Contains(out, "?") {
			t.Errorf("%q became %q: another query", path, out)
		}
		if !hasDotSegment("/"+plain) && hasDotSegment(strings.TrimSuffix(out, "?"+query)) {
			t.Errorf("%q became %q, with a dot segment", path, out)
		}
		if to == "/" && !strings.Contains(plain, "//") && strings.HasPrefix(out, "//") {
			t.Errorf("%q became %q, with two slashes", path, out)
		}
	})
}

func FuzzFormat(f *testing.F) {
	f.Add("%REQ(x-a?:path):3% %% %NOPE% %", "a\r\nb", "/x")
	f.Add("%START_TIME(%s)%%%", "\x00", "")
	f.Add("%REQ(X-A)%%REQ(X-A)%", strings.Repeat("x", maxValue), "/")
	f.Fuzz(func(t *testing.T, in, field, path string) {
		compiled, problems := parseFormat(in)
		facts := &Facts{Request: &connect.Head{Path: path, Header: connect.Header{"X-A": {field}}}}
		out := compiled.value(facts)
		if strings.ContainsAny(out, "\r\n\x00") {
			t.Errorf("%q makes %q, which ends its field", in, out)
		}
		if len(out) > max(maxValue, len(in)) {
			t.Errorf("%q makes %d bytes", in, len(out))
		}
		if !strings.Contains(in, "%") && (out != clean(in) || len(problems) > 0) {
			t.Errorf("plain %q makes %q, %q", in, out, problems)
		}
		// What percent signs are doubled in is plain text.
		doubled, problems := parseFormat(strings.ReplaceAll(in, "%", "%%"))
		if got := doubled.value(facts); got != clean(in) || len(problems) > 0 {
			t.Errorf("%q doubled makes %q, %q", in, got, problems)
		}
	})
}
