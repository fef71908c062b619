// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is the outrider that every test runs, with the race detector in it.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "outrider-integration-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "outrider")
	build := exec.Command("go", "build", "-race", "-o", binary, "..")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		panic(fmt.Errorf("build outrider: %w", err))
	}
	m.Run() // its result becomes the exit code of the test program
}
