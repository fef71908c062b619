// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package realserver

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// dieWithParent makes the kernel kill the child when the test dies without
// cleaning up, as after a panic or a kill.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// threadsStopped returns nil once no thread of a process runs any more: the
// kernel stops them one by one.
func threadsStopped(pid int) error {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return fmt.Errorf("list the threads of process %d: %w", pid, err)
	}
	if len(files) == 0 {
		return fmt.Errorf("process %d has no threads", pid)
	}
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read the state of a thread: %w", err)
		}
		// The name is in parentheses and may hold anything; the state follows.
		state := string(stat[strings.LastIndexByte(string(stat), ')')+1:])
		if !strings.HasPrefix(state, " T") {
			return fmt.Errorf("thread %s still runs", filepath.Base(filepath.Dir(file)))
		}
	}
	return nil
}
