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
func ForgetText() error { return advise("r-xp", syscall.MADV_DONTNEED) }

// ReadSparingly has the kernel read of the program's file what is used, page by
// page, and not 128 KiB around it (madvise(2), MADV_RANDOM). Where memory is tight
// and the file counts for this process, what is read around drives out what is
// needed, until most of the time goes into reading the program. To be called when
// the program has initialised itself, which is faster with all that is around.
func ReadSparingly() error {
	return errors.Join(advise("r-xp", syscall.MADV_RANDOM), advise("r--p", syscall.MADV_RANDOM))
}

// advise says something to the kernel of those parts of the program's file that
// are mapped with some rights.
func advise(rights string, advice uintptr) error {
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
		start, length, ok := partOf(line, program, rights)
		if !ok {
			continue
		}
		found = true
		if _, _, failed := syscall.Syscall(syscall.SYS_MADVISE, start, length, advice); failed != 0 {
			return fmt.Errorf("advise the kernel on the program's pages: %w", failed)
		}
	}
	if !found {
		return fmt.Errorf("the program's pages %s are not among what is mapped", rights)
	}
	return nil
}

// partOf reads a line of /proc/self/maps (proc_pid_maps(5)), and reports false for
// what is not a part of the program with these rights.
func partOf(line, program, rights string) (start, length uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[1] != rights || fields[5] != program {
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
