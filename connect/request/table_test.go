// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

// wireMatch is the HTTP part of a route or a permission in Consul's names.
type wireMatch struct {
	PathExact, PathPrefix, PathRegex string
	CaseInsensitive                  bool
	Header                           []wireField
	QueryParam                       []wireParameter
	Methods                          []string
}

type wireField struct {
	Name, Exact, Prefix, Suffix, Contains, Regex string
	Present, Invert, IgnoreCase                  bool
}

type wireParameter struct {
	Name, Exact, Regex string
	Present            bool
}

func (w wireMatch) match() connect.RequestMatch {
	kind, value := oneOf(false, w.PathExact, w.PathPrefix, "", "", w.PathRegex)
	m := connect.RequestMatch{Methods: w.Methods, Path: connect.PathMatch{Kind: kind, Value: value, IgnoreCase: w.CaseInsensitive}}
	for _, h := range w.Header {
		kind, value := oneOf(h.Present, h.Exact, h.Prefix, h.Suffix, h.Contains, h.Regex)
		m.Headers = append(m.Headers, connect.HeaderMatch{Name: h.Name, Kind: kind, Value: value, Invert: h.Invert, IgnoreCase: h.IgnoreCase})
	}
	for _, q := range w.QueryParam {
		kind, value := oneOf(q.Present, q.Exact, "", "", "", q.Regex)
		m.Query = append(m.Query, connect.QueryMatch{Name: q.Name, Kind: kind, Value: value})
	}
	return m
}

func oneOf(present bool, exact, prefix, suffix, contains, regex string) (connect.MatchKind, string) {
	switch {
	case present:
		return connect.MatchPresent, ""
	case exact != "":
		return connect.MatchExact, exact
	case prefix != "":
		return connect.MatchPrefix, prefix
	case suffix != "":
		return connect.MatchSuffix, suffix
	case contains != "":
		return connect.MatchContains, contains
	case regex != "":
		return connect.MatchRegex, regex
	}
	return "", ""
}

type wireHead struct {
	Method, Authority, Path string
	Header                  connect.Header
}

func (w wireHead) head() *connect.Head {
	h := &connect.Head{Method: "GET", Scheme: "http", Authority: "api.test", Path: w.Path, Header: connect.Header{}}
	if w.Method != "" {
		h.Method = w.Method
	}
	if w.Authority != "" {
		h.Authority = w.Authority
	}
	maps.Copy(h.Header, w.Header)
	return h
}

func load(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

type matchCase struct {
	Name     string
	HTTP     wireMatch
	Requests []struct {
		wireHead
		Want bool
	}
}

// The same tables are sent through a real Envoy by the integration tests.
func TestMatchTables(t *testing.T) {
	for _, name := range []string{"paths.json", "headers.json", "parameters.json"} {
		t.Run(name, func(t *testing.T) {
			var cases []matchCase
			load(t, name, &cases)
			count := 0
			for _, tc := range cases {
				m, err := Compile(tc.HTTP.match())
				if err != nil {
					t.Fatalf("%s: %v", tc.Name, err)
				}
				for _, r := range tc.Requests {
					count++
					if r.Path == "" {
						r.Path = "/"
					}
					if got := m.Matches(r.head()); got != r.Want {
						t.Errorf("%s: %+v: got %v", tc.Name, r.wireHead, got)
					}
				}
			}
			if count < 40 {
				t.Errorf("%d requests: a table this short proves little", count)
			}
		})
	}
}

type normalizeCase struct {
	Name          string
	Normalization struct {
		InsecureDisablePathNormalization, MergeSlashes bool
		PathWithEscapedSlashesAction                   connect.SlashAction
		HeadersWithUnderscoresAction                   connect.UnderscoreAction
	}
	Requests []struct {
		wireHead
		Status int
		Want   string
	}
}

func TestNormalizeTable(t *testing.T) {
	var cases []normalizeCase
	load(t, "normalize.json", &cases)
	for _, tc := range cases {
		n := connect.Normalization{
			KeepPath:     tc.Normalization.InsecureDisablePathNormalization,
			MergeSlashes: tc.Normalization.MergeSlashes, EscapedSlashes: tc.Normalization.PathWithEscapedSlashesAction,
			Underscores: tc.Normalization.HeadersWithUnderscoresAction,
		}
		for _, r := range tc.Requests {
			h := r.head()
			got := Normalize(n, h)
			if got.Status != r.Status {
				t.Errorf("%s: %q: status %d (%s), want %d", tc.Name, r.Path, got.Status, got.Why, r.Status)
				continue
			}
			if (got.Why != "") != (r.Status != 0) {
				t.Errorf("%s: %q: status %d with the reason %q", tc.Name, r.Path, got.Status, got.Why)
			}
			switch r.Status {
			case 0:
				if h.Path != r.Want {
					t.Errorf("%s: %q: got %q, want %q", tc.Name, r.Path, h.Path, r.Want)
				}
			case 307:
				if got.Location != r.Want {
					t.Errorf("%s: %q: location %q, want %q", tc.Name, r.Path, got.Location, r.Want)
				}
			}
		}
	}
}
