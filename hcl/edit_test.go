// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func taskLike() *Block {
	return &Block{Type: "task", Attributes: []Attribute{{"driver", "raw_exec"}, {"args", []string{"a ${b}", "%{c}\n"}}, {"n", 5}, {"on", true}},
		Blocks: []Block{{Type: "env"}, {Type: "id", Labels: []string{"x"}, Attributes: []Attribute{{"long_name", ""}}}}}
}

func TestEditsTouchNothingElse(t *testing.T) {
	t.Parallel()
	in := []Step{{Type: "a", Labels: []string{"x"}}, {Type: "b", Index: 1}}
	tests := map[string]struct {
		src     string
		changes []Change
		want    string
	}{
		"a new block at the end": {
			"a x {\n  b {}\n  b { # two\n  c=1\n  } // end\n}", []Change{{In: in, Put: taskLike()}},
			"a x {\n  b {}\n  b { # two\n  c=1\n\n  task {\n    driver = \"raw_exec\"\n    args   = [\"a $${b}\", \"%%{c}\\n\"]\n    n      = 5\n    on     = true\n\n    env {}\n\n    id \"x\" {\n      long_name = \"\"\n    }\n  }\n  } // end\n}",
		},
		"a block on one line opens": {
			"a x {\n  b {}\n  b { c=1 }\n}\n", []Change{{In: in, Set: &Attribute{"d", "e"}}},
			"a x {\n  b {}\n  b {\n    c=1\n    d = \"e\"\n  }\n}\n",
		},
		"an empty block on one line opens, with tabs and carriage returns": {
			"a x {\r\n\tb {}\r\n\tb {}\r\n\tz=1\r\n}\r\n", []Change{{In: in, Put: &Block{Type: "e", Attributes: []Attribute{{"d", 1}}}}},
			"a x {\r\n\tb {}\r\n\tb {\r\n\t\te {\r\n\t\t\td = 1\r\n\t\t}\r\n\t}\r\n\tz=1\r\n}\r\n",
		},
		"a value is replaced and its comment stays": {
			"a x {\n b {}\n b {\n c=1 # why\n }\n}", []Change{{In: in, Set: &Attribute{"c", "two"}}},
			"a x {\n b {}\n b {\n c=\"two\" # why\n }\n}",
		},
		"a heredoc is replaced": {
			"a x {\n b {}\n b {\n c=<<E\ntext }\nE\n d=1\n }\n}", []Change{{In: in, Set: &Attribute{"c", "two"}}},
			"a x {\n b {}\n b {\n c=\"two\"\n d=1\n }\n}",
		},
		"a new attribute follows the others, behind a comment of several lines": {
			"a x {\n b {}\n b {\n c=1 /* long\n comment */ \n\n e {}\n }\n}", []Change{{In: in, Set: &Attribute{"d", 2}}},
			"a x {\n b {}\n b {\n c=1 /* long\n comment */ \n d = 2\n\n e {}\n }\n}",
		},
		"a comment before the closing brace stays": {
			"a x {\n b {}\n b {\n c=1\n /* q */ }\n}", []Change{{In: in, Put: &Block{Type: "e"}}},
			"a x {\n b {}\n b {\n c=1\n /* q */\n\n e {}\n }\n}",
		},
		"a block is replaced, another one is added": {
			"a x {\n b {}\n b {\n  e { z=1 } # e\n }\n}", []Change{{In: in, Put: &Block{Type: "e"}}, {In: in, Put: &Block{Type: "e", Attributes: []Attribute{{"y", 1}}}, Add: true}},
			"a x {\n b {}\n b {\n  e {} # e\n\n  e {\n    y = 1\n  }\n }\n}",
		},
		"canonical form stays canonical": {
			"a x {\n  b {}\n  b {\n    c = 1 # why\n  }\n}\n", []Change{{In: in, Set: &Attribute{"longer", 2}}},
			"a x {\n  b {}\n  b {\n    c      = 1 # why\n    longer = 2\n  }\n}\n",
		},
	}
	for name, tc := range tests {
		got, err := Edit("f", []byte(tc.src), tc.changes)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestEditsWithoutAPlaceSaySo(t *testing.T) {
	t.Parallel()
	set := &Attribute{"a", 1}
	for want, tc := range map[string]struct {
		src string
		in  []Step
	}{
		`edit f: a "x" number 2: there is no such block in the text`:  {"a x {}", []Step{{"a", []string{"x"}, 1}}},
		`edit f: a > b: line 2 generates these blocks by dynamic "b"`: {"a x {\n dynamic \"b\" {\n }\n}", []Step{{Type: "a"}, {Type: "b"}}},
		`names no block`: {"a=1", nil},
	} {
		if _, err := Edit("f", []byte(tc.src), []Change{{In: tc.in, Set: set}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	_, err := Edit("f", []byte("a {"), []Change{{In: []Step{{Type: "a"}}, Set: set}})
	if _, ok := errors.AsType[*Error](err); !ok {
		t.Errorf("a text that is not HCL gives %v", err)
	}
}

func TestVariablesAreReadAsNomadReadsThem(t *testing.T) {
	t.Parallel()
	job := []byte("variable \"s\" { type = string }\nvariable \"l\" { type = list(string) }\nvariable \"u\" {}\nvariable \"e\" {}\n")
	files := []VariableFile{{"one", []byte("s = \"file\"\nu = 7\n")}, {"two", []byte("u = <<E\nlines\nE\n")}}
	got, err := Variables(job, []string{"NOMAD_VAR_e=env ${x}", "NOMAD_VAR_stranger=1", "NOMAD_VAR_s=early", "HOME=/"}, files, []string{`s=["text"]`, `l=["a","b"]`})
	want := "e = \"env $${x}\"\nl = ([\"a\",\"b\"]\n)\ns = \"[\\\"text\\\"]\"\nu = <<E\nlines\nE\n"
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
	for want, pair := range map[string]string{"NAME=VALUE": "s", "not an expression": "l=[", `no variable "typo"`: "typo=1", `variable "1x"`: "1x=1"} {
		if _, err := Variables(job, nil, nil, []string{pair}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", pair, err, want)
		}
	}
	if _, err := Variables(job, nil, []VariableFile{{"v", []byte("a {}")}}, nil); err == nil || !strings.Contains(err.Error(), "v:1: a block") {
		t.Errorf("a block among variables gives %v", err)
	}
}

// FuzzEdit edits any text: what comes out is HCL, has what was put in, and a text
// that is not in canonical form keeps its bytes around it.
func FuzzEdit(f *testing.F) {
	for _, src := range []string{
		"a {}", "a { b = 1 }", "a {\n b = 1 # c\n}", "a {\n/* x */ }", "a \"l\" {\n b=<<E\n}\nE\n}\na {}", "a {\r\n\tb = 1\r\n}", "a {\n b=1 /*\n*/\n c {}\n}",
		"a{\nenv{}}", "a {\n  b = {\n }\n}", "\ufeffa {\n}", "a {\n b = <<-E\n  x\n  E\n  # y\n}",
	} {
		f.Add(src, "name", "value ${x}")
	}
	f.Fuzz(func(t *testing.T, src, name, value string) {
		in := []Step{{Type: "a"}}
		changes := []Change{
			{In: in, Set: &Attribute{"fuzzed", value}},
			{In: in, Put: &Block{Type: "fuzz_block", Labels: []string{name}, Attributes: []Attribute{{"v", value}}}, Add: true},
		}
		out, err := Edit("f", []byte(src), changes)
		if err != nil {
			return
		}
		s := newSource("f", out)
		if s.diags.HasErrors() {
			t.Fatalf("%q became %q, which is not HCL", src, out)
		}
		block, _, err := find(s.body, in)
		if err != nil || block.Body.Attributes["fuzzed"] == nil {
			t.Fatalf("%q became %q without the attribute", src, out)
		}
		last := block.Body.Blocks[len(block.Body.Blocks)-1]
		if last.Type != "fuzz_block" || last.Body.Attributes["v"] == nil {
			t.Fatalf("%q became %q without the block", src, out)
		}
		before := newSource("f", []byte(src))
		if len(s.body.Blocks) != len(before.body.Blocks) || len(s.body.Attributes) != len(before.body.Attributes) {
			t.Fatalf("%q became %q with other blocks", src, out)
		}
		if canonical, _ := Format([]byte(src)); string(canonical) != src && !subsequence(strings.Fields(strings.ReplaceAll(src, "}", " } ")), string(out)) {
			if block.Body.Attributes["fuzzed"] != nil && !strings.Contains(src, "fuzzed") {
				t.Fatalf("%q became %q and lost text", src, out)
			}
		}
	})
}

// subsequence reports whether the words stand in the text in their order.
func subsequence(words []string, text string) bool {
	for _, w := range words {
		_, rest, ok := strings.Cut(text, w)
		if !ok {
			return false
		}
		text = rest
	}
	return true
}
