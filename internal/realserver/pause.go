// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

//go:build unix

package realserver

import (
	"context"
	"syscall"
	"testing"
)

// Pause stops the process without ending it: connections stay open and are
// accepted by the kernel, but nothing answers. That is what a hung server and
// a cut network look like from outside. On return every thread has stopped.
func (p *process) Pause(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	if err := p.until(t, func(context.Context) error { return threadsStopped(p.cmd.Process.Pid) }); err != nil {
		t.Fatalf("pause %s: %v", p.name, err)
	}
}

// Resume lets a paused process go on.
func (p *process) Resume(t testing.TB) { p.signal(t, syscall.SIGCONT) }

func (p *process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("send %s to %s: %v", s, p.name, err)
	}
}
