// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package main writes docs/metrics.md from the tables of metrics in the code. It
// must not say of a metric what those do not say.
package main

import (
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/agent/telemetry"
	"github.com/outrider-mesh/outrider/connect/measure"
)

// text is the document without its tables, whose places have names.
//
//go:embed metrics.md.in
var text string

func main() {
	if _, err := os.Stdout.WriteString(document()); err != nil {
		fmt.Fprintf(os.Stderr, "metrics: %v\n", err)
		os.Exit(1) //nolint:forbidigo // This is a command: its process ends here.
	}
}

func document() string {
	bounds := strings.NewReplacer(
		"@sources@", fmt.Sprint(measure.MaxSources), "@upstreams@", fmt.Sprint(measure.MaxUpstreams),
		"@targets@", fmt.Sprint(measure.MaxTargets), "@intentions@", fmt.Sprint(measure.MaxIntentions),
		"@traffic@", table(measure.Metrics()), "@state@", table(telemetry.Metrics()),
	)
	return bounds.Replace(text)
}

func table(metrics []measure.Metric) string {
	var out strings.Builder
	out.WriteString("| Metric | Kind | Labels | What it says |\n|---|---|---|---|\n")
	for _, m := range metrics {
		var labels []string
		for _, l := range m.Labels {
			labels = append(labels, "`"+l+"`")
		}
		if own := slices.Index(m.Labels, "proxy_id"); own == 1 {
			labels = append([]string{"of the sidecar"}, labels[2:]...)
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, strings.Join(labels, ", "), m.Help)
	}
	return strings.TrimSuffix(out.String(), "\n")
}
