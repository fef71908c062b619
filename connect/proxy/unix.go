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
	"syscall"
)

// ErrSocketInUse is the error for a path on which another process listens.
var ErrSocketInUse = errors.New("another process listens there")

// ListenUnix listens on the unix socket path with the given file mode; 0 leaves
// the mode to the umask. It replaces a socket that a dead process left behind,
// and nothing else: a path that is no socket, or one that somebody listens on
// ([ErrSocketInUse]), is an error and stays as it is. The listener removes the
// file when it closes.
func ListenUnix(ctx context.Context, path string, mode fs.FileMode) (net.Listener, error) {
	if err := removeDeadSocket(ctx, path); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(context.WithoutCancel(ctx), "unix", path)
	if err != nil || mode == 0 {
		return l, err
	}
	if err := os.Chmod(path, mode); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
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
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
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
