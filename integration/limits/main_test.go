// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/outrider-mesh/outrider/internal/harness"
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
	if err := harness.Release(binary, "../..", ""); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}
