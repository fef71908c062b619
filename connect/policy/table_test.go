// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package policy

import (
	"encoding/json"
	"net/textproto"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/request"
)

// A group of testdata/permissions.json: the permissions of one intention, in
// the names of Consul's service-intentions entry, and what becomes of requests
// of its source. It is written so that another proxy can be held against it.
type group struct {
	Name        string           `json:"name"`
	Default     string           `json:"default"`
	Permissions []permissionJSON `json:"permissions"`
	Requests    []struct {
		Method  string              `json:"method"`
		Path    string              `json:"path"`
		Headers map[string][]string `json:"headers"`
		Allow   bool                `json:"allow"`
		Note    string              `json:"note"`
	} `json:"requests"`
}

type permissionJSON struct {
	Action string
	HTTP   struct {
		PathExact, PathPrefix, PathRegex string
		Methods                          []string
		Header                           []headerJSON
	}
}

type headerJSON struct {
	Name                                   string
	Present                                bool
	Exact, Prefix, Suffix, Contains, Regex string
	Invert, IgnoreCase                     bool
}

func (h headerJSON) match() connect.HeaderMatch {
	out := connect.HeaderMatch{Name: h.Name, Kind: connect.MatchPresent, Invert: h.Invert, IgnoreCase: h.IgnoreCase}
	for kind, value := range map[connect.MatchKind]string{
		connect.MatchExact: h.Exact, connect.MatchPrefix: h.Prefix, connect.MatchSuffix: h.Suffix,
		connect.MatchContains: h.Contains, connect.MatchRegex: h.Regex,
	} {
		if value != "" {
			out.Kind, out.Value = kind, value
		}
	}
	return out
}

func (p permissionJSON) permission(t *testing.T) connect.Permission {
	t.Helper()
	action, err := connect.ParseAction(p.Action)
	if err != nil {
		t.Fatal(err)
	}
	out := connect.Permission{Action: action, HTTP: connect.RequestMatch{Methods: p.HTTP.Methods}}
	for kind, value := range map[connect.MatchKind]string{
		connect.MatchExact: p.HTTP.PathExact, connect.MatchPrefix: p.HTTP.PathPrefix, connect.MatchRegex: p.HTTP.PathRegex,
	} {
		if value != "" {
			out.HTTP.Path = connect.PathMatch{Kind: kind, Value: value}
		}
	}
	for _, h := range p.HTTP.Header {
		out.HTTP.Headers = append(out.HTTP.Headers, h.match())
	}
	return out
}

func readTable(t *testing.T) []group {
	t.Helper()
	file, err := os.Open("testdata/permissions.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	decoder := json.NewDecoder(file)
	decoder.DisallowUnknownFields()
	var out []group
	if err := decoder.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestPermissionsDecideAsTheTableSays(t *testing.T) {
	t.Parallel()
	seen := map[bool]int{}
	for _, g := range readTable(t) {
		rule := intention("web", "api", 9, connect.Deny)
		for _, p := range g.Permissions {
			rule.Permissions = append(rule.Permissions, p.permission(t))
		}
		fallback, err := connect.ParseAction(g.Default)
		if err != nil {
			t.Fatal(err)
		}
		p := Compile(Settings{Intentions: []connect.Intention{rule}, Default: fallback, TrustDomain: td, Protocol: connect.HTTP})
		if problems := p.Problems(); problems != nil {
			t.Errorf("%s: problems %q", g.Name, problems)
		}
		for _, r := range g.Requests {
			seen[r.Allow]++
			h := &connect.Head{Method: r.Method, Scheme: "http", Authority: "api", Path: r.Path, Header: connect.Header{}}
			for name, values := range r.Headers {
				h.Header[textproto.CanonicalMIMEHeaderKey(name)] = values
			}
			if outcome := request.Normalize(connect.Normalization{}, h); outcome.Status != 0 {
				t.Errorf("%s: %s %s is refused: %s", g.Name, r.Method, r.Path, outcome.Why)
				continue
			}
			got := p.AuthorizeRequest(caller("web"), h, time.Time{})
			if got.Allowed != r.Allow {
				t.Errorf("%s: %s %s %v: %s; want allowed=%v", g.Name, r.Method, r.Path, r.Headers, got.Why(), r.Allow)
			}
			if verdict := map[bool]string{true: "allowed by ", false: "denied by "}[r.Allow]; !strings.HasPrefix(got.Why(), verdict) || !strings.Contains(got.Why(), "web → api") {
				t.Errorf("%s: %s %s: why is %q", g.Name, r.Method, r.Path, got.Why())
			}
		}
	}
	if seen[true] < 30 || seen[false] < 30 {
		t.Errorf("the table has %d allowed and %d denied requests: too few to mean something", seen[true], seen[false])
	}
}
