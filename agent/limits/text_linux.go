// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// ForgetText gives back the pages of the program's own code, of which a start needs
// far more than what follows. What runs next is mapped again from where the kernel
// keeps the file, at a microsecond a page (madvise(2), MADV_DONTNEED). Only code is
// forgotten: it is the same in memory and on disk, which relocated data is not.
func ForgetText() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program's file: %w", err)
	}
	program = strings.TrimSuffix(program, " (deleted)") // an upgrade has replaced the file
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("read what is mapped: %w", err)
	}
	found := false
	for line := range strings.Lines(string(maps)) {
		start, length, ok := textOf(line, program)
		if !ok {
			continue
		}
		found = true
		if _, _, failed := syscall.Syscall(syscall.SYS_MADVISE, start, length, syscall.MADV_DONTNEED); failed != 0 {
			return fmt.Errorf("forget the program's code: %w", failed)
		}
	}
	if !found {
		return errors.New("forget the program's code: it is not among what is mapped")
	}
	return nil
}

// textOf reads a line of /proc/self/maps (proc_pid_maps(5)), and reports false for
// what is not the code of the program.
func textOf(line, program string) (start, length uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[1] != "r-xp" || fields[5] != program {
		return 0, 0, false
	}
	from, to, found := strings.Cut(fields[0], "-")
	first, err := strconv.ParseUint(from, 16, 64)
	last, also := strconv.ParseUint(to, 16, 64)
	if !found || err != nil || also != nil || last <= first {
		return 0, 0, false
	}
	return uintptr(first), uintptr(last - first), true
}
