// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEntriesAreReadAsConsulReadsThem(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ src, want string }{
		"blocks within objects, commas left out": {
			"Kind = \"service-intentions\" # a comment\nSources = [\n {\n  Name = \"web\"\n  Permissions = [\n   { Action = \"allow\" HTTP { PathPrefix = \"/\" Methods = [\"GET\", \"PUT\",] } }\n  ]\n }\n]\n",
			`{"Kind":"service-intentions","Sources":[{"Name":"web","Permissions":[{"Action":"allow","HTTP":{"Methods":["GET","PUT"],"PathPrefix":"/"}}]}]}`,
		},
		"blocks that are repeated":     {"Sources { Name = \"a\" }\nSources { Name = \"b\" }\nX { }", `{"Sources":[{"Name":"a"},{"Name":"b"}],"X":{}}`},
		"quoted names and escapes":     {`"Name" = "a\u0024{b}\"\\d"`, `{"Name":"a${b}\"\\d"}`},
		"numbers, truth and nothing":   {"A = -1\nB = 2.5e2\nC = true\nD = []\n", `{"A":-1,"B":2.5e2,"C":true,"D":[]}`},
		"text of several lines":        {"A = <<-EOT\n    a\n      b\n    EOT\nB = <<EOT\n x\nEOT\n", `{"A":"a\n  b\n","B":" x\n"}`},
		"JSON":                         {`{"Kind": "x", "Sources": [{"Name": "a"}], "N": 12345678901234567890}`, `{"Kind":"x","N":12345678901234567890,"Sources":[{"Name":"a"}]}`},
		"comments of all three styles": {"// a\n/* b */ A = 1 # c\nB = 2 // d\n", `{"A":1,"B":2}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := ParseEntry("x.hcl", []byte(tc.src))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(e.JSON)); diff != "" {
				t.Errorf("JSON (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMistakesInEntriesAreShownWithTheirLine(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ src, want string }{
		"twice":               {"A = 1\nB = 2\nA = 3", `x.hcl:3: "A" is given twice`},
		"twice in an object":  {"S = [{ Name = \"a\", Name = \"b\" }]", `x.hcl:1: "Name" is given twice`},
		"block and argument":  {"A = {}\nA { }", `x.hcl:2: "A" is given twice`},
		"twice in JSON":       {"{\"A\": 1,\n\"A\": 2}", `x.hcl:2: config entry is not JSON: "A" is given twice`},
		"two JSON values":     {"{}\n{}", "x.hcl:2: config entry is not JSON: Something follows after its end"},
		"JSON that is torn":   {"{\"A\": ", "config entry is not JSON"},
		"a label":             {"Sources \"web\" { }", `"Sources" has no label`},
		"a variable":          {"A = b", "a value must be written out"},
		"a template":          {`A = "${b}"`, `write "\u0024{"`},
		"a function":          {`A = file("x")`, "a value must be written out"},
		"a loop":              {"A = [for x in [1] : x]", "a value must be written out"},
		"an open brace":       {"A {\n B = 1\n", "brace not closed"},
		"an open quote":       {"A = \"b\n", "quote not closed"},
		"no comma":            {"A = [1 2]", "comma or bracket missing"},
		"no value":            {"A\nB = 1", "a value is missing"},
		"an escape that none": {`A = "\d"`, "backslash"},
		"too deep":            {"A = " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "too deeply nested"},
		"too deep in JSON":    {`{"A":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "}", "brackets are open"},
		"no text":             {"A = \"\xff\"", "not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseEntry("x.hcl", []byte(tc.src))
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(tc.want)) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestDirectoryOfEntriesIsReadByName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{"b.json": `{"A":2}`, "a.hcl": "A = 1", "c.txt": "no", ".d.hcl": "no"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := LoadEntries(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, filepath.Base(e.File)+" "+string(e.JSON))
	}
	if diff := cmp.Diff([]string{`a.hcl {"A":1}`, `b.json {"A":2}`}, got); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if _, err := LoadEntries(filepath.Join(dir, "gone")); err == nil {
		t.Error("a path that is not there was read")
	}
}

func FuzzParseEntry(f *testing.F) {
	for _, seed := range []string{
		"Kind = \"a\"\nSources = [{ Name = \"web\", HTTP { A = [1, 2,] } }]", `{"A": [1, {"b": null}]}`, "A = <<-X\n b\n X\n", "A = \"${b}\"", "A { } A { }", "\"x\" = -1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		e, err := ParseEntry("x", src)
		if err != nil {
			return
		}
		var v map[string]any
		if json.Unmarshal(e.JSON, &v) != nil {
			t.Fatalf("not an object: %s", e.JSON)
		}
		again, err := ParseEntry("x", e.JSON)
		if err != nil || string(again.JSON) != string(e.JSON) {
			t.Fatalf("read again: %s, %v; want %s", again.JSON, err, e.JSON)
		}
	})
}
