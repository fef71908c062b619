// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package explain

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func TestQuestionIsWhatWasTyped(t *testing.T) {
	q, err := New("web", "api?dc=dc2", "GET", "/a?b=c", "", []string{"x-user: ann", "X-User:bob ", "Cookie: a=b"})
	if err != nil {
		t.Fatal(err)
	}
	want := connect.Head{
		Method: "GET", Scheme: "http", Authority: "api", Path: "/a?b=c",
		Header: connect.Header{"X-User": {"ann", "bob"}, "Cookie": {"a=b"}},
	}
	if diff := cmp.Diff(want, q.Head()); diff != "" {
		t.Errorf("head (-want +got):\n%s", diff)
	}
	if named, _ := New("web", "api", "GET", "/", "", []string{"Host: api.example"}); named.Head().Authority != "api.example" {
		t.Errorf("authority %q", named.Head().Authority)
	}
	if q, err := New("web", "api", "", "", "", nil); err != nil || q.HTTP() {
		t.Errorf("a connection: %+v, %v", q, err)
	}
}

func TestQuestionThatNobodyCanAnswerIsRefused(t *testing.T) {
	secret := "s3cret"
	for name, tc := range map[string]struct {
		source, destination, method, path string
		fields                            []string
		want                              string
	}{
		"no destination":        {"web", "", "", "", nil, "a source and a destination"},
		"a method alone":        {"web", "api", "GET", "", nil, "go together"},
		"a header alone":        {"web", "api", "", "", []string{"a: b"}, "has no header"},
		"a field without colon": {"web", "api", "GET", "/", []string{"ok: " + secret, secret}, "field 2"},
		"a field without name":  {"web", "api", "GET", "/", []string{": " + secret}, "field 1"},
		"a name of two words":   {"web", "api", "GET", "/", []string{"a b: " + secret}, "field 1"},
		"a field too long":      {"web", "api", "GET", "/", []string{"a: " + strings.Repeat(secret, 4000)}, "field 1"},
		"fields too many":       {"web", "api", "GET", "/", slicesOf("a: b", maxFields+1), "129 header fields"},
		"a name too long":       {strings.Repeat("w", maxName+1), "api", "", "", nil, "longer than 512"},
		"a path too long":       {"web", "api", "GET", "/" + strings.Repeat("a", maxPath), nil, "the path is longer"},
	} {
		_, err := New(tc.source, tc.destination, tc.method, tc.path, "", tc.fields)
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v, want an error with %q and without a value", name, err, tc.want)
		}
	}
}

func slicesOf(text string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = text
	}
	return out
}

func TestCallerIsOfTheDestinationsClusterOrOfItsPeer(t *testing.T) {
	to := connect.Service{Name: "api", Namespace: "default", Partition: "default", Datacenter: "dc1"}
	peers := map[string]connect.Peer{"east": {Name: "east", Partition: "p", Bundle: &connect.TrustBundle{TrustDomain: "east.consul"}}}
	for source, want := range map[string]connect.Identity{
		"web":      {TrustDomain: "own.consul", Partition: "default", Namespace: "default", Datacenter: "dc1", Service: "web"},
		"east/web": {TrustDomain: "east.consul", Partition: "p", Namespace: "default", Datacenter: "dc1", Service: "web", Peer: "east"},
		"west/web": {TrustDomain: "own.consul", Partition: "default", Namespace: "default", Datacenter: "dc1", Service: "web", Peer: "west"},
	} {
		if diff := cmp.Diff(want, Question{Source: source}.Caller(to, "own.consul", peers)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", source, diff)
		}
	}
}

func TestWordsNameNoValueOfAHeader(t *testing.T) {
	m := connect.RequestMatch{
		Path: connect.PathMatch{Kind: connect.MatchPrefix, Value: "/a", IgnoreCase: true}, Methods: []string{"GET", "PUT"},
		Headers: []connect.HeaderMatch{{Name: "x-key", Kind: connect.MatchExact, Value: "s3cret", Invert: true}},
		Query:   []connect.QueryMatch{{Name: "token", Kind: connect.MatchExact, Value: "s3cret"}},
	}
	want := `GET or PUT, path prefix "/a" in any case, header "x-key" not exact, query parameter "token" exact`
	if got := Match(m); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := Match(connect.RequestMatch{}); got != "every request" {
		t.Errorf("the match of everything is %q", got)
	}
	for share, want := range map[int]string{10_000: "100 %", 1: "0.01 %", 9050: "90.5 %", 0: "0 %", 1000: "10 %"} {
		if got := Percent(share); got != want {
			t.Errorf("%d is %q, want %q", share, got, want)
		}
	}
}
