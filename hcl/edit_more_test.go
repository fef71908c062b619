// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestABlockTakesThePlaceOfItsNamesakeOnly(t *testing.T) {
	t.Parallel()
	const src = "a {\n  id \"y\" {\n    v = 1\n  }\n}\n"
	for name, tc := range map[string]struct {
		put  Block
		want string
	}{
		"the same labels": {Block{Type: "id", Labels: []string{"y"}}, "a {\n  id \"y\" {}\n}\n"},
		"other labels":    {Block{Type: "id", Labels: []string{"x"}}, "a {\n  id \"y\" {\n    v = 1\n  }\n\n  id \"x\" {}\n}\n"},
		"no labels":       {Block{Type: "id"}, "a {\n  id \"y\" {\n    v = 1\n  }\n\n  id {}\n}\n"},
	} {
		got, err := Edit("f", []byte(src), []Change{{In: []Step{{Type: "a"}}, Put: &tc.put}})
		if diff := cmp.Diff(tc.want, string(got)); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// No edit gives out a text that is not HCL, wherever the comments stand.
func TestNoEditGivesOutATextThatIsNotHCL(t *testing.T) {
	t.Parallel()
	set, put := Change{Set: &Attribute{"new", "v"}}, Change{Put: &Block{Type: "new"}}
	for _, src := range []string{
		"a {\n b = 1 /* x\n*/ }\n", "a { /* x\n*/ }\n", "a {\n b {} /* x\n */ }\n", "a { # x\n}\n", "a {\n b = <<E\nx\nE\n}\n", "a {\n b = [<<E\nx\nE\n]\n}\n",
		"a {\n b = \"${<<E\nx\nE\n}\"\n}\n", "a /* x\n*/ {}\n", "a {}", "a {\n}", "a { b = 1 }", "a { b = 1 /* x\n */ }\n",
	} {
		for _, c := range []Change{set, put} {
			c.In = []Step{{Type: "a"}}
			out, err := Edit("f", []byte(src), []Change{c})
			if newSource("f", []byte(src)).diags.HasErrors() {
				if err == nil {
					t.Errorf("%q, which is not HCL, became %q", src, out)
				}
				continue
			}
			if err != nil {
				if !strings.Contains(err.Error(), "put its parts on lines of their own") {
					t.Errorf("%q: %v", src, err)
				}
				continue
			}
			s := newSource("f", out)
			if s.diags.HasErrors() || !strings.Contains(string(out), "new") {
				t.Errorf("%q became %q", src, out)
			}
			if comment := strings.Contains(src, "x"); comment && !strings.Contains(string(out), "x") {
				t.Errorf("%q lost its comment: %q", src, out)
			}
		}
	}
}
