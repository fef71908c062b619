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
	// On a disk: /tmp may be memory itself, which the kernel cannot read again.
	dir, err := os.MkdirTemp("/var/tmp", "outrider-limits-")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "outrider")
	if err := harness.Release(binary, "../..", ""); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code) //nolint:forbidigo // nothing is left to clean up
	}))
}
