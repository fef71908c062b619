// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestOnlyADeadSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	first, err := ListenUnix(t.Context(), path, 0o620)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o620 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := ListenUnix(t.Context(), path, 0); !errors.Is(err, ErrSocketInUse) {
		t.Errorf("a live socket: %v", err)
	}
	first.(*unixSocket).SetUnlinkOnClose(false)
	_ = first.Close()
	second, err := ListenUnix(t.Context(), path, 0)
	if err != nil {
		t.Fatalf("a dead socket: %v", err)
	}
	_ = second.Close()
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is left behind")
	}
}

func TestAFileIsNoSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(t.Context(), path, 0); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("error %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

// A listener that is too busy to accept must not lose its socket.
func TestASocketWithAFullBacklogIsAlive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "busy.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for { // nobody accepts: fill the backlog
		c, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Close(c) }()
		if err := syscall.Connect(c, &syscall.SockaddrUnix{Name: path}); errors.Is(err, syscall.EAGAIN) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ListenUnix(t.Context(), path, 0); !errors.Is(err, ErrSocketInUse) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket of a busy process is gone: %v", err)
	}
}

// The secrets directory of a Nomad task has a path that no socket address
// holds.
func TestSocketPathMayBeLongerThanASocketAddress(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s.sock")
	l, err := ListenUnix(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Fatalf("the socket is %v, %v", info.Mode(), err)
	}
	if _, err := ListenUnix(t.Context(), path, 0); !errors.Is(err, ErrSocketInUse) {
		t.Errorf("a second listener: %v, want ErrSocketInUse", err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("hello"))
			_ = conn.Close()
		}
	}()
	conn, err := DialUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close the file is still there: %v", err)
	}
	if _, err := ListenUnix(t.Context(), filepath.Join(dir, strings.Repeat("s", 120)), 0); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a name that is too long itself: %v", err)
	}
}

func TestDialUnixDoesNotFollowALink(t *testing.T) {
	dir := t.TempDir()
	l, err := ListenUnix(t.Context(), filepath.Join(dir, "real"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "real"), link); err != nil {
		t.Fatal(err)
	}
	if conn, err := DialUnix(t.Context(), link); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("through a link: %v, %v", conn, err)
	}
}

// A task of the same group may write to the folder that a socket of an upstream
// is in, and the sidecar may be root on the host.
func TestOnlyASocketIsGivenAMode(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(secret, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, secret} {
		if err := chmodSocket(path, 0o666); !errors.Is(err, errNotSocket) {
			t.Errorf("%s: error %v", filepath.Base(path), err)
		}
	}
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file behind the link has mode %v, %v", info.Mode(), err)
	}
}

// The swap of a socket for a link happens between any two looks at its path.
func TestASocketThatIsSwappedIsNotDialledThroughALink(t *testing.T) {
	dir := t.TempDir()
	listen := func(name, says string) {
		l, err := ListenUnix(t.Context(), filepath.Join(dir, name), 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte(says))
				_ = conn.Close()
			}
		}()
	}
	listen("forbidden", "forbidden")
	listen("task", "task")
	at, aside, link := filepath.Join(dir, "at"), filepath.Join(dir, "task"), filepath.Join(dir, "link")
	if err := errors.Join(os.Symlink(filepath.Join(dir, "forbidden"), link), os.Link(aside, at)); err != nil {
		t.Fatal(err)
	}
	stop, swapped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(swapped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, next := range []string{link, aside} {
				spare := filepath.Join(dir, "spare")
				_ = os.Link(next, spare)
				_ = os.Rename(spare, at)
				_ = os.Remove(spare)
			}
		}
	}()
	defer func() { close(stop); <-swapped }()
	for range 3000 {
		conn, err := DialUnix(t.Context(), at)
		if err != nil {
			continue
		}
		got, _ := io.ReadAll(conn)
		_ = conn.Close()
		if string(got) == "forbidden" {
			t.Fatal("the link was followed")
		}
	}
}
