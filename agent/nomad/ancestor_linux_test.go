// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// A program chooses its own name, and so what stands before the parent's number.
func TestParentIsReadPastAnyNameOfAProgram(t *testing.T) {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "x) S 1 (y")
	if err := os.Symlink(sleep, name); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), name, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if got, err := parentOf(cmd.Process.Pid); err != nil || got != os.Getpid() {
		t.Errorf("parent %d, %v; want %d", got, err, os.Getpid())
	}
}

// Such names mean the loopback (RFC 6761 §6.3), whatever the group's own name
// server and hosts file say.
func TestNamesOfTheLoopbackAskNobody(t *testing.T) {
	h, port := pair(t)
	if got, err := heard(h.Dial(t.Context(), "tcp", net.JoinHostPort("consul.localhost", port))); err != nil || got != "host" {
		t.Errorf("reached %q, %v", got, err)
	}
}
