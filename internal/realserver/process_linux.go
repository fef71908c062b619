// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package realserver

import "syscall"

// dieWithParent makes the kernel kill the child when the test dies without
// cleaning up, as after a panic or a kill.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
