// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package realserver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// HostAddress is the address of the host that [OnOwnHost] makes, beside its
// loopback. Nothing outside has a route to it.
const HostAddress = "169.254.10.1"

// insideHost tells the test program what it is on the host: "init" or "tests".
const insideHost = "OUTRIDER_TEST_HOST"

// OnOwnHost runs the tests of a package as if on a host of their own, and
// returns their exit code: the test program starts itself again in new network,
// process and mount namespaces, where it may use any port, change the firewall
// and start what starts daemons. All of it is gone when the program ends,
// however it ends. It needs root. prepare runs before, where the network is
// still that of the machine; what it puts into the environment reaches the tests,
// and the function it returns is called when they have ended. Call it from
// TestMain:
//
//	os.Exit(realserver.OnOwnHost(build, m.Run))
func OnOwnHost(prepare func() (func(), error), run func() int) int {
	switch os.Getenv(insideHost) {
	case "tests":
		return run()
	case "init":
		code, err := serveAsInit()
		if err != nil {
			fmt.Fprintf(os.Stderr, "make a host for the tests: %v\n", err)
		}
		return code
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests make network namespaces for Nomad: run them as root")
		return 1
	}
	finish, err := prepare()
	if err != nil {
		fmt.Fprintf(os.Stderr, "prepare the tests: %v\n", err)
		return 1
	}
	defer finish()
	// The kernel kills the child when the thread ends that started it.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideHost+"=init")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "start the tests on a host of their own: %v\n", err)
		return 1
	}
	return 0
}

// serveAsInit is the first process of the host: it starts the tests, and waits
// for whatever ends, as daemons do whose parents have ended before them.
func serveAsInit() (code int, err error) {
	if err := furnish(); err != nil {
		return 1, err
	}
	if err := os.Setenv(insideHost, "tests"); err != nil {
		return 1, err
	}
	tests, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2},
	})
	if err != nil {
		return 1, fmt.Errorf("start the tests: %w", err)
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait for processes: %w", err)
		case pid == tests && status.Exited():
			return status.ExitStatus(), nil
		case pid == tests:
			return 1, fmt.Errorf("the tests were ended by %v", status.Signal())
		}
	}
}

// furnish makes the namespaces look like a host: its own /proc, an empty /run,
// a loopback, and one interface with HostAddress. An empty bridge is such an
// interface everywhere, and a port gives it carrier.
func furnish() error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		options              string
	}{
		{"none", "/", "", syscall.MS_REC | syscall.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", 0, ""},
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
	} {
		if err := syscall.Mount(m.source, m.target, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	for _, command := range []string{
		"link set lo up",
		"link add host0 type bridge",
		"addr add " + HostAddress + "/24 dev host0",
		"link set host0 up",
		"link add port0 type veth peer name port1",
		"link set port0 master host0 up",
		"link set port1 up",
	} {
		if out, err := exec.Command("ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			return fmt.Errorf("run ip %s: %w: %s", command, err, out)
		}
	}
	for _, file := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/all/route_localnet"} {
		if err := os.WriteFile(file, []byte("1"), 0); err != nil {
			return fmt.Errorf("set %s: %w", file, err)
		}
	}
	return nil
}
