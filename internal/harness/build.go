// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package harness builds programs of this checkout for tests that run them as whole
// processes, and waits for what these bring about. It must not be imported by
// anything but tests; servers of others are those of package realserver.
package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build makes the program in a folder; flags are those of "go build".
func Build(file, folder string, flags ...string) error {
	return build(file, folder, nil, flags)
}

// Release makes the program in a folder as it is shipped. ldflags are added to those
// of the linker, env to the environment.
func Release(file, folder, ldflags string, env ...string) error {
	return build(file, folder, append([]string{"CGO_ENABLED=0"}, env...), []string{"-trimpath", "-ldflags", "-s -w " + ldflags})
}

func build(file, folder string, env, flags []string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-o", file}, flags...), ".")...)
	cmd.Dir = folder
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s in %s: %w: %s", filepath.Base(file), folder, err, out)
	}
	return nil
}
