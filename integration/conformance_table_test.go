// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// A group is one case of a table: a piece of configuration in Consul's names
// and what must become of requests under it.
type group struct {
	name   string
	config json.RawMessage
	rows   []row
}

// A row is one request. Wants are texts made from answers; how depends on the
// table.
type row struct {
	request

	want    string
	byEnvoy string // what Envoy does instead, "" when it does the same
	why     string // it does
}

// check compares what a side did with what it is known to do.
func (r row) check(t *testing.T, side, got string) {
	t.Helper()
	want := r.want
	if side == "envoy" && r.byEnvoy != "" {
		want = r.byEnvoy
	}
	if got != want {
		t.Errorf("%q: want %s, got %s", r.wire(), want, got)
	}
}

// runOn sends every request of a group and compares.
func (g group) runOn(t *testing.T, side string, send func(request) (string, error)) {
	t.Run(side+": "+g.name, func(t *testing.T) {
		for _, r := range g.rows {
			if !r.expressible() {
				continue
			}
			got, err := send(r.request)
			if err != nil {
				got = "error: " + err.Error()
			}
			r.check(t, side, got)
		}
	})
}

// different marks a row on which Envoy is known to differ. A difference that is
// none, or has no reason, is a mistake in the table.
func (r *row) different(t *testing.T, byEnvoy, why string) {
	t.Helper()
	if byEnvoy == r.want || why == "" {
		t.Errorf("%q: Envoy's answer %q and reason %q make no difference", r.wire(), byEnvoy, why)
	}
	r.byEnvoy, r.why = byEnvoy, why
}

// readTable decodes a table of another package.
func readTable(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// enough fails the test when a table has become so short that it proves little.
func enough(t *testing.T, groups []group) []group {
	t.Helper()
	rows := 0
	for _, g := range groups {
		rows += len(g.rows)
	}
	if rows < 10 {
		t.Fatalf("a table has %d requests", rows)
	}
	return groups
}

// matchGroups are the cases of package request's matchers. Those of kind
// intention use what only permissions have; other kinds than that and "" are
// not for Consul. config is the match.
func matchGroups(t *testing.T, kind string) []group {
	t.Helper()
	var out []group
	for _, file := range []string{"paths", "headers", "parameters"} {
		var cases []struct {
			Name, Kind string
			HTTP       json.RawMessage
			Requests   []struct {
				request

				Want  bool
				Envoy *struct {
					Want bool
					Why  string
				}
			}
		}
		readTable(t, "../connect/request/testdata/"+file+".json", &cases)
		for _, c := range cases {
			if c.Kind != kind {
				continue
			}
			g := group{name: file + ": " + c.Name, config: c.HTTP}
			for _, q := range c.Requests {
				if q.Path == "" {
					q.Path = "/"
				}
				r := row{request: q.request, want: hitOrMiss(q.Want)}
				if q.Envoy != nil {
					r.different(t, hitOrMiss(q.Envoy.Want), q.Envoy.Why)
				}
				g.rows = append(g.rows, r)
			}
			out = append(out, g)
		}
	}
	return enough(t, out)
}

func hitOrMiss(hit bool) string {
	if hit {
		return "hit"
	}
	return "miss"
}

// routeGroups are the routers of package route; config is the list of routes.
func routeGroups(t *testing.T) []group {
	t.Helper()
	var cases []struct {
		Name     string
		Routes   json.RawMessage
		Requests []struct {
			request

			Service, Subset, Sent string
			Envoy                 *struct{ Service, Sent, Why string }
		}
	}
	readTable(t, "../connect/route/testdata/routes.json", &cases)
	var out []group
	for _, c := range cases {
		g := group{name: c.Name, config: c.Routes}
		for _, q := range c.Requests {
			r := row{request: q.request, want: arrival(q.Service, q.Subset, q.Sent)}
			if e := q.Envoy; e != nil {
				service := q.Service
				if e.Service != "" {
					service = e.Service
				}
				r.different(t, arrival(service, q.Subset, e.Sent), e.Why)
			}
			g.rows = append(g.rows, r)
		}
		out = append(out, g)
	}
	return enough(t, out)
}

// arrival is where a request went, and as what.
func arrival(service, subset, target string) string {
	if subset != "" {
		service = subset + "." + service
	}
	return service + " " + target
}

// permissionGroups are the permissions of package policy, and those of package
// request's matchers that only permissions have. config is the list.
func permissionGroups(t *testing.T, byDefault string) []group {
	t.Helper()
	var cases []struct {
		Name, Default string
		Permissions   json.RawMessage
		Requests      []struct {
			request

			Allow bool
			Envoy *struct {
				Allow bool
				Why   string
			}
		}
	}
	readTable(t, "../connect/policy/testdata/permissions.json", &cases)
	var out []group
	for _, c := range cases {
		if c.Default != byDefault {
			continue
		}
		g := group{name: c.Name, config: c.Permissions}
		for _, q := range c.Requests {
			r := row{request: q.request, want: passedOrNot(q.Allow)}
			if q.Envoy != nil {
				r.different(t, passedOrNot(q.Envoy.Allow), q.Envoy.Why)
			}
			g.rows = append(g.rows, r)
		}
		out = append(out, g)
	}
	if byDefault == "deny" {
		out = append(out, allowing(matchGroups(t, "intention"))...)
	}
	return enough(t, out)
}

func passedOrNot(passed bool) string {
	if passed {
		return "passed"
	}
	return "refused"
}

// allowing makes permissions of matches: what is hit passes.
func allowing(matches []group) []group {
	for i, g := range matches {
		matches[i].config = json.RawMessage(fmt.Sprintf(`[{"Action":"allow","HTTP":%s}]`, g.config))
		for j, r := range g.rows {
			matches[i].rows[j].want = passedOrNot(r.want == hitOrMiss(true))
			if r.byEnvoy != "" {
				matches[i].rows[j].byEnvoy = passedOrNot(r.byEnvoy == hitOrMiss(true))
			}
		}
	}
	return matches
}

// normalGroups are the normalisations of package request; config is that of the
// mesh config entry.
func normalGroups(t *testing.T) []group {
	t.Helper()
	var cases []struct {
		Name          string
		Normalization json.RawMessage
		Requests      []struct {
			request

			Status int
			Want   string
			// What is on the wire may be read before it is normalised, as a target
			// in absolute form is.
			OverHTTP *struct {
				Status int
				Want   string
			} `json:"over_http"`
			Envoy *struct {
				Status int
				Want   string
				Why    string
			}
		}
	}
	readTable(t, "../connect/request/testdata/normalize.json", &cases)
	var out []group
	for _, c := range cases {
		g := group{name: c.Name, config: c.Normalization}
		for _, q := range c.Requests {
			r := row{request: q.request, want: received(q.Status, q.Want)}
			if w := q.OverHTTP; w != nil {
				r.want = received(w.Status, w.Want)
			}
			if e := q.Envoy; e != nil {
				r.different(t, received(e.Status, e.Want), e.Why)
			}
			g.rows = append(g.rows, r)
		}
		out = append(out, g)
	}
	return enough(t, out)
}

// received is the target that an application saw, or the status without it.
// Status 0 stands for success.
func received(status int, target string) string {
	switch status {
	case 0:
		return "200 " + target
	case 400:
		return "400"
	}
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, target))
}

// Every difference from Envoy that a table knows is explained to users.
func TestDifferencesFromEnvoyAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/envoy-differences.md")
	if err != nil {
		t.Fatal(err)
	}
	groups := append(matchGroups(t, ""), routeGroups(t)...)
	groups = append(groups, permissionGroups(t, "deny")...)
	groups = append(groups, permissionGroups(t, "allow")...)
	groups = append(groups, normalGroups(t)...)
	for _, g := range groups {
		for _, r := range g.rows {
			if r.byEnvoy != "" && !strings.Contains(string(text), r.why) {
				t.Errorf("docs/envoy-differences.md does not say %q (%s: %q)", r.why, g.name, r.wire())
			}
		}
	}
}
