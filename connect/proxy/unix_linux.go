// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// holdSocket looks at the socket at path without following a link in its place.
// The name it returns is short, too (Linux manual, open(2): O_PATH).
func holdSocket(path string) (heldSocket, func(), error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return heldSocket{}, nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	release := func() { _ = unix.Close(fd) }
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		release()
		return heldSocket{}, nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		release()
		return heldSocket{}, nil, &fs.PathError{Op: "look at", Path: path, Err: errNotSocket}
	}
	return heldSocket{fmt.Sprintf("/proc/self/fd/%d", fd), st.Uid}, release, nil
}
