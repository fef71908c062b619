// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/telemetry"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/measure"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.md")

const (
	rulesFile     = "../prometheus/outrider.rules.yml"
	dashboardFile = "../grafana/outrider.json"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDocumentIsThatOfTheCode(t *testing.T) {
	t.Parallel()
	const name = "../../docs/metrics.md"
	if *update {
		if err := os.WriteFile(name, []byte(document()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(document(), read(t, name)); diff != "" {
		t.Errorf("%s is stale: run make golden (-want +got):\n%s", name, diff)
	}
	if left := regexp.MustCompile(`@[a-z]+@`).FindString(document()); left != "" {
		t.Errorf("%s was not replaced", left)
	}
}

// labelsOf are the labels of each of our metrics by name.
func labelsOf() map[string][]string {
	out := make(map[string][]string)
	for _, m := range slices.Concat(measure.Metrics(), telemetry.Metrics()) {
		out[m.Name] = m.Labels
		if m.Kind == measure.Histogram {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				out[m.Name+suffix] = append(slices.Clone(m.Labels), "le")
			}
		}
	}
	return out
}

func TestTablesNameEveryMetricOnce(t *testing.T) {
	t.Parallel()
	rows := slices.Concat(measure.Metrics(), telemetry.Metrics())
	for i, m := range rows {
		if slices.ContainsFunc(rows[:i], func(o measure.Metric) bool { return o.Name == m.Name }) {
			t.Errorf("%s is there twice", m.Name)
		}
		if (m.Kind == measure.Counter) != strings.HasSuffix(m.Name, "_total") || !strings.HasSuffix(m.Help, ".") || strings.Contains(m.Help, "|") {
			t.Errorf("%+v", m)
		}
	}
}

var (
	ours     = regexp.MustCompile(`\boutrider_[a-z_]+`)
	selector = regexp.MustCompile(`\b(outrider_[a-z_]+)\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`([a-z_]+) *(?:=~|!~|!=|=) *"([^"]*)"`)
)

// check returns a sentence for each metric and label of an expression that does not
// exist, and for each reason that is none.
func check(expression string) []string {
	var found []string
	known := labelsOf()
	for _, name := range ours.FindAllString(expression, -1) {
		if _, there := known[name]; !there {
			found = append(found, fmt.Sprintf("there is no metric %s: %s", name, expression))
		}
	}
	for _, m := range selector.FindAllStringSubmatch(expression, -1) {
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(append([]string{"job", "instance"}, known[m[1]]...), l[1]) {
				found = append(found, fmt.Sprintf("%s has no label %s: %s", m[1], l[1], expression))
			}
			for reason := range strings.SplitSeq(l[2], "|") {
				if l[1] == "reason" && !slices.Contains(connect.Reasons(), connect.Reason(reason)) {
					found = append(found, fmt.Sprintf("there is no reason %s: %s", reason, expression))
				}
			}
		}
	}
	return found
}

func TestCheckFindsWhatDoesNotExist(t *testing.T) {
	t.Parallel()
	for expression, want := range map[string]string{
		`rate(outrider_requests_total{code="2xx", job="o"}[5m])`: "",
		`outrider_request_total`:                                 "there is no metric outrider_request_total",
		`outrider_requests_total{status="2xx"}`:                  "has no label status",
		`outrider_failures_total{reason=~"tls_failed|denied"}`:   "there is no reason denied",
		`outrider_request_duration_seconds_bucket{le="1"}`:       "",
		`outrider_requests_total_bucket`:                         "there is no metric",
	} {
		got := strings.Join(check(expression), "; ")
		if !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%s: %q, want %q", expression, got, want)
		}
	}
}

// A panel is what a dashboard shows in one place.
type panel struct {
	Title   string
	Type    string
	GridPos struct{ H, W, X, Y int }
	Targets []struct{ Expr, LegendFormat string }
}

func dashboard(t *testing.T) (panels []panel, variables []string) {
	t.Helper()
	var d struct {
		Panels     []panel
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
		for _, problem := range check(v.Definition) {
			t.Errorf("variable %s: %s", v.Name, problem)
		}
	}
	return d.Panels, variables
}

func TestDashboardShowsMetricsThatExist(t *testing.T) {
	t.Parallel()
	panels, variables := dashboard(t)
	shown := make(map[string]bool)
	for _, p := range panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			for _, problem := range check(target.Expr) {
				t.Errorf("%q: %s", p.Title, problem)
			}
			for _, v := range regexp.MustCompile(`\$([a-z]+)\b`).FindAllStringSubmatch(target.Expr, -1) {
				if !slices.Contains(variables, v[1]) {
					t.Errorf("%q: no variable $%s", p.Title, v[1])
				}
			}
			for _, name := range ours.FindAllString(target.Expr, -1) {
				shown[strings.TrimSuffix(name, "_bucket")] = true
			}
		}
	}
	for _, m := range slices.Concat(measure.Metrics(), telemetry.Metrics()) {
		if !shown[m.Name] && m.Name != "outrider_sources" && m.Name != "outrider_snapshot_age_seconds" {
			t.Errorf("the dashboard does not show %s", m.Name)
		}
	}
}

func TestPanelsOfTheDashboardDoNotOverlap(t *testing.T) {
	t.Parallel()
	panels, _ := dashboard(t)
	for i, a := range panels {
		if a.GridPos.X+a.GridPos.W > 24 {
			t.Errorf("%q is wider than the dashboard", a.Title)
		}
		for _, b := range panels[:i] {
			p, q := a.GridPos, b.GridPos
			if p.X < q.X+q.W && q.X < p.X+p.W && p.Y < q.Y+q.H && q.Y < p.Y+p.H {
				t.Errorf("%q lies over %q", a.Title, b.Title)
			}
		}
	}
}

// Every expression is read by Prometheus's own parser, as a rule.
func TestExpressionsOfTheDashboardAreUnderstood(t *testing.T) {
	t.Parallel()
	values := strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$job", ".*", "$instance", ".*", "$service", ".*", "$direction", "inbound")
	var rules strings.Builder
	rules.WriteString("groups:\n- name: dashboard\n  rules:\n")
	panels, _ := dashboard(t)
	n := 0
	for _, p := range panels {
		for _, target := range p.Targets {
			fmt.Fprintf(&rules, "  - record: dashboard:expression%d\n    expr: %q\n", n, values.Replace(target.Expr))
			n++
		}
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := realserver.Promtool(t, nil, "check", "rules", file); err != nil || !strings.Contains(out, fmt.Sprintf("%d rules found", n)) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAlertsLookAtMetricsThatExist(t *testing.T) {
	t.Parallel()
	text := read(t, rulesFile)
	for _, problem := range check(strings.ReplaceAll(text, "outrider_memory_mb", "")) {
		t.Error(problem)
	}
	if n := len(ours.FindAllString(text, -1)); n < 16 {
		t.Errorf("%d metrics in the rules", n)
	}
}

func TestAlertsFireWhenTheyShould(t *testing.T) {
	t.Parallel()
	if out, err := realserver.Promtool(t, nil, "check", "rules", rulesFile); err != nil || !strings.Contains(out, "rules found") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := realserver.Promtool(t, nil, "test", "rules", "../prometheus/outrider.rules.test.yml"); err != nil || !strings.Contains(out, "SUCCESS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestAlertsSayWhatToDo(t *testing.T) {
	t.Parallel()
	var names []string
	for rule := range strings.SplitSeq(read(t, rulesFile), "- alert: ") {
		name, rest, _ := strings.Cut(rule, "\n")
		if !strings.HasPrefix(name, "Outrider") {
			continue
		}
		if slices.Contains(names, name) || !strings.Contains(rest, "summary:") || !strings.Contains(rest, "description:") || !strings.Contains(rest, "severity:") {
			t.Errorf("alert %s:\n%s", name, rest)
		}
		names = append(names, name)
	}
	if len(names) < 10 {
		t.Errorf("alerts %q", names)
	}
}
