// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A HostNetwork is the network namespace of the process that started the task,
// Nomad's executor, which is that of the Nomad agent. Only sockets are made in
// it: a socket stays in the namespace it was made in (Linux manual,
// network_namespaces(7)), and everything else of this process stays outside. It
// may be used from any goroutine until Close.
type HostNetwork struct {
	host, own int // descriptors of namespaces
}

// maxAncestors bounds the way up from the task to Nomad's executor: a shell or
// two may be between them.
const maxAncestors = 8

// FindHost looks for the nearest ancestor in another network, and tries to enter
// it. apart reports that there is one, even when the error says why it cannot be
// entered: that needs root with its capabilities, and a driver that does not
// hide the ancestors. The init process is never taken for Nomad's: whose parent
// has ended belongs to it.
func FindHost() (host *HostNetwork, apart bool, err error) {
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, false, fmt.Errorf("open the task's own network: %w", err)
	}
	there, err := ancestorNetwork(own)
	if err != nil {
		_ = unix.Close(own)
		return nil, false, err
	}
	h := &HostNetwork{host: there, own: own}
	if err := h.inside(func() error { return nil }); err != nil {
		h.Close()
		return nil, true, fmt.Errorf("it takes root with CAP_SYS_ADMIN: %w", err)
	}
	return h, true, nil
}

// ancestorNetwork returns a descriptor of the first other network above.
func ancestorNetwork(own int) (int, error) {
	pid := os.Getppid()
	for range maxAncestors {
		if pid <= 1 {
			break
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, fmt.Errorf("look at the process %d that started this task: %w", pid, err)
		}
		same, err := sameFile(own, fd)
		next, perr := parentOf(pid)
		switch {
		case err != nil || perr != nil:
			_ = unix.Close(fd)
			return 0, errors.Join(err, perr)
		case !same:
			return fd, nil
		}
		_ = unix.Close(fd)
		pid = next
	}
	if os.Getppid() == 0 {
		return 0, errors.New("the process that started this task is hidden from it")
	}
	return 0, ErrNotThere
}

func sameFile(a, b int) (bool, error) {
	var x, y unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y)); err != nil {
		return false, err
	}
	return x.Dev == y.Dev && x.Ino == y.Ino, nil
}

// parentOf reads the fourth field of the stat file, which follows a name that
// may hold anything (Linux manual, proc_pid_stat(5)).
func parentOf(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat has no parent", pid)
	}
	return strconv.Atoi(fields[1])
}

// Close ends the use of the network; connections stay.
func (h *HostNetwork) Close() {
	_ = unix.Close(h.host)
	_ = unix.Close(h.own)
}

// inside calls f on a thread that is in the network of the host meanwhile. f
// must not start anything.
func (h *HostNetwork) inside(f func() error) error {
	done := make(chan error, 1)
	go h.visit(f, done)
	return <-done
}

// visit takes the thread of its goroutine there and back. A thread that cannot
// come back stays locked, so that it ends with the goroutine and nothing else
// ever runs on it. The first thread of the process cannot end, and its network is
// what others take for that of the process: it sends another one.
func (h *HostNetwork) visit(f func() error, done chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		err := h.inside(f)
		runtime.UnlockOSThread()
		done <- err
		return
	}
	if err := unix.Setns(h.host, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		done <- fmt.Errorf("enter the network of the host: %w", err)
		return
	}
	err := f()
	if back := unix.Setns(h.own, unix.CLONE_NEWNET); back != nil {
		done <- errors.Join(err, fmt.Errorf("leave the network of the host: %w", back))
		return
	}
	runtime.UnlockOSThread()
	done <- err
}

// dialInside makes a socket in the network of the host and connects it from
// here.
func (h *HostNetwork) dialInside(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	kind := unix.SOCK_STREAM
	if strings.HasPrefix(network, "udp") {
		kind = unix.SOCK_DGRAM
	}
	ip := to.Addr().Unmap()
	family, name := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(to.Port()), Addr: ip.As16()})
	if ip.Is4() {
		family, name = unix.AF_INET, &unix.SockaddrInet4{Port: int(to.Port()), Addr: ip.As4()}
	}
	fd := -1
	err := h.inside(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return nil, err
	}
	file := os.NewFile(uintptr(fd), to.String())
	defer file.Close()
	if err := connect(ctx, file, fd, name); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(file) // has a descriptor of its own
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true})
	}
	return conn, nil
}

// connect waits for a connection that does not block.
func connect(ctx context.Context, file *os.File, fd int, name unix.Sockaddr) error {
	err := unix.Connect(fd, name)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("connect", err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failed = err
		case code != 0:
			failed = unix.Errno(code)
		default:
			_, err := unix.Getpeername(int(fd))
			return !errors.Is(err, unix.ENOTCONN)
		}
		return true
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return err
	case failed != nil:
		return os.NewSyscallError("connect", failed)
	}
	return nil
}
