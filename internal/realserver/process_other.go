// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

//go:build !linux

package realserver

import "syscall"

// dieWithParent returns nil: only Linux ties a child's life to its parent's.
func dieWithParent() *syscall.SysProcAttr { return nil }

// threadsStopped returns nil: where there is no /proc, a signal that was sent
// must do.
func threadsStopped(int) error { return nil }
