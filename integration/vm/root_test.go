// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	suite = "bookworm" // Debian 12
	// What a small VM has: systemd, its bus, something to call with. rpm is there
	// to install the other package, too.
	include = "systemd,systemd-sysv,dbus,libpam-systemd,curl,procps,rpm"
	// A mirror is used instead that OUTRIDER_DEBIAN_MIRROR names.
	mirror = "http://deb.debian.org/debian"
)

// trim makes the root a machine that nobody has used yet, and smaller.
const trim = `
rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/usr/share/locale/* "$1"/usr/share/doc/* "$1"/usr/share/man/*
rm -rf "$1"/usr/share/i18n "$1"/var/log/*.log "$1"/var/log/apt "$1"/etc/machine-id "$1"/var/lib/dbus/machine-id
echo vm > "$1"/etc/hostname
printf '127.0.0.1 localhost vm vault.service.consul\n' > "$1"/etc/hosts
: > "$1"/etc/resolv.conf
# These would change the kernel of the host, or wait for a console.
for unit in dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
    systemd-modules-load.service systemd-sysctl.service systemd-udevd.service systemd-udev-trigger.service \
    getty.target console-getty.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; do
    ln -sf /dev/null "$1"/etc/systemd/system/$unit
done
`

// debianRoot returns the tar of a Debian root, made with debootstrap unless the
// cache has the one of this recipe.
func debianRoot() (string, error) {
	cache := os.Getenv("OUTRIDER_CACHE")
	if home, err := os.UserHomeDir(); cache == "" && err == nil {
		cache = filepath.Join(home, ".cache", "outrider")
	}
	recipe := sha256.Sum256([]byte(suite + include + trim))
	path := filepath.Join(cache, "vm", fmt.Sprintf("debian-%s-%.4x.tar", suite, recipe))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("make the cache of Debian roots: %w", err)
	}
	// Beside the cache, since /tmp may be small or mounted without devices.
	work, err := os.MkdirTemp(filepath.Dir(path), ".root-")
	if err != nil {
		return "", fmt.Errorf("make a Debian root: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	fmt.Fprintf(os.Stderr, "making a Debian %s root once, into %s\n", suite, path)
	if err := bootstrap(work, path); err != nil {
		return "", fmt.Errorf("make a Debian root: %w", err)
	}
	return path, nil
}

// bootstrap makes the root in a folder and its tar at path, all of it or nothing.
func bootstrap(work, path string) error {
	from := mirror
	if other := os.Getenv("OUTRIDER_DEBIAN_MIRROR"); other != "" {
		from = other
	}
	root, tar := filepath.Join(work, "root"), filepath.Join(work, "root.tar")
	for _, command := range [][]string{
		{"debootstrap", "--variant=minbase", "--include=" + include, suite, root, from},
		{"sh", "-ec", trim, "trim", root},
		{"tar", "--create", "--file", tar, "--directory", root, "--numeric-owner", "--one-file-system", "."},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		// debootstrap mounts into the root. Nobody else sees that, and it ends
		// with the namespace, however debootstrap ends.
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%w: install Debian's package %s", err, command[0])
		}
		if err != nil {
			return fmt.Errorf("run %s: %w: %s", command[0], err, out.Bytes()[max(0, out.Len()-4000):])
		}
	}
	if err := os.Rename(tar, path); err != nil {
		return fmt.Errorf("put the root into the cache: %w", err)
	}
	return nil
}

// A root is the file system of one machine that does not run.
type root struct{ dir string }

// newRoot unpacks a fresh Debian. It lies on the tmpfs that the tests have as
// /run, which goes with them.
func newRoot(t *testing.T) root {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "root-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "--extract", "--file", os.Getenv(rootVariable), "--directory", dir, "--numeric-owner", "--same-permissions").CombinedOutput(); err != nil {
		t.Fatalf("unpack the Debian root: %v: %s", err, out)
	}
	return root{dir}
}

// path is the file of the root as the tests see it.
func (r root) path(name string) string { return filepath.Join(r.dir, name) }

// put copies packages into /root, and returns their names there.
func (r root) put(t *testing.T, files ...string) []string {
	t.Helper()
	var names []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := "/root/" + filepath.Base(file)
		r.write(t, name, string(data), 0o644)
		names = append(names, name)
	}
	return names
}

// write writes a file of the root with exactly this mode.
func (r root) write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.path(name), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.path(name), mode); err != nil {
		t.Fatal(err)
	}
}

// chroot runs a shell command in the root as it lies there, as image builders do;
// systemd does not run. A command that fails, fails the test.
func (r root) chroot(t *testing.T, command string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "chroot", r.dir, "/bin/sh", "-ec", command)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}
	// Its own process namespace: what it leaves behind ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWPID}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("run %q in a root: %v: %s", command, err, out)
	}
	return string(out)
}

// list returns every file of the root with owner and mode, but those that dpkg
// and the account database keep for themselves.
func (r root) list(t *testing.T) []string {
	t.Helper()
	out := r.chroot(t, `find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /root `+
		`-o -path /var/lib/dpkg -o -path /var/log -o -path /var/cache -o -path /var/lib/rpm \) -prune -o -printf '%p %u:%g %m\n' | sort`)
	return strings.Split(strings.TrimSpace(out), "\n")
}
