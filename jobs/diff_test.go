// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiffShowsWhatChangesWithThreeLinesAround(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ before, after, want string }{
		"nothing": {"a\nb\n", "a\nb\n", ""},
		"insertion in the middle": {
			"1\n2\n3\n4\n5\n6\n7\n8\n", "1\n2\n3\n4\nnew\n5\n6\n7\n8\n",
			"--- a\n+++ b\n@@ -2,6 +2,7 @@\n 2\n 3\n 4\n+new\n 5\n 6\n 7\n",
		},
		"two places far apart": {
			"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n", "0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n",
			"--- a\n+++ b\n@@ -1,3 +1,4 @@\n+0\n 1\n 2\n 3\n@@ -7,4 +8,3 @@\n 7\n 8\n 9\n-10\n",
		},
		"from nothing":         {"", "a\n", "--- a\n+++ b\n@@ -0,0 +1 @@\n+a\n"},
		"a torn last line":     {"a", "a\n", "--- a\n+++ b\n@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n"},
		"a replacement":        {"a\nb\n", "a\nc\n", "--- a\n+++ b\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n"},
		"everything goes away": {"a\nb\n", "", "--- a\n+++ b\n@@ -1,2 +0,0 @@\n-a\n-b\n"},
	}
	for name, tc := range tests {
		if diff := cmp.Diff(tc.want, Diff("a", "b", []byte(tc.before), []byte(tc.after), false)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestColouredDiffKeepsControlCharactersFromTheTerminal(t *testing.T) {
	t.Parallel()
	got := Diff("a", "b", nil, []byte("x\x1b[2Jy\n"), true)
	if !strings.Contains(got, "\x1b[32m+x?[2Jy\x1b[0m\n") {
		t.Errorf("diff: %q", got)
	}
}

func TestDiffOfAnyTextsLeadsFromOneToTheOther(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	text := func(most int) string {
		var b strings.Builder
		for range random.IntN(most) {
			fmt.Fprintln(&b, random.IntN(4))
		}
		return b.String()
	}
	for n := range 300 {
		most := 30
		if n == 0 {
			most = 3 * maxDiffSteps // beyond what is searched
		}
		before, after := text(most), text(most)
		var olds, news strings.Builder
		for _, l := range compare(split([]byte(before)), split([]byte(after))) {
			if l.sign != '+' {
				olds.WriteString(l.text + "\n")
			}
			if l.sign != '-' {
				news.WriteString(l.text + "\n")
			}
		}
		if olds.String() != before || news.String() != after {
			t.Fatalf("of %q and %q the difference gives %q and %q", before, after, olds.String(), news.String())
		}
	}
}
