// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/outrider-mesh/outrider/internal/harness"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// programsVariable names a directory for PATH: the outrider that is tested, as it
// is released, and what Nomad and the jobs call by name.
const programsVariable = "OUTRIDER_TEST_PROGRAMS"

func programs() string { return os.Getenv(programsVariable) }

func TestMain(m *testing.M) {
	if name := os.Getenv(appVariable); name != "" {
		if err := serveApp(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is an application, not a test
		}
		return
	}
	//nolint:forbidigo // the tests run in another process, whose code this is
	os.Exit(realserver.OnOwnHost(build, m.Run))
}

// build makes the programs; the function it returns removes them.
func build() (func(), error) {
	dir, err := os.MkdirTemp("", "outrider-nomad-")
	if err != nil {
		return nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(dir, "testapp"))
	}
	for _, program := range []struct{ name, folder string }{
		{"outrider", filepath.Join("..", "..")},
		{"consul-cni", filepath.Join("..", "servers", "consul-cni")}, // a module of its own
	} {
		if err == nil {
			err = harness.Release(filepath.Join(dir, program.name), program.folder, "", "GOWORK=off", "GOFLAGS=-mod=readonly")
		}
	}
	if err == nil {
		// Tasks that run as nobody start them, too.
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		err = os.Setenv(programsVariable, dir)
	}
	if err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}
