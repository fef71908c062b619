// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

func TestRewriteReplacesWhatWasMatched(t *testing.T) {
	prefix := func(p string) connect.PathMatch { return connect.PathMatch{Kind: connect.MatchPrefix, Value: p} }
	exact := func(p string) connect.PathMatch { return connect.PathMatch{Kind: connect.MatchExact, Value: p} }
	for _, tc := range []struct {
		name     string
		match    connect.PathMatch
		to       string
		in, want string
	}{
		{"empty leaves a prefix", prefix("/v1"), "", "/v1/x?q", "/v1/x?q"},
		{"empty leaves an exact path", exact("/v1"), "", "/v1", "/v1"},
		{"prefix for prefix", prefix("/v1"), "/v2", "/v1/x", "/v2/x"},
		{"query stays", prefix("/v1"), "/v2", "/v1/x?a=/v1", "/v2/x?a=/v1"},
		{"prefix alone", prefix("/v1"), "/v2", "/v1", "/v2"},
		{"prefix with its query", prefix("/v1"), "/v2", "/v1?a", "/v2?a"},
		{"prefix within a segment", prefix("/v1"), "/v2", "/v10", "/v20"},
		{"plain text, slashes and all", prefix("/v1"), "/v2/", "/v1/x", "/v2//x"},
		{"strip takes a slash along", prefix("/v1"), "/", "/v1/x", "/x"},
		{"strip a prefix that has the slash", prefix("/v1/"), "/", "/v1/x", "/x"},
		{"strip everything", prefix("/v1"), "/", "/v1", "/"},
		{"strip everything but the query", prefix("/v1"), "/", "/v1?a", "/?a"},
		{"strip to a slash", prefix("/v1"), "/", "/v1/", "/"},
		{"strip within a segment", prefix("/v1"), "/", "/v1x", "/x"},
		{"strip nothing", prefix("/"), "/", "/x", "/x"},
		{"prefix the root", prefix("/"), "/api/", "/x", "/api/x"},
		{"exact", exact("/old"), "/new/place", "/old?q=1", "/new/place?q=1"},
		{"exact to the root", exact("/old"), "/", "/old", "/"},
		{"exact with dots", exact("/old"), "/a/../b", "/old", "/b"},
		{"slash is added", prefix("/v1"), "v2", "/v1/x", "/v2/x"},
		{"without case", connect.PathMatch{Kind: connect.MatchPrefix, Value: "/V1", IgnoreCase: true}, "/", "/v1/X", "/X"},
		{"what does not match stays", prefix("/v1"), "/v2", "/x/v1", "/x/v1"},
		{"stripping makes no way up", prefix("/v1"), "/", "/v1../admin", "/admin"},
		{"rewriting makes no way up", prefix("/v1"), "/files/", "/v1../admin", "/admin"},
		{"dots that were there stay for the other side", prefix("/v1"), "/v2", "/v1/../x", "/v2/../x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := CompileRewrite(tc.match, tc.to)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Apply(tc.in); got != tc.want {
				t.Errorf("%q: got %q, want %q", tc.in, got, tc.want)
			}
		})
	}
}

func TestRewritesThatMeanNothingAreErrors(t *testing.T) {
	for _, tc := range []struct {
		match connect.PathMatch
		to    string
		want  string
	}{
		{connect.PathMatch{Kind: connect.MatchRegex, Value: "/a"}, "/b", "only path_exact and path_prefix"},
		{connect.PathMatch{}, "/b", "only path_exact and path_prefix"},
		{connect.PathMatch{Kind: connect.MatchPrefix, Value: "/a"}, "/b?c", "without query"},
		{connect.PathMatch{Kind: connect.MatchPrefix, Value: "/a"}, "/b#c", "without query"},
		{connect.PathMatch{Kind: connect.MatchPrefix, Value: "/a"}, "/b c", "blanks"},
		{connect.PathMatch{Kind: connect.MatchPrefix, Value: "/a"}, "/b\r\nX: y", "control"},
	} {
		if _, err := CompileRewrite(tc.match, tc.to); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v to %q: got %v, want %q", tc.match, tc.to, err, tc.want)
		}
	}
}
