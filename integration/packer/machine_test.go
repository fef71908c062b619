// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package packer

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A machine is the file system of one that does not run, as it becomes an image.
type machine struct{ dir string }

// newMachine unpacks a fresh Debian. It lies on the tmpfs that the tests have as
// /run, which goes with them.
func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine{filepath.Join(runFolder(t), "root")}
	m.must(t, "mkdir", "-m", "755", m.dir)
	m.must(t, "tar", "--extract", "--file", os.Getenv(rootVariable), "--directory", m.dir, "--numeric-owner", "--same-permissions")
	return m
}

// clone copies the machine, as a cloud does with an image.
func (m machine) clone(t *testing.T) machine {
	t.Helper()
	c := machine{filepath.Join(runFolder(t), "root")}
	m.must(t, "cp", "--archive", "--reflink=auto", m.dir, c.dir)
	return c
}

func runFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "packer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// must runs a command of the host.
func (machine) must(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("run %s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func (m machine) path(name string) string { return filepath.Join(m.dir, name) }

// read returns a file of the machine, "" when there is none.
func (m machine) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(m.path(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

// write writes a file of the machine with exactly this mode.
func (m machine) write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path(name), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(m.path(name), mode); err != nil {
		t.Fatal(err)
	}
}

// shell runs a command on the machine as it lies there, as root.
func (m machine) shell(t *testing.T, command string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "chroot", m.dir, "/bin/sh", "-ec", command)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A login is how Packer reaches a machine.
type login struct {
	addr string // host:port
	user string
	key  string // file with the private key
}

// serveSSH runs the SSH server of the machine until stop is called. What it needs
// is in a file system of its own, and is gone before the image is looked at.
func (m machine) serveSSH(t *testing.T) (l login, stop func()) {
	t.Helper()
	run := m.path("/run/sshd")
	if err := os.MkdirAll(run, 0o755); err != nil {
		t.Fatal(err)
	}
	var mounted []string
	for target, kind := range map[string]string{run: "tmpfs", m.path("/proc"): "proc"} {
		if err := syscall.Mount("none", target, kind, 0, map[string]string{"tmpfs": "mode=755"}[kind]); err != nil {
			t.Fatalf("mount %s: %v", target, err)
		}
		mounted = append(mounted, target)
	}
	l = login{addr: "127.0.0.1:2222", user: "builder", key: filepath.Join(t.TempDir(), "key")}
	m.newKey(t, "/run/sshd/host")
	m.newKey(t, "/run/sshd/client")
	if err := os.WriteFile(l.key, []byte(m.read(t, "/run/sshd/client")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("chroot", m.dir, "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-o", "ListenAddress="+l.addr, "-o", "HostKey=/run/sshd/host",
		"-o", "AuthorizedKeysFile=/run/sshd/client.pub", "-o", "PidFile=none", "-o", "UsePAM=no", "-o", "Subsystem=sftp /usr/lib/openssh/sftp-server")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, target := range mounted {
			if err := syscall.Unmount(target, syscall.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", target, err)
			}
		}
		_ = os.Remove(run)
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("log of sshd:\n%s", log.String())
		}
	})
	waitFor(t, l.addr)
	return l, stop
}

// newKey has the machine make a key pair in a file of that name.
func (m machine) newKey(t *testing.T, name string) {
	t.Helper()
	if out, err := m.shell(t, "ssh-keygen -q -t ed25519 -N '' -C '' -f "+name); err != nil {
		t.Fatalf("make a key: %v: %s", err, out)
	}
}

// waitFor returns when somebody listens on an address.
func waitFor(t *testing.T, addr string) {
	t.Helper()
	eventually(t, func() error {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return fmt.Errorf("call %s: %w", addr, err)
		}
		return conn.Close()
	})
}

// eventually asks again and again, for half a minute.
func eventually(t *testing.T, is func() error) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := is()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after half a minute: %v", err)
		case <-ticker.C:
		}
	}
}
