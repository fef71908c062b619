// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAProgramIsBuiltOrTheCompilerIsQuoted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example\n\ngo 1.26\n")
	write("main.go", "package main\n\nvar said string\n\nfunc main() { print(said) }\n")
	if err := Release(program, dir, "-X main.said=hello"); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(program).CombinedOutput(); err != nil || string(out) != "hello" {
		t.Errorf("it says %q, %v", out, err)
	}
	write("main.go", "package main\n\nfunc main() { nonsense() }\n")
	if err := Build(program, dir); err == nil || !strings.Contains(err.Error(), "undefined: nonsense") {
		t.Errorf("error %v", err)
	}
}

func TestUntilAsksUntilThereIsNoError(t *testing.T) {
	t.Parallel()
	left := 3
	Until(t, time.Minute, "it is over", func() error {
		if left--; left > 0 {
			return errors.New("not yet")
		}
		return nil
	})
	if left != 0 {
		t.Errorf("%d are left", left)
	}
}
