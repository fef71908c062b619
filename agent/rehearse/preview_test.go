// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package rehearse

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/ledger"
	"github.com/outrider-mesh/outrider/connect"
)

// edge reads "web GET /users/{id}", of which "!" in front says that it was
// denied, as an inbound call of api.
func edge(text string) ledger.Edge {
	text, denied := strings.CutPrefix(text, "!")
	words := strings.Fields(text)
	e := ledger.Edge{Direction: "inbound", Destination: "api", Source: words[0], Allowed: denied == false, Count: 1, First: noon(), Last: noon()}
	if peer, name, ofPeer := strings.Cut(e.Source, "/"); ofPeer {
		e.Peer, e.Source = peer, name
	}
	if len(words) == 3 {
		e.Method, e.Path = words[1], words[2]
		if strings.Contains(e.Path, "{id}") {
			e.Sample = strings.ReplaceAll(strings.Replace(e.Path, "/**", "/x", 1), "{id}", "11")
		}
	}
	return e
}

func http(action connect.Action, intentions ...connect.Intention) Rules {
	return Rules{Intentions: intentions, Default: action, Protocol: connect.HTTP}
}

func effects(t *testing.T, swap Swap, edges ...ledger.Edge) []string {
	t.Helper()
	changes, err := Preview(edges, map[string]Swap{"api": swap}, noon())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range changes {
		if c.Before == "" || c.After == "" {
			t.Errorf("%s: the change has no reason: %+v", c.Edge, c)
		}
		out = append(out, fmt.Sprintf("%s: %s", c.Effect, c.Edge))
	}
	return out
}

func TestPreviewSaysWhoIsCutAndWhoIsLetIn(t *testing.T) {
	t.Parallel()
	const allow, deny = connect.Allow, connect.Deny
	all := intention("web", "api", allow)
	l7 := func(p ...connect.Permission) connect.Intention { return intention("web", "api", deny, p...) }
	withHeader := permission(deny, connect.MatchPrefix, "/a")
	withHeader.HTTP.Headers = []connect.HeaderMatch{{Name: "x", Kind: connect.MatchPresent}}
	withToken := permission(allow, connect.MatchPrefix, "/")
	withToken.JWT = needs("", "okta")
	for name, tc := range map[string]struct {
		before, after Rules
		lost          []connect.Source
		edges         []string
		want          []string
	}{
		"nothing changes":          {before: http(deny, all), after: http(deny, all), edges: []string{"web", "web GET /a", "!shop GET /a"}},
		"a source goes":            {before: http(deny, all), after: http(deny), edges: []string{"web GET /a", "shop GET /a"}, want: []string{"cut: web → api GET /a"}},
		"a source comes":           {before: http(deny), after: http(deny, all), edges: []string{"!web GET /a"}, want: []string{"newly allowed: web → api GET /a"}},
		"a peer is another source": {before: http(deny, intention("east/web", "api", allow), all), after: http(deny, all), edges: []string{"east/web GET /a", "web GET /a"}, want: []string{"cut: east/web → api GET /a"}},
		"what is denied by now is not cut": {
			before: http(deny), after: http(deny), edges: []string{"web GET /a"},
		},
		"who was denied once and has not called since is not cut": {
			before: http(deny, all), after: http(deny), edges: []string{"!web GET /a"},
		},
		"paths": {
			before: http(deny, all), after: http(deny, l7(permission(deny, connect.MatchPrefix, "/admin"), permission(allow, connect.MatchPrefix, "/", "GET"))),
			edges: []string{"web GET /", "web GET /admin/x", "web POST /a", "web GET /a/{id}"},
			want:  []string{"cut: web → api GET /admin/x", "cut: web → api POST /a"},
		},
		"forms of paths": {
			before: http(deny, all),
			after: http(deny, l7(permission(deny, connect.MatchExact, "/u/42"), permission(deny, connect.MatchPrefix, "/v/42"),
				permission(allow, connect.MatchRegex, "/[uvw]/[0-9]+"), permission(allow, connect.MatchRegex, "/x/[a-z]+"))),
			edges: []string{"web GET /u/{id}", "web GET /v/{id}", "web GET /w/{id}", "web GET /x/{id}", "web GET /y/{id}", "web GET /u/x"},
			want:  []string{"cut: web → api GET /u/x", "may be cut: web → api GET /u/{id}", "may be cut: web → api GET /v/{id}", "may be cut: web → api GET /x/{id}", "may be cut: web → api GET /y/{id}"},
		},
		"paths that were not written down": {
			before: http(deny, all), after: http(deny, l7(permission(deny, connect.MatchPrefix, "/a/b"), permission(allow, connect.MatchPrefix, "/a"))),
			edges: []string{"web GET /**", "web GET /a/**", "web GET /a/c/**", "web GET /b/**"},
			want:  []string{"cut: web → api GET /b/**", "may be cut: web → api GET /**", "may be cut: web → api GET /a/**"},
		},
		"any method": {
			before: http(deny, all), after: http(deny, l7(permission(allow, connect.MatchPrefix, "/", "GET"))),
			edges: []string{"web * /**"}, want: []string{"may be cut: web → api * /**"},
		},
		"headers": {
			before: http(deny, all), after: http(deny, l7(withHeader, permission(allow, connect.MatchPrefix, "/"))),
			edges: []string{"web GET /a", "web GET /b"}, want: []string{"may be cut: web → api GET /a"},
		},
		"the same headers as before": {
			before: http(deny, l7(withHeader, permission(allow, connect.MatchPrefix, "/"))), after: http(deny, l7(withHeader, permission(allow, connect.MatchPrefix, "/")), intention("x", "api", deny)),
			edges: []string{"web GET /a"},
		},
		"headers that decide nothing": {
			before: http(deny, l7(withHeader)), after: http(deny), edges: []string{"!web GET /a"},
		},
		"a token": {
			before: http(deny, all), after: http(deny, l7(withToken)), edges: []string{"web GET /a"}, want: []string{"may be cut: web → api GET /a"},
		},
		"a token that may open": {
			before: http(deny), after: http(deny, l7(withToken)), edges: []string{"!web GET /a"}, want: []string{"may be newly allowed: web → api GET /a"},
		},
		"a token less": {
			before: http(deny, l7(withToken)), after: http(deny, all), edges: []string{"web GET /a", "!web GET /b"}, want: []string{"newly allowed: web → api GET /b"},
		},
		"no permission matches under a default of allow": {
			before: http(allow), after: http(allow, l7(permission(deny, connect.MatchPrefix, "/a"))), edges: []string{"web GET /a", "web GET /b"}, want: []string{"cut: web → api GET /a"},
		},
		"connections under permissions": {
			before: Rules{Intentions: []connect.Intention{all}}, after: Rules{Intentions: []connect.Intention{l7(permission(allow, connect.MatchPrefix, "/"))}},
			edges: []string{"web"}, want: []string{"cut: web → api"},
		},
		"a rule that stood behind and is not known": {
			before: http(deny, all), after: http(deny), lost: []connect.Source{all.Source}, edges: []string{"web GET /a", "!shop GET /b"},
			want: []string{"may be cut: web → api GET /a"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var edges []ledger.Edge
			for _, text := range tc.edges {
				edges = append(edges, edge(text))
			}
			if diff := cmp.Diff(tc.want, effects(t, Swap{tc.before, tc.after, tc.lost}, edges...)); diff != "" {
				t.Errorf("effects (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPreviewPassesOverWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	out, other := edge("web GET /a"), edge("web GET /a")
	out.Direction, other.Destination = "outbound", "db"
	if got := effects(t, Swap{Before: http(connect.Allow), After: http(connect.Deny)}, out, other); got != nil {
		t.Errorf("effects %v", got)
	}
}

// Whatever a preview is sure of, the evaluator does for every path of the form.
func TestPreviewIsNeverSureOfWhatIsNotSo(t *testing.T) {
	t.Parallel()
	paths := map[string][]string{
		"/users/{id}": {"/users/11", "/users/42", "/users/99"}, "/users": {"/users"}, "/users/{id}/x": {"/users/42/x", "/users/1/x"},
		"/**": {"/", "/users/42", "/zzz", "/users"}, "/users/**": {"/users/42", "/users/a/b"},
	}
	matchers := []connect.PathMatch{
		{}, {Kind: connect.MatchPrefix, Value: "/"}, {Kind: connect.MatchPrefix, Value: "/users/4"}, {Kind: connect.MatchPrefix, Value: "/use"},
		{Kind: connect.MatchExact, Value: "/users/42"}, {Kind: connect.MatchExact, Value: "/USERS", IgnoreCase: true},
		{Kind: connect.MatchRegex, Value: "/users/[0-9]+"}, {Kind: connect.MatchRegex, Value: "/users/.*/x"}, {Kind: connect.MatchRegex, Value: "/z+"},
	}
	for i, a := range matchers {
		for n, b := range matchers {
			for mask := range 8 {
				action := func(bit int) connect.Action { return connect.Action(mask >> bit & 1) } //nolint:gosec // 0 or 1
				rules := http(action(0), intention("web", "api", connect.Deny,
					connect.Permission{Action: action(1), HTTP: connect.RequestMatch{Path: a}}, connect.Permission{Action: action(2), HTTP: connect.RequestMatch{Path: b}}))
				j, err := NewJudge(rules)
				if err != nil {
					t.Fatal(err)
				}
				for form, real := range paths {
					f := j.foresee(edge("web GET "+form), noon())
					if !f.sure() {
						continue
					}
					for _, path := range real {
						o := j.request(caller("", "web"), &connect.Head{Method: "GET", Path: path, Header: connect.Header{}}, noon())
						if o.allowed != f.mayAllow {
							t.Errorf("permissions %d and %d, mask %d: %s is allowed=%v, and the form %s was said to be %v: %s", i, n, mask, path, o.allowed, form, f.mayAllow, f.why)
						}
					}
				}
			}
		}
	}
}

func TestWhatHurtsComesFirst(t *testing.T) {
	t.Parallel()
	swap := Swap{Before: http(connect.Deny, intention("web", "api", connect.Allow)), After: http(connect.Deny, intention("shop", "api", connect.Allow))}
	got := effects(t, swap, edge("!shop GET /a"), edge("web GET /a"))
	if !slices.Equal(got, []string{"cut: web → api GET /a", "newly allowed: shop → api GET /a"}) {
		t.Errorf("effects %v", got)
	}
	for e, want := range map[Effect]bool{Cut: true, MayCut: true, Opened: false, MayOpen: false} {
		if got := (Change{Effect: e}).Hurts(); got != want {
			t.Errorf("%s hurts: %v", e, got)
		}
	}
}
