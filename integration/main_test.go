// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/outrider-mesh/outrider/internal/harness"
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
	if err := harness.Build(binary, "..", "-race"); err != nil {
		panic(err)
	}
	m.Run() // its result becomes the exit code of the test program
}
