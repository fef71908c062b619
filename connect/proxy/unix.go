// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// ErrSocketInUse is the error for a path on which another process listens.
var ErrSocketInUse = errors.New("another process listens there")

// ListenUnix listens on the unix socket path with the given file mode; 0 leaves
// the mode to the umask. It replaces a socket that a dead process left behind,
// and nothing else: a path that is no socket, or one that somebody listens on
// ([ErrSocketInUse]), is an error and stays as it is. The listener removes the
// file when it closes. On Linux the path may be longer than a socket address;
// the name of the file itself may not.
func ListenUnix(ctx context.Context, path string, mode fs.FileMode) (net.Listener, error) {
	if err := removeDeadSocket(ctx, path); err != nil {
		return nil, err
	}
	l, err := bindUnix(ctx, path)
	if err != nil || mode == 0 {
		return l, err
	}
	if err := chmodSocket(path, mode); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("set the mode of the socket: %w", err)
	}
	return l, nil
}

// A heldSocket is a socket file that was looked at. Its name leads to that very
// file, whatever is put in its place, until it is released.
type heldSocket struct {
	name string
	uid  uint32
}

var errNotSocket = errors.New("it is not a socket")

// chmodSocket gives a socket that we have bound its mode. Who may write to the
// directory may have put something else there since.
func chmodSocket(path string, mode fs.FileMode) error {
	held, release, err := holdSocket(path)
	if err != nil {
		return err
	}
	defer release()
	if int(held.uid) != os.Geteuid() {
		return errors.New("it is not the socket that was bound there")
	}
	return os.Chmod(held.name, mode)
}

// DialUnix connects to the unix socket path, which may be as long as those of
// [ListenUnix]. It does not follow a symbolic link in the place of the socket,
// and says so: who may write to the directory must not choose where a caller of
// more power ends up.
func DialUnix(ctx context.Context, path string) (net.Conn, error) {
	held, release, err := holdSocket(path)
	if err != nil {
		return nil, err
	}
	defer release()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", held.name)
	if failed, ok := errors.AsType[*net.OpError](err); ok {
		failed.Addr = &net.UnixAddr{Name: path, Net: "unix"}
	}
	return conn, err
}

// maxSocketPath is how many bytes of a path fit into the socket address of
// Linux, its end aside (Linux manual, unix(7)).
const maxSocketPath = 107

// shortPath returns another name of path that fits into a socket address. It is
// good until release.
func shortPath(path string) (short string, release func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	short = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	if len(short) > maxSocketPath {
		_ = dir.Close()
		return "", nil, fmt.Errorf("the name of the socket %s is too long: at most %d bytes fit", path, maxSocketPath)
	}
	return short, func() { _ = dir.Close() }, nil
}

func bindUnix(ctx context.Context, path string) (net.Listener, error) {
	short, release, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	defer release()
	var lc net.ListenConfig
	l, err := lc.Listen(context.WithoutCancel(ctx), "unix", short)
	if err != nil || short == path {
		return l, err
	}
	bound, ok := l.(*net.UnixListener)
	if !ok {
		_ = l.Close()
		return nil, fmt.Errorf("listen on %s: the listener is a %T", path, l)
	}
	// The short name ends with this call, and may then mean another file.
	bound.SetUnlinkOnClose(false)
	return &longSocket{UnixListener: bound, path: path}, nil
}

// longSocket is a listener whose file has a longer name than it was bound by.
type longSocket struct {
	*net.UnixListener
	path string
	once sync.Once
}

// Close implements net.Listener and removes the file, once: another process may
// own the next one.
func (l *longSocket) Close() error {
	l.once.Do(func() { _ = os.Remove(l.path) })
	return l.UnixListener.Close()
}

func removeDeadSocket(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("the path exists and is not a socket")
	}
	conn, err := DialUnix(ctx, path)
	if err == nil {
		_ = conn.Close()
	}
	// Any other error, such as that of a full backlog, comes from a socket that
	// is alive.
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return ErrSocketInUse
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove the socket left behind: %w", err)
	}
	return nil
}
