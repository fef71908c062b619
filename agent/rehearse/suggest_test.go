// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package rehearse

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/ledger"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/hcl"
)

func edges(texts ...string) []ledger.Edge {
	var out []ledger.Edge
	for _, text := range texts {
		out = append(out, edge(text))
	}
	return out
}

// suggested is the suggestion for api.
func suggested(t *testing.T, l7 bool, current map[string]Rules, of []ledger.Edge) Suggestion {
	t.Helper()
	s, err := Suggest(of, l7, current, noon())
	if err != nil || len(s) != 1 {
		t.Fatalf("%d suggestions, %v", len(s), err)
	}
	return s[0]
}

// entries reads a suggestion as it would be read from a file.
func entries(t *testing.T, text string) *consul.Entries {
	t.Helper()
	e, err := hcl.ParseEntry("suggestion", []byte(text))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	list, err := consul.ReadEntries([]consul.Written{{File: e.File, JSON: e.JSON}})
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	return list
}

func TestSuggestionNamesSources(t *testing.T) {
	t.Parallel()
	got := suggested(t, false, nil, edges("web GET /a", "web GET /b", "east/web GET /a", "!evil GET /a")).HCL
	want := `Kind = "service-intentions"
Name = "api"
Sources = [
  # Calls seen: 2, the last at 2026-01-02T12:00:00Z.
  {
    Name = "web"
    Action = "allow"
  },
  # Calls seen: 1, the last at 2026-01-02T12:00:00Z.
  {
    Name = "web"
    Peer = "east"
    Action = "allow"
  },
  {
    Name = "*"
    Action = "deny"
  },
  {
    Name = "*"
    Peer = "east"
    Action = "deny"
  },
]
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("suggestion (-want +got):\n%s", diff)
	}
}

func TestSuggestionNamesPathsAndMethods(t *testing.T) {
	t.Parallel()
	got := suggested(t, true, nil, edges("web GET /a", "web POST /a", "web GET /u.x/{id}/y", "web GET /b/**", "web * /**", "web OPTIONS *", "web GET /c/{id}/**", `web GET /$${d}"%{`)).HCL
	for _, want := range []string{
		"PathExact = \"/a\"\n          Methods = [\"GET\", \"POST\"]", `PathRegex = "/u\\.x/[^/]+/y"`, `PathPrefix = "/b/"`, "PathPrefix = \"/\"\n        }\n", `PathRegex = "\\*"`,
		`PathRegex = "/c/[^/]+/.*"`, `PathExact = "/$\u0024{d}\"\u0025{"`, "Action = \"deny\"\n        HTTP = {\n          PathPrefix = \"/\"",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in:\n%s", want, got)
		}
	}
	entries(t, got)
}

func TestNothingIsSuggestedThatWouldLoosen(t *testing.T) {
	t.Parallel()
	token := intention("web", "api", connect.Allow)
	token.JWT = needs("", "okta")
	header := permission(connect.Allow, connect.MatchPrefix, "/")
	header.HTTP.Headers = []connect.HeaderMatch{{Name: "x", Kind: connect.MatchPresent}}
	for name, tc := range map[string]struct {
		rule connect.Intention
		note string
	}{
		"a token":  {token, "asks for a JWT"},
		"a header": {intention("web", "api", connect.Deny, header), "looks at headers"},
	} {
		s := suggested(t, false, map[string]Rules{"api": http(connect.Deny, tc.rule)}, edges("web GET /a"))
		if s.HCL != "" || !strings.Contains(strings.Join(s.Notes, "\n"), tc.note) {
			t.Errorf("%s: %q, %s", name, s.Notes, s.HCL)
		}
	}
	// Permissions by path stay such, also when nobody asks for them.
	s := suggested(t, false, map[string]Rules{"api": http(connect.Deny, intention("web", "api", connect.Deny, permission(connect.Allow, connect.MatchPrefix, "/")))}, edges("web GET /a"))
	if !strings.Contains(s.HCL, `PathExact = "/a"`) {
		t.Errorf("a source with permissions got:\n%s", s.HCL)
	}
	// What was taken away stays away.
	s = suggested(t, false, map[string]Rules{"api": http(connect.Deny)}, edges("web GET /a"))
	if s.HCL != "" || !strings.Contains(strings.Join(s.Notes, "\n"), "left out web → api GET /a: it was allowed once and is denied by the default policy") {
		t.Errorf("%q, %s", s.Notes, s.HCL)
	}
	// Consul takes no permissions for a service of TCP.
	s = suggested(t, true, map[string]Rules{"api": {Default: connect.Allow, Protocol: connect.TCP}}, edges("web GET /a"))
	if strings.Contains(s.HCL, "Permissions") {
		t.Errorf("for TCP:\n%s", s.HCL)
	}
}

// The property that makes suggestions safe to write: a preview of one says that
// nobody who is served now would be cut, and lets in nobody else.
func TestPreviewOfASuggestionCutsNobody(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(6, 5))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	suggestions := 0
	for round := range 400 {
		rules := Rules{Default: connect.Action(random.IntN(2)), Protocol: connect.Protocol(pick("http", "grpc", "tcp"))} //nolint:gosec // 0 or 1
		for range random.IntN(5) {
			source, destination := pick("web", "shop", "east/web", "*"), pick("api", "api", "*")
			i := intention(source, destination, connect.Action(random.IntN(2))) //nolint:gosec // 0 or 1
			if destination == "api" && rules.Protocol.Speaks() {
				for range random.IntN(3) {
					p := permission(connect.Action(random.IntN(2)), connect.MatchKind(pick("prefix", "exact", "regex")), pick("/", "/a", "/u/11", "/u/[0-9]+", "/b")) //nolint:gosec // 0 or 1
					if random.IntN(2) == 0 {
						p.HTTP.Methods = []string{pick("GET", "POST")}
					}
					i.Permissions = append(i.Permissions, p)
				}
			}
			rules.Intentions = append(rules.Intentions, i)
		}
		j, err := NewJudge(rules, "east")
		if err != nil {
			t.Fatal(err)
		}
		var seen []ledger.Edge
		for range 1 + random.IntN(12) {
			e := edge(pick("web", "shop", "east/web", "other") + pick("", pick(" GET", " POST", " *")+" "+pick("/", "/a", "/a/b", "/u/{id}", "/u/{id}/x", "/b/**", "/**", "/c.d/{id}/**")))
			if e.Method == "*" {
				e.Path, e.Sample = "/**", ""
			}
			f := j.foresee(e, noon())
			if e.Allowed = f.mayAllow; !f.sure() || random.IntN(5) == 0 {
				e.Allowed = random.IntN(2) == 0
			}
			seen = append(seen, e)
		}
		l7 := random.IntN(2) == 0
		s := suggested(t, l7, map[string]Rules{"api": rules}, seen)
		if s.HCL == "" {
			continue
		}
		suggestions++
		after := rules
		if after.Intentions, _, err = entries(t, s.HCL).Replace("api", rules.Intentions); err != nil {
			t.Fatal(err)
		}
		changes, err := Preview(seen, map[string]Swap{"api": {Before: rules, After: after}}, noon())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range changes {
			open := slices.ContainsFunc(seen, func(e ledger.Edge) bool {
				_, wide := wide(e.Path)
				return e.Label() == c.Edge.Label() && e.Allowed && (wide || e.Method == "")
			})
			if c.Hurts() || (l7 && !open && rules.Protocol.Speaks() && c.Effect == Opened) {
				t.Errorf("round %d: %s: %s; before: %s; after: %s; suggestion:\n%s", round, c.Effect, c.Edge, c.Before, c.After, s.HCL)
			}
		}
		if t.Failed() {
			t.Fatalf("rules: %+v\nedges: %+v", rules, seen)
		}
	}
	if suggestions < 150 {
		t.Errorf("only %d suggestions were made: too few to mean something", suggestions)
	}
}
