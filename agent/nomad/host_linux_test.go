// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// otherNetwork makes a network namespace with its loopback up, and calls f in
// it. It returns a descriptor of it.
func otherNetwork(t *testing.T, f func() error) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	fds, errs := make(chan int, 1), make(chan error, 1)
	var enter func()
	enter = func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its network
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread() // the first thread stays what it is
			away := make(chan struct{})
			go func() { defer close(away); enter() }()
			<-away
			return
		}
		fd, err := func() (int, error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return -1, fmt.Errorf("make a network namespace: %w", err)
			}
			if err := loopbackUp(); err != nil {
				return -1, fmt.Errorf("bring the loopback up: %w", err)
			}
			if err := f(); err != nil {
				return -1, err
			}
			return unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}()
		fds <- fd
		errs <- err
	}
	go enter()
	fd := <-fds
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

func network(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// answer sends a name to whoever connects.
func answer(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, name)
		_ = conn.Close()
	}
}

func heard(conn net.Conn, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	return string(text), err
}

// pair returns a host network, and a port where each of the two networks
// answers with its name on the loopback.
func pair(t *testing.T) (*HostNetwork, string) {
	t.Helper()
	here, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = here.Close() })
	go answer(here, "here")
	var there net.Listener
	host := otherNetwork(t, func() (err error) {
		there, err = net.Listen("tcp", here.Addr().String())
		return err
	})
	t.Cleanup(func() { _ = there.Close() })
	go answer(there, "host")
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(own) })
	_, port, err := net.SplitHostPort(here.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return &HostNetwork{host: host, own: own}, port
}

// Only control connections enter the network of the host, however many are made
// at once; no other goroutine ever finds itself there.
func TestOnlyControlConnectionsEnterTheNetworkOfTheHost(t *testing.T) {
	h, port := pair(t)
	home := network(t)
	watching, stop := context.WithCancel(t.Context())
	var watchers, dials sync.WaitGroup
	var looked, strayed atomic.Int64
	for range 8 {
		watchers.Go(func() {
			for watching.Err() == nil {
				if name, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || name != home {
					strayed.Add(1)
				}
				looked.Add(1)
				runtime.Gosched()
			}
		})
	}
	var plain net.Dialer
	for n := range 300 {
		dials.Go(func() {
			name := []string{"127.0.0.1", "localhost", "127.0.0.1"}[n%3]
			if got, err := heard(h.Dial(t.Context(), "tcp", net.JoinHostPort(name, port))); err != nil || got != "host" {
				t.Errorf("a control connection to %s reached %q, %v", name, got, err)
			}
		})
		dials.Go(func() {
			if got, err := heard(plain.DialContext(t.Context(), "tcp", "127.0.0.1:"+port)); err != nil || got != "here" {
				t.Errorf("another connection reached %q, %v", got, err)
			}
		})
	}
	dials.Wait()
	stop()
	watchers.Wait()
	if strayed.Load() != 0 || looked.Load() == 0 {
		t.Errorf("%d of %d looks found another network", strayed.Load(), looked.Load())
	}
	checkThreads(t, home)
}

// checkThreads fails if a thread of this process is in another network.
func checkThreads(t *testing.T, home string) {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(threads) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, path := range threads {
		name, err := os.Readlink(path)
		if err == nil && name != home {
			t.Errorf("%s is in %s", path, name)
		}
	}
}

func TestAddressesElsewhereAreDialledFromHere(t *testing.T) {
	h, _ := pair(t)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		ip, ok := a.(*net.IPNet)
		if !ok || ip.IP.IsLoopback() || ip.IP.To4() == nil {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(ip.IP.String(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go answer(l, "here")
		if got, err := heard(h.Dial(t.Context(), "tcp", l.Addr().String())); err != nil || got != "here" {
			t.Errorf("%s reached %q, %v", l.Addr(), got, err)
		}
		return
	}
	// The other network has no way out at all; this one may have none to show.
	if _, err := h.Dial(t.Context(), "tcp", "192.0.2.1:1"); err == nil {
		t.Error("a documentation address was reached")
	}
}

func TestRefusedControlConnectionIsAnError(t *testing.T) {
	h, port := pair(t)
	start := time.Now()
	_, err := h.Dial(t.Context(), "tcp", "127.0.0.2:"+port)
	if !errors.Is(err, unix.ECONNREFUSED) || !strings.Contains(err.Error(), "in the network of the host") {
		t.Errorf("the error is %v", err)
	}
	if time.Since(start) > 5*time.Second {
		t.Error("it took", time.Since(start))
	}
	for _, address := range []string{"127.0.0.1", "127.0.0.1:none"} {
		if _, err := h.Dial(t.Context(), "tcp", address); err == nil {
			t.Errorf("%s was dialled", address)
		}
	}
}

// A listener that accepts nothing leaves a connection waiting: its context ends
// the wait.
func TestControlConnectionEndsWithItsContext(t *testing.T) {
	var listener, port int
	host := otherNetwork(t, func() (err error) {
		if listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err := errors.Join(unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(listener, 0)); err != nil {
			return err
		}
		name, err := unix.Getsockname(listener)
		if err == nil {
			port = name.(*unix.SockaddrInet4).Port
		}
		return err
	})
	t.Cleanup(func() { _ = unix.Close(listener) })
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	h := &HostNetwork{host: host, own: own}
	t.Cleanup(func() { _ = unix.Close(own) })
	for range 8 {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		conn, err := h.Dial(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		cancel()
		if err == nil {
			defer conn.Close()
			continue // it is in the queue
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error is %v", err)
		}
		return
	}
	t.Error("no connection had to wait")
}

// A thread that cannot come back from the host must never serve anybody else.
func TestThreadThatCannotComeBackEnds(t *testing.T) {
	h, port := pair(t)
	home := network(t)
	stuck := &HostNetwork{host: h.host, own: -1}
	for range 20 {
		if conn, err := stuck.Dial(t.Context(), "tcp", "127.0.0.1:"+port); err == nil || !strings.Contains(err.Error(), "leave the network of the host") {
			t.Fatalf("dialled %v, %v", conn, err)
		}
	}
	var goroutines sync.WaitGroup
	for range 64 {
		goroutines.Go(func() {
			if got := network(t); got != home {
				t.Errorf("a goroutine runs in %s", got)
			}
		})
	}
	goroutines.Wait()
	deadline := time.Now().Add(10 * time.Second)
	for strayed(home) > 0 && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	checkThreads(t, home)
}

func strayed(home string) int {
	n := 0
	threads, _ := filepath.Glob("/proc/self/task/*/ns/net")
	for _, path := range threads {
		name, err := os.Readlink(path)
		if err == nil && name != home {
			n++
		}
	}
	return n
}

func TestHostIsTheNetworkOfTheAncestor(t *testing.T) {
	if os.Getenv("OUTRIDER_TEST_CHILD") != "" {
		host, apart, err := FindHost()
		_, _ = fmt.Fprintf(os.Stdout, "apart=%t found=%t err=%v\n", apart, host != nil, err)
		if host != nil {
			text, err := heard(host.Dial(t.Context(), "tcp", os.Getenv("OUTRIDER_TEST_CHILD")))
			_, _ = fmt.Fprintf(os.Stdout, "heard=%s err=%v\n", text, err)
		}
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go answer(l, "host")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	self := []string{exe, "-test.run=^TestHostIsTheNetworkOfTheAncestor$", "-test.v"}
	for name, c := range map[string]struct {
		command []string
		want    []string
	}{
		"apart":                   {append([]string{"unshare", "--net"}, self...), []string{"apart=true found=true err=<nil>", "heard=host err=<nil>"}},
		"apart, with shells":      {append([]string{"unshare", "--net", "sh", "-c", `sh -c '"$@"; true' sh "$@"; true`, "sh"}, self...), []string{"apart=true found=true", "heard=host"}},
		"the same":                {self, []string{"apart=false found=false", "same network"}},
		"apart, not permitted":    {append([]string{"unshare", "--net", "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"}, self...), []string{"found=false err="}},
		"apart, ancestors hidden": {append([]string{"unshare", "--net", "--pid", "--fork", "--mount-proc"}, self...), []string{"apart=false found=false", "hidden"}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), c.command[0], c.command[1:]...)
			cmd.Env = append(os.Environ(), "OUTRIDER_TEST_CHILD="+l.Addr().String())
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			scanner := bufio.NewScanner(strings.NewReader(string(out)))
			for scanner.Scan() {
				t.Log(scanner.Text())
			}
			for _, want := range c.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("%q is missing", want)
				}
			}
		})
	}
}
