// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"fmt"
	"os"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// What prepare made, for the tests that run in another process.
const (
	rootVariable     = "OUTRIDER_TEST_ROOT"     // tar of the Debian root
	packagesVariable = "OUTRIDER_TEST_PACKAGES" // directory with old/ and new/
)

func TestMain(m *testing.M) {
	if root := os.Getenv(bootVariable); root != "" {
		fmt.Fprintf(os.Stderr, "boot %s: %v\n", root, boot(root)) // it only returns when it failed
		os.Exit(1)                                                //nolint:forbidigo // this was to become an init, not a test
	}
	run := func() int {
		code := m.Run()
		if err := sweepCgroups(); err != nil {
			fmt.Fprintf(os.Stderr, "remove the control groups of the tests: %v\n", err)
			return max(code, 1)
		}
		return code
	}
	//nolint:forbidigo // the tests run in another process, whose code this is
	os.Exit(realserver.OnOwnHost(prepare, run))
}

// prepare provides the Debian root and the packages; the function it returns
// removes the packages.
func prepare() (func(), error) {
	tar, err := debianRoot()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "outrider-vm-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the packages: %w", err)
	}
	remove := func() { _ = os.RemoveAll(dir) }
	if err := buildPackages(dir); err != nil {
		remove()
		return nil, err
	}
	for name, value := range map[string]string{rootVariable: tar, packagesVariable: dir} {
		if err := os.Setenv(name, value); err != nil {
			remove()
			return nil, fmt.Errorf("hand %s to the tests: %w", name, err)
		}
	}
	return remove, nil
}
