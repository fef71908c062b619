// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package packer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// What prepare made, for the tests that run in another process.
const (
	packerVariable  = "OUTRIDER_TEST_PACKER"         // the program
	pluginsVariable = "OUTRIDER_TEST_PACKER_PLUGINS" // the folder of its plugins
	rootVariable    = "OUTRIDER_TEST_CLOUD_ROOT"     // tar of a Debian cloud machine
	packageVariable = "OUTRIDER_TEST_PACKAGE"        // the .deb that is tested
)

func TestMain(m *testing.M) {
	//nolint:forbidigo // the tests run in another process, whose code this is
	os.Exit(realserver.OnOwnHost(prepare, m.Run))
}

// prepare provides Packer, the machine and the package; the function it returns
// removes the package.
func prepare() (func(), error) {
	cache := os.Getenv("OUTRIDER_CACHE")
	if home, err := os.UserHomeDir(); cache == "" && err == nil {
		cache = filepath.Join(home, ".cache", "outrider")
	}
	tools, err := lines(exec.Command(filepath.Join("..", "servers", "packer", "provide"), cache), 2)
	if err != nil {
		return nil, err
	}
	root, err := lines(exec.Command("./root", cache), 1)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "outrider-packer-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the package: %w", err)
	}
	remove := func() { _ = os.RemoveAll(dir) }
	deb, err := buildPackage(dir)
	if err != nil {
		remove()
		return nil, err
	}
	for name, value := range map[string]string{
		packerVariable: tools[0], pluginsVariable: tools[1], rootVariable: root[0], packageVariable: deb,
	} {
		if err := os.Setenv(name, value); err != nil {
			remove()
			return nil, fmt.Errorf("hand %s to the tests: %w", name, err)
		}
	}
	return remove, nil
}

// lines runs a command that prints as many lines.
func lines(cmd *exec.Cmd, want int) ([]string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("run %s: %w", cmd, err)
	}
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(got) != want {
		return nil, fmt.Errorf("run %s: it printed %d lines, want %d", cmd, len(got), want)
	}
	return got, nil
}

// buildPackage makes the package, unless OUTRIDER_PACKAGE names one.
func buildPackage(dir string) (string, error) {
	if file := os.Getenv("OUTRIDER_PACKAGE"); file != "" {
		return file, nil
	}
	cmd := exec.Command("make", "--no-print-directory", "-f", "dist/package.mk", "package", "PACKAGE_DIR="+dir, "PACKAGE_ARCHS="+runtime.GOARCH)
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the package: %w: %s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err == nil && len(found) != 1 {
		err = errors.New("there is not one .deb")
	}
	if err != nil {
		return "", fmt.Errorf("build the package: %w", err)
	}
	return found[0], nil
}
