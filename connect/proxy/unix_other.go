// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

//go:build !linux

package proxy

import (
	"io/fs"
	"os"
	"syscall"
)

// holdSocket looks at the socket at path. It cannot be held here: who may write
// to its directory may still replace it.
func holdSocket(path string) (heldSocket, func(), error) {
	info, err := os.Lstat(path)
	if err != nil {
		return heldSocket{}, nil, err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return heldSocket{}, nil, &fs.PathError{Op: "look at", Path: path, Err: errNotSocket}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return heldSocket{}, nil, &fs.PathError{Op: "look at", Path: path, Err: errNotSocket}
	}
	return heldSocket{path, st.Uid}, func() {}, nil
}
