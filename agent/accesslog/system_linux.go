// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package accesslog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mode of a file that is made here.
const mode = 0o640

// openFile opens or makes a file for appending. Where it is may have been said by
// somebody who has no account on this host, and others who have one may write to
// directories on the way. So a symbolic link is followed only if it belongs to
// root or to us, the file is never one, and a file that is there must be a
// regular one of root's or ours without another name, and no program. euid is who we
// are.
func openFile(path string, euid int) (*os.File, error) {
	dir, name, err := walk(path, euid)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(dir) }()
	const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
	fd, err := unix.Openat(dir, name, flags|unix.O_CREAT|unix.O_EXCL, mode)
	switch {
	case err == nil:
		err = unix.Fchmod(fd, mode) // whatever the umask
	case errors.Is(err, unix.EEXIST):
		if fd, err = unix.Openat(dir, name, flags, 0); err == nil {
			err = proper(fd, euid)
		}
	}
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, errors.New("it is a symbolic link; name the file itself")
	case errors.Is(err, unix.ENXIO):
		return nil, errors.New("it is no regular file")
	case fd < 0:
		return nil, err
	case err == nil:
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// proper reports why lines must not be appended to a file that is there.
func proper(fd, euid int) error {
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return err
	}
	switch {
	case s.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is no regular file")
	case !trusted(s.Uid, euid):
		return fmt.Errorf("the file belongs to user %d, neither to root nor to user %d, who writes it", s.Uid, euid)
	case s.Nlink != 1:
		return errors.New("the file has another name as well (a hard link)")
	case s.Mode&0o111 != 0:
		return errors.New("the file is a program") // lines of a format could be commands
	}
	return nil
}

func trusted(uid uint32, euid int) bool { return uid == 0 || int(uid) == euid }

// walk opens the directory of a path, link by link, and returns it with the name
// of the file.
func walk(path string, euid int) (dir int, name string, err error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	const maxLinks = 16
	at := -1
	enter := func(next int) {
		if at >= 0 {
			_ = unix.Close(at)
		}
		at = next
	}
	defer func() {
		if err != nil {
			enter(-1)
		}
	}()
	root := func() error {
		fd, err := unix.Open("/", flags|unix.O_DIRECTORY, 0)
		if err == nil {
			enter(fd)
		}
		return err
	}
	if err := root(); err != nil {
		return -1, "", err
	}
	rest, links := parts(path), 0
	for len(rest) > 1 {
		step := rest[0]
		rest = rest[1:]
		next, err := unix.Openat(at, step, flags, 0)
		if err != nil {
			return -1, "", fmt.Errorf("directory %q: %w", step, err)
		}
		target, err := linkOf(next, step, euid)
		if err == nil && target == "" {
			enter(next)
			continue
		}
		_ = unix.Close(next)
		if links++; err == nil && links > maxLinks {
			err = fmt.Errorf("more than %d symbolic links", maxLinks)
		}
		if strings.HasPrefix(target, "/") && err == nil {
			err = root()
		}
		if err != nil {
			return -1, "", err
		}
		rest = append(parts(target), rest...)
	}
	if len(rest) == 0 || rest[0] == ".." {
		return -1, "", errors.New("it names no file")
	}
	return at, rest[0], nil
}

func parts(path string) []string {
	var out []string
	for p := range strings.SplitSeq(path, "/") {
		if p != "" && p != "." {
			out = append(out, p)
		}
	}
	return out
}

// linkOf returns where a symbolic link leads, "" for a directory.
func linkOf(fd int, name string, euid int) (string, error) {
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return "", err
	}
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "", nil
	case unix.S_IFLNK:
	default:
		return "", fmt.Errorf("%q is no directory", name)
	}
	if !trusted(s.Uid, euid) {
		return "", fmt.Errorf("%q is a symbolic link of user %d, which is not followed", name, s.Uid)
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	if err != nil {
		return "", fmt.Errorf("read the symbolic link %q: %w", name, err)
	}
	if n == 0 || n == len(target) {
		return "", fmt.Errorf("the symbolic link %q leads nowhere", name)
	}
	return string(target[:n]), nil
}

// writable waits until a pipe, socket or terminal takes what a pipe takes in one
// piece, so that a write does not wait for whoever should read.
func writable(ctx context.Context, f *os.File) error {
	const look = 100 // ms until the next look whether ctx has ended
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for {
		n, failed := 0, error(nil)
		err := raw.Control(func(fd uintptr) {
			set := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}} //nolint:gosec // descriptors are small
			n, failed = unix.Poll(set, look)
		})
		switch {
		case err != nil:
			return err
		case failed != nil && !errors.Is(failed, unix.EINTR):
			return failed
		case n > 0:
			return nil
		case ctx.Err() != nil:
			return errUnread
		}
	}
}

// duplicate returns another descriptor of a stream. The end of its reader is then
// an error like any other: a write to descriptor 1 or 2 itself would end the
// process.
func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, failed := -1, error(nil)
	if err := raw.Control(func(of uintptr) { fd, failed = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, failed
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
