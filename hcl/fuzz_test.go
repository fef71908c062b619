// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// seed adds every file of testdata to a corpus.
func seed(f *testing.F) {
	f.Helper()
	for _, dir := range []string{"good", "bad"} {
		names, err := filepath.Glob(filepath.Join("testdata", dir, "*.hcl"))
		if err != nil || len(names) == 0 {
			f.Fatalf("no seeds in %s: %v", dir, err)
		}
		for _, name := range names {
			content, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(content)
		}
	}
}

// FuzzParse holds that any text is either a configuration or refused with a
// report that can be written.
func FuzzParse(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		cfg, err := Parse("fuzz.hcl", src)
		if err == nil {
			if _, err := json.Marshal(cfg); err != nil {
				t.Errorf("configuration cannot be written: %v", err)
			}
			return
		}
		problem, ok := errors.AsType[*Error](err)
		if !ok || cfg != nil {
			t.Fatalf("Parse = %v, %v", cfg, err)
		}
		if problem.JSON().Errors == 0 || problem.Error() == "" {
			t.Error("refused without a reason")
		}
		var b bytes.Buffer
		if err := problem.Write(&b, 80, true); err != nil {
			t.Error(err)
		}
		if _, err := json.Marshal(problem.JSON()); err != nil {
			t.Error(err)
		}
	})
}

// FuzzFormat holds that formatting a formatted text changes nothing, and that it
// stays a text that can be parsed.
func FuzzFormat(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		once, err := Format(src)
		if err != nil {
			return
		}
		twice, err := Format(once)
		if err != nil {
			t.Fatalf("the formatted text is refused: %v\n%q", err, once)
		}
		if !bytes.Equal(once, twice) {
			t.Errorf("formatted once:\n%q\ntwice:\n%q", once, twice)
		}
	})
}
