// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

//go:build unix && !linux

package accesslog

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// openFile is not done where links cannot be looked at one by one.
func openFile(string, int) (*os.File, error) {
	return nil, errors.New("access logs to files are written on Linux only; use stdout or stderr")
}

func writable(ctx context.Context, _ *os.File) error {
	if ctx.Err() != nil {
		return errUnread
	}
	return nil
}

// duplicate is a descriptor that may be closed.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
