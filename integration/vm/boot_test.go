// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// bootVariable names the root that this program is to become the init of.
const bootVariable = "OUTRIDER_TEST_BOOT"

// cgroupPrefix begins the names of the control groups that machines live in.
const cgroupPrefix = "outrider-test-vm-"

// boot makes a machine of the namespaces that this process was started in, and
// systemd of the process. It returns only when it fails.
//
// Nothing in there can change the kernel for the host: kernel settings are
// read-only, and the capabilities are gone that load modules or set the clock.
func boot(dir string) error {
	runtime.LockOSThread()
	// Only now, since the group that a process is in becomes the root of its
	// namespace.
	if err := syscall.Unshare(syscall.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a namespace of control groups: %w", err)
	}
	if err := mountAll(dir); err != nil {
		return err
	}
	if err := makeDevices(filepath.Join(dir, "dev")); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte("vm")); err != nil {
		return fmt.Errorf("name the machine: %w", err)
	}
	if err := os.Chdir(dir); err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make it the root: %w", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the root of the host: %w", err)
	}
	// As systemd has it on a machine, and as it expects it of whoever boots it in
	// a container: it mounts credentials for units this way.
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts between units: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	env := []string{"container=outrider-test", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if err := syscall.Exec("/lib/systemd/systemd", []string{"/lib/systemd/systemd", "--show-status=no"}, env); err != nil {
		return fmt.Errorf("become systemd: %w", err)
	}
	return nil
}

func mountAll(dir string) error {
	const hardened = syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		options              string
	}{
		{"none", "/", "", syscall.MS_REC | syscall.MS_PRIVATE, ""},
		{dir, dir, "", syscall.MS_BIND, ""},
		{"proc", dir + "/proc", "proc", hardened, ""},
		{dir + "/proc/sys", dir + "/proc/sys", "", syscall.MS_BIND, ""},
		{"none", dir + "/proc/sys", "", syscall.MS_BIND | syscall.MS_REMOUNT | syscall.MS_RDONLY | hardened, ""},
		{"sysfs", dir + "/sys", "sysfs", hardened | syscall.MS_RDONLY, ""},
		{"cgroup2", dir + "/sys/fs/cgroup", "cgroup2", hardened, ""},
		{"tmpfs", dir + "/dev", "tmpfs", syscall.MS_NOSUID, "mode=755"},
		{"tmpfs", dir + "/run", "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=755"},
		{"tmpfs", dir + "/tmp", "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=1777"},
	} {
		if err := syscall.Mount(m.source, m.target, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	// Not every kernel has it.
	err := syscall.Mount("/dev/null", dir+"/proc/sysrq-trigger", "", syscall.MS_BIND, "")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cover sysrq-trigger: %w", err)
	}
	return nil
}

func makeDevices(dev string) error {
	defer syscall.Umask(syscall.Umask(0))
	for name, minor := range map[string]int{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9} {
		if err := syscall.Mknod(filepath.Join(dev, name), syscall.S_IFCHR|0o666, 1<<8|minor); err != nil {
			return fmt.Errorf("make the device %s: %w", name, err)
		}
	}
	if err := syscall.Mknod(filepath.Join(dev, "tty"), syscall.S_IFCHR|0o666, 5<<8); err != nil {
		return fmt.Errorf("make the device tty: %w", err)
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return fmt.Errorf("link the device %s: %w", name, err)
		}
	}
	return nil
}

// dropCapabilities takes from this process, for good, what reaches beyond
// namespaces.
func dropCapabilities() error {
	const dropFromBoundingSet = 24 // PR_CAPBSET_DROP of prctl(2)
	for name, capability := range map[string]uintptr{
		"CAP_SYS_MODULE": 16, "CAP_SYS_RAWIO": 17, "CAP_SYS_BOOT": 22, "CAP_SYS_TIME": 25, "CAP_MAC_ADMIN": 33, "CAP_SYSLOG": 34,
	} {
		if _, _, errno := syscall.Syscall(syscall.SYS_PRCTL, dropFromBoundingSet, capability, 0); errno != 0 {
			return fmt.Errorf("drop %s: %w", name, errno)
		}
	}
	return nil
}

// cgroups is where the tests have the second version of control groups.
const cgroups = "/run/outrider-cgroups"

// newCgroup makes the control group of one machine and opens it. systemd needs
// the second version, which has no controllers where the first one has them:
// it then counts processes and limits nothing.
func newCgroup() (*os.File, error) {
	if err := mountCgroups(); err != nil {
		return nil, err
	}
	path := filepath.Join(cgroups, fmt.Sprintf("%s%08x", cgroupPrefix, rand.Uint32()))
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("make a control group: %w", err)
	}
	group, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open a control group: %w", err)
	}
	return group, nil
}

func mountCgroups() error {
	if err := os.Mkdir(cgroups, 0o755); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("make a folder for control groups: %w", err)
	}
	if err := syscall.Mount("cgroup2", cgroups, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount control groups: %w: the kernel must have their second version", err)
	}
	return nil
}

// sweepCgroups removes the control groups that machines have left: their
// processes have gone with the namespace, but groups stay. Those of a run that
// was killed go, too; those of one that still runs hold processes, and stay.
func sweepCgroups() error {
	if err := mountCgroups(); err != nil {
		return err
	}
	groups, err := os.ReadDir(cgroups)
	if err != nil {
		return fmt.Errorf("list control groups: %w", err)
	}
	for _, g := range groups {
		if strings.HasPrefix(g.Name(), cgroupPrefix) {
			removeCgroup(filepath.Join(cgroups, g.Name()))
		}
	}
	return nil
}

// removeCgroup removes a group that holds no process, from the leaves on.
func removeCgroup(path string) {
	below, err := os.ReadDir(path)
	if err != nil {
		return
	}
	for _, g := range below {
		if g.IsDir() {
			removeCgroup(filepath.Join(path, g.Name()))
		}
	}
	_ = syscall.Rmdir(path)
}
