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
	"sync/atomic"
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
	if err != nil {
		return nil, err
	}
	return ownUnix(l, path)
}

// AdoptUnix makes a listener of a socket that another process has bound at path;
// mode is as in [ListenUnix]. The listener has a descriptor of its own.
func AdoptUnix(file *os.File, path string, mode fs.FileMode) (net.Listener, error) {
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("take over the socket %s: %w", path, err)
	}
	owned, err := ownUnix(l, path)
	if err != nil {
		return nil, err
	}
	if mode != 0 {
		if err := chmodSocket(path, mode); err != nil {
			owned.SetUnlinkOnClose(false) // it is not ours to remove
			_ = owned.Close()
			return nil, fmt.Errorf("take over the socket %s: set its mode: %w", path, err)
		}
	}
	return owned, nil
}

// unixSocket is a listener that removes its file by the name that was asked for:
// the name it was bound by may be a shorter one, which means another file later.
type unixSocket struct {
	*net.UnixListener
	path  string
	keeps atomic.Bool // the file stays
	once  sync.Once
}

func ownUnix(l net.Listener, path string) (*unixSocket, error) {
	bound, ok := l.(*net.UnixListener)
	if !ok {
		_ = l.Close()
		return nil, fmt.Errorf("listen on %s: the listener is a %T", path, l)
	}
	bound.SetUnlinkOnClose(false)
	return &unixSocket{UnixListener: bound, path: path}, nil
}

// SetUnlinkOnClose says whether Close removes the file, as it does unless told
// otherwise.
func (l *unixSocket) SetUnlinkOnClose(unlink bool) { l.keeps.Store(!unlink) }

// Close implements [net.Listener] and removes the file, once: another process may
// own the next one.
func (l *unixSocket) Close() error {
	l.once.Do(func() {
		if !l.keeps.Load() {
			_ = os.Remove(l.path)
		}
	})
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
