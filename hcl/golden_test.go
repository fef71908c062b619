// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden compares a result with its file, or rewrites the file.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatalf("%v; run the test with -update", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", name, diff)
	}
}

// cases lists the files of a directory of testdata, at least as many as asked,
// and makes it the working directory so that no path of this machine shows.
func cases(t *testing.T, dir string, atLeast int) []string {
	t.Helper()
	t.Chdir(filepath.Join("testdata", dir))
	t.Setenv("OUTRIDER_TEST_NAME", "from-the-environment")
	names, err := filepath.Glob("*.hcl")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < atLeast {
		t.Fatalf("%d cases in %s, want at least %d", len(names), dir, atLeast)
	}
	return names
}

func text(t *testing.T, e *Error) string {
	t.Helper()
	if e == nil {
		return ""
	}
	var b bytes.Buffer
	if err := e.Write(&b, 80, false); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestGoodFilesDecodeToTheirGolden(t *testing.T) {
	for _, name := range cases(t, "good", 12) {
		t.Run(name, func(t *testing.T) {
			cfg, err := Load(name)
			if err != nil {
				if problem, ok := errors.AsType[*Error](err); ok {
					t.Fatalf("refused:\n%s", text(t, problem))
				}
				t.Fatal(err)
			}
			var b bytes.Buffer
			encoder := json.NewEncoder(&b)
			encoder.SetIndent("", "  ")
			encoder.SetEscapeHTML(false)
			if err := encoder.Encode(cfg); err != nil {
				t.Fatal(err)
			}
			if warnings := text(t, cfg.Warnings); warnings != "" {
				b.WriteString("\n" + warnings)
			}
			golden(t, strings.TrimSuffix(name, ".hcl")+".golden", b.Bytes())
		})
	}
}

func TestBadFilesAreRefusedWithTheirGolden(t *testing.T) {
	for _, name := range cases(t, "bad", 40) {
		t.Run(name, func(t *testing.T) {
			cfg, err := Load(name)
			problem, ok := errors.AsType[*Error](err)
			if !ok {
				t.Fatalf("Load = %v, %v; want an *Error", cfg, err)
			}
			if cfg != nil {
				t.Error("a refused configuration was returned")
			}
			if strings.Contains(problem.Error(), "\n") {
				t.Errorf("more than one line: %q", problem.Error())
			}
			golden(t, strings.TrimSuffix(name, ".hcl")+".golden", []byte(text(t, problem)))
		})
	}
}
