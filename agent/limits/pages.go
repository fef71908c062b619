// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// PagesRead is how many pages this process has waited for until they were read from
// a disk, since it began: its major faults (Linux manual, proc_pid_stat(5)). As it
// swaps nothing as a rule, they are pages of its program. root is the root of the
// file system.
func PagesRead(root fs.FS) (int64, error) {
	const file = "proc/self/stat"
	text, err := fs.ReadFile(root, file)
	if err != nil {
		return 0, fmt.Errorf("read how many pages came from disk: %w", err)
	}
	// The name before may hold anything but an end of its own.
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	const majorFaults = 9 // state is 0
	fields := strings.Fields(rest)
	if len(fields) <= majorFaults {
		return 0, fmt.Errorf("read how many pages came from disk: /%s has %d fields after the name", file, len(fields))
	}
	n, err := strconv.ParseInt(fields[majorFaults], 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("read how many pages came from disk: /%s says %q", file, fields[majorFaults])
	}
	return n, nil
}
