// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func TestRecordedHTTPChainIsReadWhole(t *testing.T) {
	chain, err := convertChain(recorded[struct{ Chain *wireChain }](t, "chain-http.json").Chain, "api", "")
	if err != nil {
		t.Fatal(err)
	}
	path := func(kind connect.MatchKind, value string) connect.RequestMatch {
		return connect.RequestMatch{Path: connect.PathMatch{Kind: kind, Value: value}}
	}
	routes := []connect.ChainRoute{
		{
			Match: connect.RequestMatch{
				Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/admin", IgnoreCase: true},
				Headers: []connect.HeaderMatch{
					{Name: "x-a", Kind: connect.MatchPresent}, {Name: "x-b", Kind: connect.MatchExact, Value: "b", Invert: true},
					{Name: "x-c", Kind: connect.MatchPrefix, Value: "c"}, {Name: "x-d", Kind: connect.MatchSuffix, Value: "d"}, {Name: "x-e", Kind: connect.MatchRegex, Value: "e+"},
				},
				Query:   []connect.QueryMatch{{Name: "p", Kind: connect.MatchPresent}, {Name: "q", Kind: connect.MatchExact, Value: "1"}, {Name: "r", Kind: connect.MatchRegex, Value: "[0-9]+"}},
				Methods: []string{"GET", "POST"},
			},
			Next: "resolver:adm.default.default.dc1", PrefixRewrite: "/", RequestTimeout: 3 * time.Second, IdleTimeout: -1,
			Retry:           connect.Retry{Attempts: 4, On: []string{"reset", "gateway-error"}, ConnectFailure: true, StatusCodes: []int{503, 429}},
			RequestHeaders:  connect.HeaderEdits{Add: map[string]string{"x-add": "%DOWNSTREAM_REMOTE_ADDRESS%"}, Set: map[string]string{"x-set": "1"}, Remove: []string{"x-rm"}},
			ResponseHeaders: connect.HeaderEdits{Set: map[string]string{"x-resp": "1"}},
		},
		{Match: path(connect.MatchExact, "/exact"), Next: "resolver:v2.api.default.default.dc1", Retry: connect.Retry{Attempts: 2}},
		{Match: path(connect.MatchRegex, "/v[0-9]+/.*"), Next: "resolver:v2.api.default.default.dc1"},
		{Next: "resolver:adm.default.default.dc1"},
		{Next: "splitter:api.default.default"},
		{Match: path(connect.MatchPrefix, "/"), Next: "splitter:api.default.default"},
	}
	if diff := cmp.Diff(routes, chain.Nodes["router:api.default.default"].Routes); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	splits := []connect.Split{
		{Weight: 9999, Next: "resolver:v1.api.default.default.dc1", RequestHeaders: connect.HeaderEdits{Set: map[string]string{"x-leg": "v1"}, Remove: []string{"x-old"}}},
		{Weight: 1, Next: "resolver:v2.api.default.default.dc1", ResponseHeaders: connect.HeaderEdits{Add: map[string]string{"x-leg": "v2"}}},
	}
	if diff := cmp.Diff(splits, chain.Nodes["splitter:api.default.default"].Splits); diff != "" {
		t.Errorf("splits (-want +got):\n%s", diff)
	}
	resolvers := map[string]*connect.Resolver{
		"resolver:adm.default.default.dc1": {
			Target: "adm.default.default.dc1", ConnectTimeout: 5 * time.Second, RequestTimeout: 1500 * time.Millisecond,
			LoadBalancer: connect.LoadBalancer{Policy: "least_request", ChoiceCount: 5},
		},
		"resolver:v1.api.default.default.dc1": {
			Target: "v1.api.default.default.dc1", Failover: []connect.TargetID{"v2.api.default.default.dc1"}, ConnectTimeout: 7 * time.Second, RequestTimeout: 11 * time.Second,
			LoadBalancer: connect.LoadBalancer{Policy: "ring_hash", MinRingSize: 512, MaxRingSize: 4096, Hash: []connect.HashPolicy{
				{Field: "header", Value: "x-user"},
				{Field: "cookie", Value: "sid", Terminal: true, Cookie: &connect.CookieConfig{TTL: time.Hour, Path: "/"}},
				{Field: "cookie", Value: "ses", Cookie: &connect.CookieConfig{Session: true}},
				{Field: "query_parameter", Value: "u"},
				{SourceIP: true},
			}},
		},
	}
	for name, want := range resolvers {
		if diff := cmp.Diff(want, chain.Nodes[name].Resolver); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// routed is a chain whose router "o" has one good route and then the given one.
func routed(route string) string {
	return `{"ServiceName":"api","Datacenter":"dc1","StartNode":"o","Nodes":{"o":{"Type":"router","Routes":[{"Definition":{},"NextNode":"r"},` + route + `]},
		"r":{"Type":"resolver","Name":"r","Resolver":{"Target":"t"}}},"Targets":{"t":{"ID":"t","Service":"api","Datacenter":"dc1","SNI":"x"}}}`
}

func TestARouteThatIsNotUnderstoodRefusesTheChain(t *testing.T) {
	long := strings.Repeat("x", maxText)
	match := func(http string) string { return `{"Definition":{"Match":{"HTTP":` + http + `}},"NextNode":"r"}` }
	to := func(destination string) string {
		return `{"Definition":{"Match":{"HTTP":{"PathPrefix":"/a"}},"Destination":` + destination + `},"NextNode":"r"}`
	}
	for _, tt := range []struct{ route, fails string }{
		{match(`{}`), ""},
		{match(`{"PathPrefix":"/a","Header":[{"Name":":authority","Contains":"a","IgnoreCase":true}]}`), ""},
		{match(`{"PathRegex":"/a","CaseInsensitive":true}`), ""},
		{to(`{"Service":"x","SomethingNew":1,"RequestTimeout":3000000000,"IdleTimeout":"-1s"}`), ""},
		{`{"NextNode":"r"}`, "it has no definition"},
		{`{"Definition":{"Match":{"GRPC":{}}},"NextNode":"r"}`, `match: it cannot be read whole: json: unknown field "GRPC"`},
		{match(`{"PathGlob":"/*"}`), `unknown field "PathGlob"`},
		{match(`{"Header":[{"Name":"x","Glob":"*"}]}`), `unknown field "Glob"`},
		{match(`{"QueryParam":[{"Name":"x","Prefix":"a"}]}`), `unknown field "Prefix"`},
		{match(`{"PathExact":"/a","PathPrefix":"/b"}`), "path: exact and prefix are both set"},
		{match(`{"PathPrefix":"/b","PathRegex":"/b"}`), "path: prefix and regex are both set"},
		{match(`{"PathPrefix":"b"}`), `path: prefix "b" does not begin with "/"`},
		{match(`{"PathRegex":"("}`), `regular expression "("`},
		{match(`{"PathRegex":"` + long + `x"}`), "at most 8192 are read"},
		{match(`{"Header":[{"Name":"x"}]}`), `header "x": it has no matcher`},
		{match(`{"Header":[{"Name":"x","Present":true,"Exact":"a"}]}`), `header "x": present and exact are both set`},
		{match(`{"Header":[{"Name":"x","Regex":"a{2,1}"}]}`), `header "x": regular expression`},
		{match(`{"Header":[{"Name":"x","Regex":"a","IgnoreCase":true}]}`), "regex cannot ignore case"},
		{match(`{"Header":[{"Name":"x y","Exact":"a"}]}`), "no field can have this name"},
		{match(`{"Header":[` + strings.Repeat(`{"Name":"x","Exact":"a"},`, maxMatchers) + `{"Name":"x","Exact":"a"}]}`), "257 headers to match"},
		{match(`{"QueryParam":[{"Name":"x"}]}`), `query parameter "x": it has no matcher`},
		{match(`{"QueryParam":[{"Exact":"x"}]}`), "has no name"},
		{match(`{"QueryParam":[{"Name":"x","Regex":"["}]}`), `query parameter "x": regular expression`},
		{match(`{"Methods":["G T"]}`), `"G T" is not a method`},
		{to(`{"RequestTimeout":"soon"}`), "destination: RequestTimeout: soon is not a duration"},
		{to(`{"IdleTimeout":"99999h"}`), "destination: IdleTimeout: 99999h"},
		{to(`{"NumRetries":-1}`), "NumRetries is -1"},
		{to(`{"NumRetries":4294967295}`), "NumRetries is 4294967295"},
		{to(`{"RetryOn":["5xx","bogus"]}`), `RetryOn: "bogus" is not known`},
		{to(`{"RetryOnStatusCodes":[503,1000]}`), "1000 is not a status code"},
		{to(`{"PrefixRewrite":"y"}`), `PrefixRewrite "y" cannot begin a path`},
		{to(`{"PrefixRewrite":"/y z"}`), "cannot begin a path"},
		{to(`{"PrefixRewrite":"/y?z"}`), "cannot begin a path"},
		{`{"Definition":{"Destination":{"PrefixRewrite":"/y"}},"NextNode":"r"}`, "PrefixRewrite needs a path"},
		{to(`{"RequestHeaders":{"Set":{"a b":"c"}}}`), `RequestHeaders: "a b" is not the name`},
		{to(`{"RequestHeaders":{"Add":{"a":"c\r\nd: e"}}}`), `RequestHeaders: header "a": the value has control characters`},
		{to(`{"ResponseHeaders":{"Remove":["a\nb"]}}`), `ResponseHeaders: "a\nb" is not the name`},
		{to(`{"ResponseHeaders":{"Set":{"a":"` + long + `x"}}}`), "a text of 8193 bytes"},
	} {
		_, err := convertChain(decode[*wireChain](t, routed(tt.route)), "api", "")
		if tt.fails == "" {
			wantError(t, err)
		} else {
			wantError(t, err, tt.fails, `node "o"`, "route 2")
		}
	}
}

func TestWeightsAreReadInHundredths(t *testing.T) {
	for _, tt := range []struct {
		weights string
		want    []int
		fails   string
	}{
		{weights: "100", want: []int{10000}},
		{weights: "33.33 33.33 33.34", want: []int{3333, 3333, 3334}},
		{weights: "99.99 0.01 0", want: []int{9999, 1, 0}},
		{weights: "33.33 33.33 33.33", want: []int{3333, 3333, 3333}},
		{weights: "100.01", fails: "split 1: its weight is 100.01"},
		{weights: "50 -1", fails: "split 2: its weight is -1"},
		{weights: "1e300", fails: "split 1"},
		{weights: "50", fails: "the weights make 50.00, want 100"},
		{weights: "70 70", fails: "the weights make 140.00"},
		{weights: "", fails: "no splits"},
	} {
		var list []string
		for w := range strings.FieldsSeq(tt.weights) {
			list = append(list, fmt.Sprintf(`{"Weight":%s,"NextNode":"r"}`, w))
		}
		splits, err := convertSplits(decode[[]wireSplit](t, "["+strings.Join(list, ",")+"]"))
		if tt.fails != "" {
			wantError(t, err, tt.fails)
			continue
		}
		var got []int
		for _, s := range splits {
			got = append(got, s.Weight)
		}
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v, %s", tt.weights, err, diff)
		}
	}
	_, err := convertSplits(decode[[]wireSplit](t, `[{"Weight":100,"Definition":{"ResponseHeaders":{"Set":{"":"x"}}}}]`))
	wantError(t, err, "split 1: ResponseHeaders")
}

func TestLoadBalancersThatAreNotUnderstoodAreRefused(t *testing.T) {
	hash := func(policy string) string {
		return `{"Policy":"maglev","HashPolicies":[{"SourceIP":true},` + policy + `]}`
	}
	for _, tt := range []struct{ json, fails string }{
		{`null`, ""},
		{`{"Policy":"random"}`, ""},
		{hash(`{"Field":"cookie","FieldValue":"a","CookieConfig":{}}`), ""},
		{`{"Policy":"peak_ewma"}`, `policy "peak_ewma" is not known`},
		{`{"Policy":"least_request","LeastRequestConfig":{"ChoiceCount":-2}}`, "ChoiceCount is -2"},
		{`{"Policy":"ring_hash","RingHashConfig":{"MinimumRingSize":-1}}`, "-1 to 0 places"},
		{`{"Policy":"ring_hash","RingHashConfig":{"MaximumRingSize":8388609}}`, "0 to 8388609 places"},
		{`{"Policy":"ring_hash","RingHashConfig":{"MinimumRingSize":5,"MaximumRingSize":4}}`, "MinimumRingSize 5 is above"},
		{`{"Policy":"maglev","HashPolicies":[` + strings.Repeat(`{"SourceIP":true},`, maxHashPolicies) + `{"SourceIP":true}]}`, "65 hash policies"},
		{hash(`{}`), `hash policy 2: field "" is not known`},
		{hash(`{"Field":"body","FieldValue":"x"}`), `field "body" is not known`},
		{hash(`{"Field":"header"}`), "the name of the header is missing"},
		{hash(`{"Field":"header","FieldValue":"a b"}`), `no header can have the name "a b"`},
		{hash(`{"Field":"header","FieldValue":"a","SourceIP":true}`), "hashes the source address and"},
		{hash(`{"Field":"header","FieldValue":"a","CookieConfig":{"Session":true}}`), "not about a cookie"},
		{hash(`{"Field":"cookie","FieldValue":"a","CookieConfig":{"TTL":-1}}`), "TTL of the cookie"},
		{hash(`{"Field":"cookie","FieldValue":"a","CookieConfig":{"TTL":1,"Session":true}}`), "cannot have a TTL"},
		{hash(`{"Field":"cookie","FieldValue":"a","CookieConfig":{"Path":"/\r\nx"}}`), "path of the cookie"},
	} {
		_, err := convertBalance(decode[*wireLoadBalancer](t, tt.json))
		if tt.fails == "" {
			wantError(t, err)
		} else {
			wantError(t, err, tt.fails)
		}
	}
	splitter := `{"Type":"splitter","Splits":[{"Weight":100,"NextNode":"r"}],"LoadBalancer":{"Policy":"magic"}}`
	_, err := convertNode(decode[*wireNode](t, splitter), nil)
	wantError(t, err, `policy "magic"`)
	resolver := `{"Type":"resolver","Resolver":{"Target":"t","RequestTimeout":-1}}`
	_, err = convertNode(decode[*wireNode](t, resolver), nil)
	wantError(t, err, "RequestTimeout")
	lb, err := convertBalance(decode[*wireLoadBalancer](t, `{"Policy":"least_request","LeastRequestConfig":{"ChoiceCount":4000000000}}`))
	if err != nil || lb.ChoiceCount != maxChoices {
		t.Errorf("load balancer %+v, %v, want %d choices", lb, err, maxChoices)
	}
}

func TestRecordedPermissionsAreReadWhole(t *testing.T) {
	rules, err := convertIntentions("web", recorded[map[string][]wireIntention](t, "intentions-http.json")["web"])
	if err != nil {
		t.Fatal(err)
	}
	claim := func(value string, path ...string) *connect.JWTRequirement {
		return &connect.JWTRequirement{Providers: []connect.JWTClaims{{Provider: "okta", Claims: []connect.JWTClaim{{Path: path, Value: value}}}}}
	}
	want := connect.Intention{
		Source: connect.Source{Partition: "default", Namespace: "default", Name: "edge"}, Destination: "web", Namespace: "default", Precedence: 9,
		JWT: claim("admin", "perms", "role"),
		Permissions: []connect.Permission{
			{Action: connect.Allow, JWT: claim("x", "role"),
				HTTP: connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchExact, Value: "/x"}, Methods: []string{"GET", "PUT"}}},
			{Action: connect.Deny, HTTP: connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/admin"}, Headers: []connect.HeaderMatch{
				{Name: "a", Kind: connect.MatchPresent}, {Name: "b", Kind: connect.MatchExact, Value: "1", Invert: true, IgnoreCase: true},
				{Name: "c", Kind: connect.MatchPrefix, Value: "1"}, {Name: "d", Kind: connect.MatchSuffix, Value: "1"},
				{Name: "e", Kind: connect.MatchContains, Value: "1"}, {Name: "f", Kind: connect.MatchRegex, Value: "1.*"},
				{Name: "g", Kind: connect.MatchPresent, Invert: true},
			}}},
			{Action: connect.Allow, HTTP: connect.RequestMatch{Path: connect.PathMatch{Kind: connect.MatchRegex, Value: "/v[0-9]+"}}},
		},
	}
	if diff := cmp.Diff(want, rules[1]); len(rules) != 3 || diff != "" {
		t.Errorf("%d rules, the second (-want +got):\n%s", len(rules), diff)
	}
}

func TestOnePermissionThatIsNotUnderstoodRefusesAllIntentions(t *testing.T) {
	permission := func(text string) string {
		return `{"SourceName":"a","DestinationName":"web","Precedence":9,"Permissions":[{"Action":"deny","HTTP":{"PathPrefix":"/"}},` + text + `]}`
	}
	http := func(text string) string { return permission(`{"Action":"allow","HTTP":` + text + `}`) }
	for _, tt := range []struct{ json, fails string }{
		{http(`{"PathPrefix":"/a"}`), ""},
		{http(`null`), ""},
		{permission(`{"Action":"allow","HTTP":{"PathExact":"/a"},"JWT":{"Providers":[{"Name":"x"}]}}`), ""},
		{permission(`null`), `action is ""`},
		{permission(`7`), "cannot be read whole"},
		{permission(`{"Action":"allow","When":"night"}`), `unknown field "When"`},
		{http(`{}`), "HTTP: it matches on nothing"},
		{http(`{"PathPrefix":"/","Query":[{"Name":"x"}]}`), `unknown field "Query"`},
		{http(`{"PathPrefix":"/","Header":[{"Name":"x","Exact":"a","List":["b"]}]}`), `unknown field "List"`},
		{http(`{"PathExact":"/a","PathRegex":"/a"}`), "HTTP: path: exact and regex are both set"},
		{http(`{"PathExact":"a"}`), `does not begin with "/"`},
		{http(`{"PathRegex":"(?=x)"}`), "must be one of RE2"},
		{http(`{"Header":[{"Name":"x","Regex":"("}]}`), `header "x": regular expression "("`},
		{http(`{"Header":[{"Name":"","Exact":"a"}]}`), "no field can have this name"},
		{http(`{"Header":[{"Name":"x","Present":true,"IgnoreCase":true}]}`), "present cannot ignore case"},
		{http(`{"Methods":["GET",""]}`), `"" is not a method`},
		{permission(`{"Action":"allow","JWT":{"Providers":[{"Name":""}]}}`), "JWT: a provider has no name"},
		{permission(`{"Action":"allow","JWT":{"Providers":[{"Name":"x","Scopes":["a"]}]}}`), `unknown field "Scopes"`},
		{permission(`{"Action":"allow","JWT":{"Providers":[{"Name":"x","VerifyClaims":[{"Value":"a"}]}]}}`), `provider "x": a claim has no path`},
		{permission(`{"Action":"allow","JWT":{"Providers":[{"Name":"x","VerifyClaims":[{"Path":["a"],"Value":"` + strings.Repeat("x", maxText+1) + `"}]}]}}`), "a text of 8193 bytes"},
	} {
		_, err := convertIntentions("web", decode[[]wireIntention](t, "["+tt.json+"]"))
		if tt.fails == "" {
			wantError(t, err)
		} else {
			wantError(t, err, tt.fails, "intention 1", "permission 2")
		}
	}
	for _, tt := range []struct{ json, fails string }{
		{`[{"SourceName":"a","DestinationName":"web","Action":"allow","Precedence":9,"JWT":{"Issuers":[]}}]`, `JWT: it cannot be read whole: json: unknown field "Issuers"`},
		{`[{"SourceName":"a","DestinationName":"web","Precedence":9,"Permissions":[` + strings.Repeat(`{},`, maxRules) + `{}]}]`, "4097 permissions"},
		{`[` + strings.Repeat(`{},`, maxRules) + `{}]`, "4097 intentions"},
	} {
		_, err := convertIntentions("web", decode[[]wireIntention](t, tt.json))
		wantError(t, err, tt.fails)
	}
}

func TestHTTPOfTheMeshIsReadOrRefused(t *testing.T) {
	all := connect.Mesh{SanitizeXFCC: true, Normalization: connect.Normalization{
		KeepPath: true, MergeSlashes: true, EscapedSlashes: connect.SlashRedirect, Underscores: connect.UnderscoreDrop,
	}}
	got, err := convertMesh(recorded[[]wireMesh](t, "mesh-http.json"))
	got.Incoming = connect.TLSLimits{}
	if err != nil || !cmp.Equal(all, got) {
		t.Errorf("recorded: %v, %v", cmp.Diff(all, got), err)
	}
	for _, tt := range []struct {
		normalization string
		want          connect.Normalization
		fails         string
	}{
		{normalization: `null`},
		{normalization: `{}`},
		{normalization: `{"PathWithEscapedSlashesAction":"IMPLEMENTATION_SPECIFIC_DEFAULT","HeadersWithUnderscoresAction":"ALLOW"}`, want: connect.Normalization{Underscores: connect.UnderscoreAllow}},
		{normalization: `{"PathWithEscapedSlashesAction":"REJECT_REQUEST","HeadersWithUnderscoresAction":"REJECT_REQUEST"}`,
			want: connect.Normalization{EscapedSlashes: connect.SlashReject, Underscores: connect.UnderscoreReject}},
		{normalization: `{"PathWithEscapedSlashesAction":"UNESCAPE_AND_FORWARD"}`, want: connect.Normalization{EscapedSlashes: connect.SlashForward}},
		{normalization: `{"PathWithEscapedSlashesAction":"ROT13"}`, fails: `PathWithEscapedSlashesAction "ROT13" is not known`},
		{normalization: `{"HeadersWithUnderscoresAction":"SHOUT"}`, fails: `HeadersWithUnderscoresAction "SHOUT" is not known`},
		{normalization: `{"Fragments":"REJECT"}`, fails: `unknown field "Fragments"`},
	} {
		got, err := convertMesh(decode[[]wireMesh](t, `[{"Kind":"mesh","HTTP":{"Incoming":{"RequestNormalization":`+tt.normalization+`}}}]`))
		if tt.fails != "" {
			wantError(t, err, tt.fails, "mesh config entry, HTTP.Incoming.RequestNormalization")
		} else if err != nil || got.Normalization != tt.want {
			t.Errorf("%s: %+v, %v", tt.normalization, got, err)
		}
	}
}
