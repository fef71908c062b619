// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// A Program is what takes over: the file that this process was started from, which
// has been replaced meanwhile.
type Program struct {
	Args []string // without the program's name
	// Within bounds how long it may take to become ready.
	Within time.Duration
}

// ErrBorne says that this process was only there to start the successor, and has
// to end, with exit code 0 and without a word.
var ErrBorne = errors.New("the successor was started")

// A Successor serves beside this process, on the same sockets, and is not in
// charge yet. It is either told that it is, or ended.
type Successor struct {
	PID     int
	Version string
	// Serves is what it has registered, Plans what it may have.
	Serves, Plans []string

	sockets *Sockets
	talk    *conversation
	gone    bool // it has ended, and its PID may be another's
}

// Start starts a successor and waits until it is ready. When it ends before
// that, says that it cannot, or takes too long, it is gone when Start returns,
// and nothing has changed for this process. It writes to where this process
// writes.
func (s *Sockets) Start(ctx context.Context, p Program) (*Successor, error) {
	if s == nil {
		return nil, errors.New("the sockets of this process cannot be handed over")
	}
	files, places, err := s.descriptors()
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	ours, theirs, err := pair()
	if err != nil {
		return nil, fmt.Errorf("connect to a successor: %w", err)
	}
	defer func() { _ = theirs.Close() }()
	bearing, cancel := context.WithTimeout(ctx, helloWithin)
	defer cancel()
	cmd := exec.CommandContext(bearing, s.program, p.Args...) //nolint:gosec // it is what this process was started from
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	cmd.Env = append(os.Environ(), descriptorVariable+"=3", bearVariable+"="+strconv.Itoa(len(files)))
	if err := cmd.Run(); err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("start a successor: %w; its log says why", err)
	}
	// Only its own copy keeps the connection open from here on.
	_ = theirs.Close()
	next := &Successor{sockets: s, talk: newConversation(ours)}
	if err := next.await(ctx, p.Within, places); err != nil {
		next.Abandon(ctx)
		return nil, &StartError{Plans: next.Plans, err: err}
	}
	return next, nil
}

// pair returns the two ends of a connection.
func pair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	mine := os.NewFile(uintptr(fds[0]), "handover")
	theirs = os.NewFile(uintptr(fds[1]), "handover")
	defer func() { _ = mine.Close() }()
	if ours, err = net.FileConn(mine); err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// A StartError is why there is no successor. Plans is what it may have registered
// all the same.
type StartError struct {
	Plans []string
	err   error
}

func (e *StartError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.err }

func (n *Successor) await(ctx context.Context, within time.Duration, places []key) error {
	if err := n.talk.send(message{Sockets: places}); err != nil {
		return fmt.Errorf("talk to the successor: %w", err)
	}
	hello, err := n.talk.receive(ctx, helloWithin)
	if err != nil || hello.PID <= 1 {
		n.gone = errors.Is(err, errEnded)
		return fmt.Errorf("talk to the successor: %w", errors.Join(err, errors.New("it does not say who it is; its log says why")))
	}
	n.PID = hello.PID
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		answer, err := n.talk.receive(bounded, 0)
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			return fmt.Errorf("the successor, process %d, was not ready within %s; its log says what it waited for", n.PID, within)
		case err != nil:
			n.gone = errors.Is(err, errEnded)
			return fmt.Errorf("wait for the successor, process %d: %w; its log says why", n.PID, err)
		case answer.Plans != nil:
			n.Plans = slices.Clone(answer.Plans)
		case answer.Ready:
			n.Version, n.Serves = answer.Version, slices.Clone(answer.Serves)
			return nil
		default:
			return fmt.Errorf("the successor, process %d, cannot serve: %s", n.PID, answer.Error)
		}
	}
}

// Commit puts the successor in charge. When it returns nil, this process has to
// stop accepting, to let its connections end, and to end without a word to
// others, after [Successor.AwaitSettled]. After an error the successor is gone and
// this process goes on.
func (n *Successor) Commit(ctx context.Context) error {
	n.sockets.leave()
	if err := n.talk.send(message{Over: true}); err != nil {
		n.sockets.keep()
		n.Abandon(ctx)
		return fmt.Errorf("hand over to the successor, process %d: %w", n.PID, err)
	}
	return nil
}

// AwaitSettled returns when those who watch this process know the successor, which
// is in charge, or when ctx ends. If this process ended before, they would take
// that for the end of the service.
func (n *Successor) AwaitSettled(ctx context.Context) {
	defer n.talk.close()
	_, _ = n.talk.receive(ctx, 0) // nothing more is said
}

// Stop asks a successor that is in charge to end, for those who asked this process.
func (n *Successor) Stop() error { return syscall.Kill(n.PID, syscall.SIGTERM) }

// Abandon ends a successor that was not put in charge, without a chance to say
// goodbye: it would say it for the service.
func (n *Successor) Abandon(ctx context.Context) {
	defer n.talk.close()
	if n.PID == 0 || n.gone {
		return // it ends by itself when the connection does, or has
	}
	_ = syscall.Kill(n.PID, syscall.SIGKILL)
	// The end of the connection is that of the process.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), helloWithin)
	defer cancel()
	if deadline, ok := ctx.Deadline(); ok {
		_ = n.talk.conn.SetReadDeadline(deadline)
	}
	_, _ = io.Copy(io.Discard, n.talk.conn)
}

// keep takes leave back.
func (s *Sockets) keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = false
	for l := range s.open {
		l.SetUnlinkOnClose(true)
	}
}

// bear starts this program again, as a successor proper, and ends this process
// well, by [ErrBorne]. The successor's parent is then the system's first process, or whoever
// stands in for it: systemd supervises no main process that is not its child
// (systemd.service(5), of PIDFile), and would kill it instead of stopping it.
func bear(fd int, sockets string) error {
	_ = os.Unsetenv(bearVariable)
	n, err := strconv.Atoi(sockets)
	if err != nil || n < 0 {
		return fmt.Errorf("start a successor: %s is %q, no number of sockets", bearVariable, sockets)
	}
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start a successor: %w", err)
	}
	cmd := exec.Command(path, os.Args[1:]...) //nolint:gosec // it is this program
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	for i := range n + 1 {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fd+i), "handover"))
	}
	cmd.Env = append(os.Environ(), descriptorVariable+"=3")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a successor: %w", err)
	}
	return ErrBorne
}

// Plan tells the predecessor what this process is about to register, so that it
// can take that back. Without a predecessor it does nothing.
func (s *Sockets) Plan(services []string) error {
	if !s.Predecessor() {
		return nil
	}
	if err := s.predecessor.send(message{Plans: append([]string{}, services...)}); err != nil {
		return fmt.Errorf("tell the predecessor: %w", err)
	}
	return nil
}

// Ready tells the predecessor that this process serves, and what it has
// registered. [Sockets.Await] tells what comes of it.
func (s *Sockets) Ready(version string, serves []string) error {
	if err := s.predecessor.send(message{Ready: true, Serves: serves, Version: version}); err != nil {
		return fmt.Errorf("tell the predecessor: %w", err)
	}
	return nil
}

// Await returns nil when the predecessor has put this process in charge, which it
// does after Ready; sockets that were left to it and that it does not use are
// closed then, and the others begin to accept. After an error this process must end
// at once, without a word to others: it never was in charge. Without a predecessor
// it returns nil at once.
func (s *Sockets) Await(ctx context.Context) error {
	if !s.Predecessor() {
		return nil
	}
	answer, err := s.predecessor.receive(ctx, 0)
	if err == nil && !answer.Over {
		err = errors.New("its answer is not understood")
	}
	if err != nil {
		return fmt.Errorf("wait for the predecessor: %w", err)
	}
	s.forget()
	close(s.charged)
	return nil
}

// Settled tells the predecessor that it may end: whoever watches the process knows
// this one now.
func (s *Sockets) Settled() {
	if s.Predecessor() {
		s.predecessor.close()
	}
}

// Fail tells the predecessor why this process cannot take over.
func (s *Sockets) Fail(why string) {
	if s.Predecessor() {
		_ = s.predecessor.send(message{Error: why})
	}
}
