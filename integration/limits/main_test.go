// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// binary is the outrider that every test runs: as it is shipped, because the
// race detector takes several times the memory.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "outrider-limits-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "outrider")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "../..")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		panic(fmt.Errorf("build outrider: %w", err))
	}
	goleak.VerifyTestMain(m)
}
