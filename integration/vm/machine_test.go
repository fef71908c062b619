// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/harness"
)

// patience bounds each wait for something that other processes bring about. It
// only ever runs out when a test fails, so it is for the slowest of machines.
const patience = 90 * time.Second

// until polls a condition; err says what is still wrong.
func until(t *testing.T, what string, ask func() error) {
	t.Helper()
	harness.Until(t, patience, what, ask)
}

// A machine is a root that was booted. It shares the network of the tests, as
// if Consul and Vault ran on it.
type machine struct {
	root
	init int // process ID of its systemd, as the tests see it
}

// bootMachine boots a root and waits until it has started all that starts by
// itself. The machine is gone when t ends.
func bootMachine(t *testing.T, r root) *machine {
	t.Helper()
	id := make([]byte, 16)
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	r.write(t, "/etc/machine-id", hex.EncodeToString(id)+"\n", 0o444)
	group, err := newCgroup()
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), bootVariable+"="+r.dir)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		UseCgroupFD: true, CgroupFD: int(group.Fd()),
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("boot: %v", err)
	}
	m := &machine{root: r, init: cmd.Process.Pid}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // what it said is what counts
		close(ended)
	}()
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := m.try("journalctl --no-pager -o short-precise | tail -n 150")
			t.Logf("the journal of the machine ends with:\n%s", out)
		}
		_ = cmd.Process.Kill() // and with its init the kernel ends all of it
		<-ended
	})
	until(t, "the machine has booted", func() error {
		select {
		case <-ended:
			t.Fatalf("the machine did not boot: %v: %s", cmd.ProcessState, out.Bytes())
		default:
		}
		if out, err := m.try("systemctl is-system-running"); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return m
}

// command is a shell command on the machine, as root types it.
func (m *machine) command(ctx context.Context, command string) *exec.Cmd {
	// Not its network: that is ours.
	cmd := exec.CommandContext(ctx, "nsenter", "--target", strconv.Itoa(m.init), "--mount", "--uts", "--ipc", "--pid", "--cgroup",
		"--root", "--wd", "/bin/sh", "-c", "cd /root\n"+command)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// try runs a command and returns what it wrote. It has patience, also when the
// test has ended.
func (m *machine) try(command string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := m.command(ctx, command).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("run %q: %w", command, err)
	}
	return string(out), nil
}

// run is try for a command that must succeed.
func (m *machine) run(t *testing.T, command string) string {
	t.Helper()
	out, err := m.try(command)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(out)
}

// fails is try for a command that must fail; it returns its exit code, too.
func (m *machine) fails(t *testing.T, command string) (string, int) {
	t.Helper()
	out, err := m.try(command)
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatalf("%q did not fail: %v: %s", command, err, out)
	}
	return strings.TrimSpace(out), exit.ExitCode()
}

// property is what systemd says of outrider.service.
func (m *machine) property(t *testing.T, name string) string {
	t.Helper()
	return m.run(t, "systemctl show --value --property "+name+" outrider.service")
}

// pid is the main process of the service, as the tests see it; 0 for none.
func (m *machine) pid(t *testing.T) int {
	t.Helper()
	inside := m.property(t, "MainPID")
	if inside == "0" {
		return 0
	}
	status, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range status {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// The last line of its kind names the process in each namespace, ours first.
		_, rest, _ := strings.Cut(string(text), "\nNSpid:")
		line, _, _ := strings.Cut(rest, "\n")
		ids := strings.Fields(line)
		if len(ids) != 2 || ids[1] != inside || !strings.HasPrefix(string(text), "Name:\toutrider\n") {
			continue
		}
		pid, err := strconv.Atoi(ids[0])
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Fatalf("no process has the ID %s on the machine", inside)
	return 0
}

// A mark is a place in the journal of the service: journalctl leaves out a line
// when it is to begin behind one that it does not show.
type mark string

func (m *machine) mark(t *testing.T) mark {
	t.Helper()
	m.run(t, "journalctl --sync")
	out := m.run(t, "journalctl --quiet --no-pager --unit outrider.service --lines 1 --show-cursor")
	_, cursor, found := strings.Cut(out, "-- cursor: ")
	if !found {
		t.Fatalf("the journal has no cursor: %s", out)
	}
	return mark(cursor)
}

// journal returns what the service and systemd wrote about it since the mark.
func (m *machine) journal(t *testing.T, since mark) string {
	t.Helper()
	m.run(t, "journalctl --sync")
	return m.run(t, fmt.Sprintf("journalctl --quiet --no-pager --output cat --unit outrider.service --after-cursor '%s'", since))
}

// active waits until the unit is active.
func (m *machine) active(t *testing.T) {
	t.Helper()
	until(t, "outrider.service is active", func() error {
		if state := m.property(t, "ActiveState"); state != "active" {
			return fmt.Errorf("it is %s", state)
		}
		return nil
	})
}
