// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package rehearse

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func TestTableIsReadAsAPersonMeansIt(t *testing.T) {
	t.Parallel()
	src := strings.ReplaceAll(`# who may call
default = allow   # where nothing speaks

web → api = allow
web->api GET /a?b=c = deny intention_denied
east/web -> api POST /a with header x-team: blue = green with header Host: "a # \"b\"" = allow	# why
web -> api OPTIONS * with jwt {"a": {"b": ["} = deny"]}} = deny
web -> api GET / with jwt okta {} with jwt auth0 {"x":1} = deny jwt_invalid
`, "\n", "\r\n")
	got, err := ParseTable("t", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	allow := connect.Allow
	want := &Table{File: "t", Default: &allow, DefaultLine: 2, Expectations: []Expectation{
		{Line: 4, Text: "web → api = allow", Source: "web", Destination: "api", Want: connect.Allow},
		{Line: 5, Text: "web->api GET /a?b=c = deny intention_denied", Source: "web", Destination: "api", Method: "GET", Path: "/a?b=c", Reason: connect.IntentionDenied},
		{Line: 6, Text: `east/web -> api POST /a with header x-team: blue = green with header Host: "a # \"b\"" = allow`, Peer: "east", Source: "web", Destination: "api",
			Method: "POST", Path: "/a", Header: connect.Header{"X-Team": {"blue = green"}}, Authority: `a # "b"`, Want: connect.Allow},
		{Line: 7, Text: `web -> api OPTIONS * with jwt {"a": {"b": ["} = deny"]}} = deny`, Source: "web", Destination: "api", Method: "OPTIONS", Path: "*",
			Tokens: []Token{{Claims: map[string]any{"a": map[string]any{"b": []any{"} = deny"}}}}}},
		{Line: 8, Text: `web -> api GET / with jwt okta {} with jwt auth0 {"x":1} = deny jwt_invalid`, Source: "web", Destination: "api", Method: "GET", Path: "/",
			Reason: connect.JWTInvalid, Tokens: []Token{{Provider: "okta", Claims: map[string]any{}}, {Provider: "auth0", Claims: map[string]any{"x": 1.0}}}},
	}}
	for i := range want.Expectations {
		e := &want.Expectations[i]
		e.File = "t"
		if e.Header == nil {
			e.Header = connect.Header{}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestMistakesInATableAreToldWithTheirLineAndRemedy(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		"":                                                    "it expects nothing: write lines such as",
		"\n# only a comment\n":                                "it expects nothing",
		"web api GET / = deny":                                "t:1: it has no arrow",
		"\nweb -> api GET /":                                  "t:2: it does not say what is expected",
		"web -> api = perhaps":                                `"perhaps" is expected: write allow or deny`,
		"web -> api = ":                                       "is expected",
		"web -> api = deny at once please":                    "write allow or deny",
		"web -> api = deny no_route":                          "behind deny there may be one of intention_denied, jwt_invalid, request_invalid",
		"web -> api = allow intention_denied":                 "is no reason here",
		" -> api = deny":                                      "the caller has no name",
		"web -> = deny":                                       "the called service has no name",
		"* -> api = deny":                                     "an expectation is about one call",
		"/web -> api = deny":                                  "peer/service",
		"a/b/c -> api = deny":                                 "no name of a service",
		"web -> api get / = deny":                             "write it in capitals",
		"web -> api GET = deny":                               "GET has no path",
		"web -> api GET a = deny":                             "must begin with a slash",
		"web -> api GET /a b = deny":                          "a path has no blanks",
		"web -> api GET / with = deny":                        "with what?",
		"web -> api GET / with body x = deny":                 "with what?",
		"web -> api with header a: b = deny":                  "write a method and a path before",
		"web -> api GET / with header a = deny":               "a header has no name",
		"web -> api GET / with header a: \"b\\q\" = deny":     "not well quoted",
		"web -> api GET / with header a: \"b = deny":          "a quote is not closed",
		"web -> api GET / with header a: \"\\n\" = deny":      "control characters",
		"web -> api GET / with jwt = deny":                    "a jwt has no claims",
		"web -> api GET / with jwt {\"a\": = deny":            "the claims are not JSON",
		"web -> api GET / with jwt x y {} = deny":             "no name of a JWT provider",
		"web -> api GET / with jwt {} with jwt {} = deny":     "each must name its provider",
		"default = maybe":                                     "write default = allow, or default = deny",
		"default = deny\ndefault = deny\nweb -> api = deny":   "t:2: the default is in line 1 already",
		"web -> api = deny\ndefault = deny":                   "t:2: the default belongs above",
		"web -> api = deny \xff":                              "not UTF-8",
		"web -> api = deny # " + strings.Repeat("x", maxLine): "more than the limit",
		strings.Repeat("x", maxTable+1):                       "split it into several files",
		"web -> api GET /" + strings.Repeat(" with jwt a {}", 40) + " = deny": "more than 32 times",
	} {
		_, err := ParseTable("t", []byte(src))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: error %v, want one with %q", src, err, want)
		}
	}
	_, err := ParseTable("t", []byte(strings.Repeat("x\n", 200)))
	if got := strings.Count(err.Error(), "\n") + 1; got != maxFindings+1 {
		t.Errorf("%d mistakes are told", got)
	}
}

func FuzzParseTable(f *testing.F) {
	for _, seed := range []string{
		"default = deny\nweb → api GET /admin = deny # c", `web -> api GET / with header a: "b" with jwt okta {"a":1} = allow`, "east/web->api=deny", "a -> b = deny\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		table, err := ParseTable("t", src)
		if err != nil {
			return
		}
		for _, e := range table.Expectations {
			// A line that was read says the same when it is read alone.
			again, err := ParseTable("t", []byte(e.Text))
			if err != nil || len(again.Expectations) != 1 {
				t.Fatalf("%q: %v", e.Text, err)
			}
			one := again.Expectations[0]
			one.Line = e.Line
			if diff := cmp.Diff(e, one); diff != "" {
				t.Fatalf("%q (-first +again):\n%s", e.Text, diff)
			}
			j, err := NewJudge(Rules{}, table.Peers()...)
			if err != nil {
				t.Fatal(err)
			}
			if v := j.Try(e, noon()); v.Allowed || v.Why == "" {
				t.Fatalf("%q is allowed by no rule: %s", e.Text, v.Why)
			}
		}
	})
}
