// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package realserver

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// Promtool runs Prometheus's promtool with args and stdin, and returns what it
// writes; err is set when it finds fault. OUTRIDER_PROMTOOL names the file, else
// the build cache has it, else PATH. Where it is missing the test fails.
func Promtool(t testing.TB, stdin []byte, args ...string) (output string, err error) {
	t.Helper()
	cmd := exec.Command(promtool(t), args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func promtool(t testing.TB) string {
	t.Helper()
	const env = "OUTRIDER_PROMTOOL"
	if path := os.Getenv(env); path != "" {
		if _, err := os.Stat(path); err != nil {
			t.Fatalf("run promtool: %s=%q: %v: correct the variable, or unset it and run make promtool", env, path, err)
		}
		return path
	}
	cache := os.Getenv("OUTRIDER_CACHE")
	if home, err := os.UserHomeDir(); cache == "" && err == nil {
		cache = filepath.Join(home, ".cache", "outrider")
	}
	cached, err := filepath.Glob(filepath.Join(cache, "bin", "promtool-[0-9]*"))
	if err == nil && len(cached) > 0 {
		return slices.Max(cached)
	}
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf("run promtool: neither %s nor PATH has it: run make promtool, or set %s", filepath.Join(cache, "bin"), env)
	}
	return path
}
