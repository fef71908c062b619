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
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// asSuccessor makes this test program a successor that behaves as it says.
const asSuccessor = "OUTRIDER_TEST_SUCCESSOR"

func TestMain(m *testing.M) {
	if how := os.Getenv(asSuccessor); how != "" {
		if err := succeed(how); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is a successor, not a test
		}
		return
	}
	m.Run()
}

// succeed serves one call on the sockets that it was left, with its name.
func succeed(how string) error {
	ctx := context.Background()
	s, err := Inherit(ctx)
	if errors.Is(err, ErrBorne) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range []string{descriptorVariable, bearVariable} {
		if os.Getenv(name) != "" {
			return fmt.Errorf("%s is left to others", name)
		}
	}
	// systemd supervises no main process that is not its child.
	if strconv.Itoa(os.Getppid()) == os.Getenv("OUTRIDER_TEST_PARENT") {
		return errors.New("its parent is its predecessor")
	}
	if how == "refuses" { // before it looks at any socket
		s.Fail("it lacks something")
		return nil
	}
	network, address, _ := strings.Cut(os.Getenv("OUTRIDER_TEST_PLACE"), " ")
	l, err := s.Listen(network, address, func() (net.Listener, error) { return nil, fmt.Errorf("%s was not left", address) }, nil)
	if err != nil {
		return err
	}
	if err := s.Plan([]string{"web", "new"}); err != nil {
		return err
	}
	switch how {
	case "fails":
		s.Fail("it lacks something")
		return nil
	case "hangs":
		select {}
	case "ends":
		return nil
	}
	if how == "eager" {
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = io.WriteString(c, "eager")
				_ = c.Close()
			}
		}()
	}
	if err := s.Ready("2.0.0", []string{"web", "api"}); err != nil {
		return err
	}
	if err := s.Await(ctx); err != nil {
		return os.WriteFile(os.Getenv("OUTRIDER_TEST_SAYS"), []byte("abandoned: "+err.Error()), 0o600)
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	_, _ = io.WriteString(c, "successor")
	return c.Close()
}

// empty are sockets of a process without a predecessor.
func empty(t *testing.T) *Sockets {
	t.Helper()
	s, err := Inherit(t.Context())
	if err != nil || s.Predecessor() {
		t.Fatalf("%+v, %v", s, err)
	}
	return s
}

func listen(t *testing.T, s *Sockets, network, address string) net.Listener {
	t.Helper()
	l, err := s.Listen(network, address, func() (net.Listener, error) { return net.Listen(network, address) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// program is this test program as a successor.
func program(t *testing.T, how, network, address string, within time.Duration) Program {
	t.Helper()
	t.Setenv(asSuccessor, how)
	t.Setenv("OUTRIDER_TEST_PLACE", network+" "+address)
	t.Setenv("OUTRIDER_TEST_PARENT", strconv.Itoa(os.Getpid()))
	return Program{Within: within}
}

func says(t *testing.T, network, address string) string {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text, _ := io.ReadAll(c)
	return string(text)
}

func TestSocketsServeOnInTheNextProcess(t *testing.T) {
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = probe.Close()
	for _, place := range []key{{"unix", filepath.Join(t.TempDir(), "s")}, {"tcp", probe.Addr().String()}} {
		s := empty(t)
		l := listen(t, s, place.Network, place.Address)
		next, err := s.Start(t.Context(), program(t, "serves", place.Network, place.Address, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		if next.Version != "2.0.0" || !slices.Equal(next.Serves, []string{"web", "api"}) || next.PID == os.Getpid() {
			t.Errorf("%+v", next)
		}
		// Who connects before the change is served after it.
		early, err := net.Dial(place.Network, place.Address)
		if err != nil {
			t.Fatal(err)
		}
		if err := next.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		if text, _ := io.ReadAll(early); string(text) != "successor" {
			t.Errorf("%s: got %q", place.Network, text)
		}
		_ = early.Close()
	}
}

func TestASuccessorThatCannotServeChangesNothing(t *testing.T) {
	s := empty(t)
	path := filepath.Join(t.TempDir(), "s")
	l := listen(t, s, "unix", path)
	for how, want := range map[string]string{"fails": "cannot serve: it lacks something", "hangs": "was not ready within", "ends": "the other process has ended"} {
		next, err := s.Start(t.Context(), program(t, how, "unix", path, 3*time.Second))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v", how, next, err)
		}
		if failed, ok := errors.AsType[*StartError](err); !ok || !slices.Equal(failed.Plans, []string{"web", "new"}) {
			t.Errorf("%s: it may have registered %+v", how, failed)
		}
	}
	s.program = "/nonexistent"
	if next, err := s.Start(t.Context(), Program{Within: time.Second}); err == nil {
		t.Errorf("%+v", next)
	}
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "first")
			_ = c.Close()
		}
	}()
	if text := says(t, "unix", path); text != "first" {
		t.Errorf("got %q", text)
	}
	_ = l.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("its file stayed: %v", err)
	}
}

// The mode of a socket is that of all who have it: a process that starts another
// one must not come to block on a socket that it closes later.
func TestWhoAcceptsNoticesTheEndAfterAFailedStart(t *testing.T) {
	for _, place := range []key{{"unix", filepath.Join(t.TempDir(), "s")}, {"tcp", "[::1]:0"}} {
		s := empty(t)
		l := listen(t, s, place.Network, place.Address)
		if place.Network == "tcp" {
			s.open[l.(*Socket)] = key{"tcp", l.Addr().String()}
			place.Address = l.Addr().String()
		}
		accepts := make(chan error, 1)
		if next, err := s.Start(t.Context(), program(t, "refuses", place.Network, place.Address, time.Minute)); err == nil {
			t.Fatalf("%+v", next)
		}
		go func() {
			_, err := l.Accept()
			accepts <- err
		}()
		waitUntilAsleep(t, "Accept")
		_ = l.Close()
		select {
		case err := <-accepts:
			if err == nil {
				t.Error("it accepted")
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: it still accepts", place.Network)
		}
	}
}

// waitUntilAsleep waits until a goroutine is in a function and waits there, for
// the network or the system.
func waitUntilAsleep(t *testing.T, function string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // the pace of looks
		stacks := make([]byte, 1<<16)
		for stack := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			head, _, _ := strings.Cut(stack, "\n")
			if strings.Contains(stack, "."+function+"(") && (strings.Contains(head, "IO wait") || strings.Contains(head, "syscall")) {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
}

func TestASuccessorAcceptsNothingBeforeItIsInCharge(t *testing.T) {
	s := empty(t)
	path := filepath.Join(t.TempDir(), "s")
	l := listen(t, s, "unix", path)
	next, err := s.Start(t.Context(), program(t, "eager", "unix", path, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(c); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v", text, err)
	}
	next.Abandon(t.Context())
	if err := syscall.Kill(next.PID, 0); !errors.Is(err, syscall.ESRCH) && !ending(t, next.PID) {
		t.Errorf("the successor is still there: %v", err)
	}
	ours, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
}

// ending reports whether a process runs no more: it has ended, or the system, which
// closes its files before, is at the rest of it.
func ending(t *testing.T, pid int) bool {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	// Linux manual, proc_pid_stat(5): state and, six further on, flags.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	flags, err := strconv.ParseUint(fields[6], 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	const exiting = 4 // PF_EXITING of linux/sched.h
	return fields[0] == "Z" || flags&exiting != 0
}

func TestASuccessorWithoutAPredecessorIsNotInCharge(t *testing.T) {
	s := empty(t)
	path := filepath.Join(t.TempDir(), "s")
	listen(t, s, "unix", path)
	said := filepath.Join(t.TempDir(), "said")
	t.Setenv("OUTRIDER_TEST_SAYS", said)
	next, err := s.Start(t.Context(), program(t, "serves", "unix", path, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	next.talk.close()                                                                 // as when this process dies
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) { // the pace of looks
		if text, err := os.ReadFile(said); err == nil && strings.HasPrefix(string(text), "abandoned: wait for the predecessor") {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%q, %v", text, err)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("it removed the socket: %v", err)
	}
}

func TestClosedSocketsAreNotLeft(t *testing.T) {
	s := empty(t)
	dir := t.TempDir()
	kept, closed, some := filepath.Join(dir, "a"), filepath.Join(dir, "b"), "127.0.0.1:0"
	listen(t, s, "unix", kept)
	_ = listen(t, s, "unix", closed).Close()
	listen(t, s, "tcp", some) // any port: nobody could ask for it
	files, places, err := s.descriptors()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	if diff := cmp.Diff([]key{{"unix", kept}}, places); diff != "" {
		t.Error(diff)
	}
}

func TestANilSocketsOpens(t *testing.T) {
	var s *Sockets
	if s.Predecessor() {
		t.Error("it has a predecessor")
	}
	l, err := s.Listen("tcp", "127.0.0.1:0", func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := s.Await(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.Start(t.Context(), Program{Within: time.Second}); err == nil {
		t.Error("there is nothing to hand over")
	}
}

func TestAWrongDescriptorIsAnError(t *testing.T) {
	for _, text := range []string{"1", "x", "-1", "99999"} {
		t.Setenv(descriptorVariable, text)
		if s, err := Inherit(t.Context()); err == nil {
			t.Errorf("%q: %+v", text, s)
		}
	}
}
