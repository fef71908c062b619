// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

//go:build linux

package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	threads "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/outrider-mesh/outrider/connect"
)

const (
	inNamespace = "OUTRIDER_TEST_IN_NAMESPACE"
	appUser     = 65534
	hostIP      = "10.77.0.1"
	outsideIP   = "10.77.0.2"
	virtualIP   = "240.0.0.5"
)

// TestNetfilterRedirects runs its parts in a network namespace of its own, whose
// rules redirect whatever a user other than the proxy's calls.
func TestNetfilterRedirects(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestNetfilterRedirects$", "-test.v", "-test.timeout=120s") //nolint:gosec // it is this program
		child.Env = append(os.Environ(), inNamespace+"=1")
		child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		out, err := child.CombinedOutput()
		if err != nil || strings.Count(string(out), "    --- PASS:") != 6 {
			t.Fatalf("in a namespace of its own, which needs root and iptables: %v\n%s", err, out)
		}
		return
	}
	run(t, "ip link set lo up", "ip address add "+hostIP+"/32 dev lo", "ip address add "+outsideIP+"/32 dev lo", "ip route add default dev lo src "+hostIP)
	t.Run("a virtual IP leads to the mesh", testVirtual)
	t.Run("an address outside is passed on, with its half-close", testOutside)
	t.Run("nothing is passed on when only the mesh may be called", testOnly)
	t.Run("a listener called by its own address refuses", testNotRedirected)
	t.Run("a thousand connections", testThousand)
	t.Run("a proxy that is redirected to itself stops", testLoop)
}

func run(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil { //nolint:gosec // constants of this file
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
}

// redirect sends what everybody but one user calls to a port.
func redirect(t *testing.T, port int, butUser int) {
	t.Helper()
	run(t, "iptables -t nat -F OUTPUT",
		fmt.Sprintf("iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner %d -j RETURN", butUser),
		"iptables -t nat -A OUTPUT -p tcp -d 127.0.0.1/32 -j RETURN",
		fmt.Sprintf("iptables -t nat -A OUTPUT -p tcp -j REDIRECT --to-port %d", port))
}

// asApp dials as the application's user. A socket belongs to whom its thread's
// file system user is.
func asApp(address string) (net.Conn, error) {
	threads.LockOSThread()
	defer threads.UnlockOSThread()
	if err := unix.Setfsuid(appUser); err != nil {
		return nil, err
	}
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if back := unix.Setfsuid(0); back != nil {
		panic(back)
	}
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	}
	return c, err
}

func mustDial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := asApp(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// turnedAway is a call that gets nothing. The proxy resets what it refuses, which
// may come before the caller has seen that it is connected.
func turnedAway(t *testing.T, address string) {
	t.Helper()
	c, err := asApp(address)
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	b, err := io.ReadAll(c)
	if timedOut(err) {
		t.Fatal("the connection was not closed")
	}
	if len(b) != 0 {
		t.Errorf("got %q", b)
	}
}

// netfilterPair is web → api with the kernel's redirection.
func netfilterPair(t *testing.T) *pair {
	t.Helper()
	r := transparentPair(t, originalDestination, DefaultLimits())
	redirect(t, r.web.Outbound(t.Context(), transparentID).(*net.TCPAddr).Port, 0)
	return r
}

func testVirtual(t *testing.T) {
	r := netfilterPair(t)
	for _, port := range []string{"80", "443"} {
		if err := roundTrip(mustDial(t, net.JoinHostPort(virtualIP, port)), "hello"); err != nil {
			t.Error(err)
		}
	}
	if n := r.api.Status(t.Context()).Inbound.Connections; n != 2 {
		t.Errorf("%d connections came over the mesh", n)
	}
	turnedAway(t, "240.0.0.6:80")
	if n := refused(t, r.web, connect.NoRoute); n != 1 {
		t.Errorf("%d refused", n)
	}
}

// untilEOF answers with the number of bytes that came before the end.
func untilEOF(c net.Conn) {
	n, _ := io.Copy(io.Discard, c)
	_, _ = fmt.Fprintf(c, "%d\n", n)
}

func testOutside(t *testing.T) {
	r := netfilterPair(t)
	outside := application(t, "tcp", outsideIP+":0", untilEOF)
	c := mustDial(t, outside.String())
	if _, err := c.Write(make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "100000\n" {
		t.Fatalf("%q, %v", line, err)
	}
	until(t, "the connection is counted", func() bool { return r.web.Status(t.Context()).Transparent.Sent == 100_000 })
	turnedAway(t, outsideIP+":1")
	if n := refused(t, r.web, connect.ConnectFailed); n != 1 {
		t.Errorf("%d refused for a port that nobody listens on", n)
	}
}

func testOnly(t *testing.T) {
	r := netfilterPair(t)
	outside := application(t, "tcp", outsideIP+":0", greeter("outside"))
	apply(t, r.web, next(r.webSnap, func(s *connect.Snapshot) { s.Mesh.DestinationsOnly = true }))
	redirect(t, r.web.Outbound(t.Context(), transparentID).(*net.TCPAddr).Port, 0)
	turnedAway(t, outside.String())
	if err := roundTrip(mustDial(t, virtualIP+":80"), "hello"); err != nil {
		t.Error(err)
	}
}

func testNotRedirected(t *testing.T) {
	r := netfilterPair(t)
	at := r.web.Outbound(t.Context(), transparentID)
	turnedAway(t, at.String())
	recent := r.web.Status(t.Context()).Recent
	if len(recent) != 1 || !strings.Contains(recent[0].Text, whyNotRedirected) {
		t.Errorf("%+v", recent)
	}
}

func testThousand(t *testing.T) {
	r := netfilterPair(t)
	outside := application(t, "tcp", outsideIP+":0", echo)
	var all sync.WaitGroup
	slots := make(chan struct{}, 50)
	failures := make(chan error, 1000)
	for i := range 1000 {
		to := virtualIP + ":80"
		if i%2 == 1 {
			to = outside.String()
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			c, err := asApp(to)
			if err == nil {
				err = roundTrip(c, fmt.Sprintf("message %d", i))
				_ = c.Close()
			}
			if err != nil {
				failures <- fmt.Errorf("%s: %w", to, err)
			}
		})
	}
	all.Wait()
	close(failures)
	for err := range failures {
		t.Error(err)
	}
	s := r.web.Status(t.Context())
	if s.Transparent.Connections != 500 || r.api.Status(t.Context()).Inbound.Connections != 500 || len(s.Refused) != 0 {
		t.Errorf("%d passed on, %d over the mesh, refused %v", s.Transparent.Connections, r.api.Status(t.Context()).Inbound.Connections, s.Refused)
	}
}

func testLoop(t *testing.T) {
	r := netfilterPair(t)
	outside := application(t, "tcp", outsideIP+":0", greeter("outside"))
	redirect(t, r.web.Outbound(t.Context(), transparentID).(*net.TCPAddr).Port, 4242) // not us
	if b, _ := io.ReadAll(mustDial(t, outside.String())); len(b) != 0 {
		t.Errorf("got %q", b)
	}
	s := r.web.Status(t.Context())
	said := false
	for _, refusal := range s.Recent {
		said = said || strings.Contains(refusal.Text, whyLoop)
	}
	if !said || s.Transparent.Connections > 8 {
		t.Errorf("%d connections, refusals %+v", s.Transparent.Connections, s.Recent)
	}
}
