// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// programs is a directory for PATH: the outrider that is tested, as it is
// released, and what Nomad and the jobs call by name.
var programs string

func TestMain(m *testing.M) {
	if name := os.Getenv(appVariable); name != "" {
		if err := serveApp(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is an application, not a test
		}
		return
	}
	//nolint:forbidigo // the tests run in another process, whose code this is
	os.Exit(realserver.OnOwnHost(func() int {
		if err := build(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}))
}

// build makes programs, on the file system of the host, which is in memory and
// goes with it.
func build() error {
	programs = "/run/programs"
	if err := os.MkdirAll(programs, 0o755); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(programs, "outrider"), "../..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build outrider: %w: %s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return os.Symlink(self, filepath.Join(programs, "testapp"))
}
