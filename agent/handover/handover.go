// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package handover passes the listening sockets of a process to the one that
// replaces it, so that no caller is refused in between. It must not know what is
// served on a socket.
package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// descriptorVariable tells a successor the descriptor of its connection to the
// predecessor. bearVariable has the process start the successor and end, with this
// many sockets behind the connection.
const (
	descriptorVariable = "OUTRIDER_HANDOVER_FD"
	bearVariable       = "OUTRIDER_HANDOVER_BEAR"
)

// Sockets are the listening sockets of this process, among them those that a
// predecessor left to it. Make them with [Inherit]. Methods may be called from
// any goroutine. A nil *Sockets opens, and hands over nothing.
type Sockets struct {
	program     string        // where this process was started from
	predecessor *conversation // nil: there is none
	charged     chan struct{} // closed once no predecessor is in charge

	mu        sync.Mutex
	inherited map[key]*os.File // not asked for yet
	open      map[*Socket]key
	left      bool // a successor has them
}

// key is the place of a socket, as it was asked for.
type key struct{ Network, Address string }

// A Socket is one listening socket. Closing it removes the file of a unix
// socket, unless a successor listens there.
type Socket struct {
	net.Listener
	owner  *Sockets
	once   sync.Once
	closed chan struct{}
}

// Accept implements [net.Listener]. A process that has a predecessor accepts
// nothing before it is in charge: it may still have to end at once.
func (l *Socket) Accept() (net.Conn, error) {
	select {
	case <-l.owner.charged:
	default:
		select {
		case <-l.owner.charged:
		case <-l.closed:
			return nil, net.ErrClosed
		}
	}
	return l.Listener.Accept()
}

// keeper is a listener whose file can be told to stay: [net.UnixListener] and
// what stands in for it.
type keeper interface{ SetUnlinkOnClose(unlink bool) }

// Inherit takes over what a predecessor left to this process, if there is one.
// It must be called before any other process is started, once. After
// [ErrBorne] the process has to end.
func Inherit(ctx context.Context) (*Sockets, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the program of this process: %w", err)
	}
	s := &Sockets{program: program, charged: make(chan struct{}), inherited: make(map[key]*os.File), open: make(map[*Socket]key)}
	text := os.Getenv(descriptorVariable)
	if text == "" {
		close(s.charged)
		return s, nil
	}
	_ = os.Unsetenv(descriptorVariable)
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("take over from a predecessor: %s is %q, no descriptor", descriptorVariable, text)
	}
	if text := os.Getenv(bearVariable); text != "" {
		return nil, bear(fd, text)
	}
	if err := s.greet(ctx, fd); err != nil {
		return nil, fmt.Errorf("take over from a predecessor: %w", err)
	}
	// systemd expects its watchdog to be fed by the process that it knows, which
	// this one is about to become (sd_watchdog_enabled(3)).
	if os.Getenv("WATCHDOG_PID") != "" {
		_ = os.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	}
	return s, nil
}

// greet reads which sockets follow the connection.
func (s *Sockets) greet(ctx context.Context, fd int) error {
	c, err := converse(fd)
	if err != nil {
		return err
	}
	hello, err := c.receive(ctx, helloWithin)
	if err != nil {
		c.close()
		return err
	}
	for i, k := range hello.Sockets {
		syscall.CloseOnExec(fd + 1 + i)
		s.inherited[k] = os.NewFile(uintptr(fd+1+i), k.Address)
	}
	s.predecessor = c
	return c.send(message{PID: os.Getpid()})
}

// helloWithin bounds what a predecessor says before it starts to wait.
const helloWithin = 10 * time.Second

// Predecessor reports whether another process serves until this one says that it
// is ready.
func (s *Sockets) Predecessor() bool { return s != nil && s.predecessor != nil }

// Listen returns the socket that a predecessor left for the address, or else the
// one that open makes. adopt makes a listener of a socket that was left; nil is
// [net.FileListener]'s.
func (s *Sockets) Listen(network, address string, open func() (net.Listener, error), adopt func(*os.File) (net.Listener, error)) (net.Listener, error) {
	if s == nil {
		return open()
	}
	k := key{network, address}
	s.mu.Lock()
	file := s.inherited[k]
	delete(s.inherited, k)
	s.mu.Unlock()
	var l net.Listener
	var err error
	if file != nil {
		if adopt == nil {
			adopt = net.FileListener
		}
		l, err = adopt(file) // with a descriptor of its own
		_ = file.Close()
	} else {
		l, err = open()
	}
	if err != nil {
		return nil, err
	}
	socket := &Socket{Listener: l, owner: s, closed: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[socket] = k
	if s.left {
		socket.keepFile()
	}
	return socket, nil
}

// Close implements [net.Listener].
func (l *Socket) Close() error {
	l.owner.mu.Lock()
	delete(l.owner.open, l)
	l.owner.mu.Unlock()
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// SetUnlinkOnClose says whether the file of a unix socket goes with it.
func (l *Socket) SetUnlinkOnClose(unlink bool) {
	if k, ok := l.Listener.(keeper); ok {
		k.SetUnlinkOnClose(unlink)
	}
}

func (l *Socket) keepFile() { l.SetUnlinkOnClose(false) }

// descriptors returns copies of all sockets that somebody else could find again,
// with the copies' places. The caller closes them.
func (s *Sockets) descriptors() (files []*os.File, places []key, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l, k := range s.open {
		if _, port, err := net.SplitHostPort(k.Address); err == nil && port == "0" && strings.HasPrefix(k.Network, "tcp") {
			continue // another port for each process
		}
		with, ok := l.Listener.(syscall.Conn)
		if !ok {
			continue
		}
		f, err := duplicate(with, k.Address)
		if err != nil {
			closeAll(files)
			return nil, nil, fmt.Errorf("copy the socket %s: %w", k.Address, err)
		}
		files, places = append(files, f), append(places, k)
	}
	return files, places, nil
}

// duplicate returns a copy of a socket that may be given to a child. The File
// method of listeners makes one that turns into blocking mode when it is given
// away, and the socket itself with it: who accepts would not notice its end.
func duplicate(socket syscall.Conn, name string) (*os.File, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failed error
	err = raw.Control(func(from uintptr) {
		// No other child may get it before it is marked.
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		if fd, failed = syscall.Dup(int(from)); failed == nil {
			syscall.CloseOnExec(fd)
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// leave makes the files of all sockets stay when this process closes them.
func (s *Sockets) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = true
	for l := range s.open {
		l.keepFile()
	}
}

// forget closes what a predecessor left and nobody has asked for.
func (s *Sockets) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, f := range s.inherited {
		_ = f.Close()
		if k.Network == "unix" {
			_ = os.Remove(k.Address)
		}
	}
	clear(s.inherited)
}
