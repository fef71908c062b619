// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// A Socket is a well-known socket that exists.
type Socket struct {
	Path string
	Err  error // why it is not trusted; nil when it is
}

// WellKnownSockets are where Consul's HTTP API is often put by its
// configuration, addresses { http = "unix://…" }.
//
// alloc/tmp/consul_http.sock of the group is not among them. Nomad makes it for
// native tasks only, in a directory that every task of the group may write to;
// a container's root can give it the owner root, too. Whoever put a socket there
// would be sent the token and could forget every intention.
func WellKnownSockets() []string {
	return []string{"/run/consul/http.sock", "/run/consul/consul.sock", "/run/consul/consul_http.sock", "/opt/consul/http.sock", "/var/run/consul/http.sock"}
}

// Sockets looks at paths, and returns those that exist.
func Sockets(paths []string) []Socket {
	var found []Socket
	for _, path := range paths {
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		found = append(found, Socket{Path: path, Err: checkSocket(path)})
	}
	return found
}

// checkSocket reports why somebody else than root or the owner of the socket,
// Consul's user, could have put the socket there. Each directory on the way has
// to belong to one of the two, and nobody else may write to it.
func checkSocket(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("follow the socket %s: %w", path, err)
	}
	info, err := os.Lstat(real)
	if err != nil {
		return fmt.Errorf("look at the socket %s: %w", path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket", path)
	}
	owner, ok := uid(info)
	if !ok {
		return fmt.Errorf("the owner of %s cannot be told", path)
	}
	// The root directory is not looked at: with the exec driver it is the
	// task's own, open to all, and nobody but the task is in it.
	for dir := filepath.Dir(real); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if err != nil {
			return fmt.Errorf("look at the directory of the socket %s: %w", path, err)
		}
		id, ok := uid(info)
		if !ok || id != 0 && id != owner {
			return fmt.Errorf("%s is not trusted: its directory %s belongs to neither root nor the owner of the socket", path, dir)
		}
		if info.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("%s is not trusted: its directory %s may be written to by others; chmod go-w it", path, dir)
		}
	}
	return nil
}

func uid(info fs.FileInfo) (uint32, bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return s.Uid, true
}

// Usable reports why a task cannot use what the server's settings name: a
// socket or a TLS file that it does not see, or may not read.
func (s Server) Usable() error {
	for _, file := range []string{s.CAFile, s.CertFile, s.KeyFile} {
		if file == "" {
			continue
		}
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("use the TLS files of Nomad's consul block: %w", err)
		}
		_ = f.Close()
	}
	if path := socketPath(s.Address); path != "" {
		if info, err := os.Stat(path); err != nil || info.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("Nomad itself uses the socket %s, which this task does not see", path) //nolint:staticcheck // Nomad is a name
		}
	}
	return nil
}

func socketPath(address string) string {
	const scheme = "unix://"
	if len(address) > len(scheme) && address[:len(scheme)] == scheme && filepath.IsAbs(address[len(scheme):]) {
		return address[len(scheme):]
	}
	return ""
}
