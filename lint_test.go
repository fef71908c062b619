// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the part of .golangci.yml that comes from the table of arrows")

const (
	depguardBegin = "    # depguard begin\n"
	depguardEnd   = "    # depguard end\n"
)

// depguard renders the arrows as settings of the linter of that name, so that
// an editor shows a forbidden import while it is written. In a list of allowed
// imports a trailing "$" means exactly this package.
func depguard(rules map[string]rule) string {
	var b strings.Builder
	b.WriteString("    depguard:\n      rules:\n")
	for _, dir := range slices.Sorted(maps.Keys(rules)) {
		r := rules[dir]
		name, files := strings.ReplaceAll(dir, "/", "-"), dir+"/*.go"
		if dir == "." {
			name, files = "main", "*.go"
		}
		fmt.Fprintf(&b, "        %s:\n          list-mode: strict\n", name)
		fmt.Fprintf(&b, "          files: [\"${base-path}/%s\", \"!$test\"]\n          allow:\n            - $gostd\n", files)
		for _, own := range r.ours {
			fmt.Fprintf(&b, "            - %s/%s$\n", module, own)
		}
		for _, lib := range r.libs {
			fmt.Fprintf(&b, "            - %s\n", lib)
		}
	}
	return b.String()
}

// between returns text split at the two markers; the middle lies between them.
func between(text, begin, end string) (before, middle, after string, ok bool) {
	before, rest, ok := strings.Cut(text, begin)
	if !ok {
		return "", "", "", false
	}
	middle, after, ok = strings.Cut(rest, end)
	return before, middle, after, ok
}

func TestLinterKnowsTheSameArrows(t *testing.T) {
	t.Parallel()
	const name = ".golangci.yml"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, got, after, ok := between(string(text), depguardBegin, depguardEnd)
	if !ok {
		t.Fatalf("%s lacks the lines %q and %q", name, strings.TrimSpace(depguardBegin), strings.TrimSpace(depguardEnd))
	}
	want := depguard(arrows())
	if *update && got != want {
		text := before + depguardBegin + want + depguardEnd + after
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s differs from the table of arrows: run make golden (-want +got):\n%s", name, diff)
	}
}

func TestLinterRuleNamesExactlyTheAllowedPackages(t *testing.T) {
	t.Parallel()
	got := depguard(map[string]rule{
		".":   {ours: []string{"a/b"}},
		"a/b": {libs: []string{"example.com/lib"}},
	})
	want := `    depguard:
      rules:
        main:
          list-mode: strict
          files: ["${base-path}/*.go", "!$test"]
          allow:
            - $gostd
            - ` + module + `/a/b$
        a-b:
          list-mode: strict
          files: ["${base-path}/a/b/*.go", "!$test"]
          allow:
            - $gostd
            - example.com/lib
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}
