// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package crash leaves behind what is known when an agent does not end as it
// should. It must not keep an agent from running where it cannot write, and writes
// no secret: what it is given to write holds none.
package crash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	keeps = 5 // dumps, and as many outputs of the runtime

	dumpPrefix  = "crash-"
	fatalPrefix = "fatal-"
	livePrefix  = "running-" // with the process ID; what the runtime writes when it ends
)

// Directory is where the state of an agent belongs: the directory that systemd
// made for the unit (systemd.exec, StateDirectory=), that of the task under
// Nomad, else that of the packages where it is there. "" means none.
func Directory(getenv func(string) string) string {
	const packaged = "/var/lib/outrider"
	if dirs := getenv("STATE_DIRECTORY"); dirs != "" {
		first, _, _ := strings.Cut(dirs, ":")
		return first
	}
	if task := getenv("NOMAD_TASK_DIR"); task != "" {
		// Not "outrider": that is where Nomad looks first for a command of this name. The
		// folder of the task is open to all its programs.
		return filepath.Join(task, ".outrider")
	}
	if info, err := os.Lstat(packaged); err == nil && info.IsDir() {
		return packaged
	}
	return ""
}

// A Box is where an agent leaves what is known at its end. Make it with [Open];
// the nil Box does nothing.
type Box struct {
	dir  string
	root *os.Root
	log  hclog.Logger
	live *os.File
	now  func() time.Time
}

// Open prepares a box in a directory that belongs to this user and to which nobody
// else may write, and makes it in a folder that is there; "" is no directory, and
// gives no box. What Go's runtime writes
// about a fault that no code can catch goes there too, besides to stderr. What an
// earlier process has left is named in the log.
func Open(dir string, log hclog.Logger) (*Box, error) {
	if dir == "" {
		return nil, nil
	}
	root, err := enter(dir)
	if err != nil {
		return nil, fmt.Errorf("keep crash dumps in %s: %w", dir, err)
	}
	b := &Box{dir: dir, root: root, log: log, now: time.Now}
	b.collect()
	if err := b.listen(); err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("keep crash dumps in %s: %w", dir, err)
	}
	return b, nil
}

// Check makes a directory for the state of an agent in a folder that is there, and
// returns why nothing must be kept in it: others could write there, or have put a
// link in its place.
func Check(dir string) error {
	root, err := enter(dir)
	if err != nil {
		return fmt.Errorf("keep state in %s: %w", dir, err)
	}
	return root.Close()
}

// enter opens a directory that is private, and makes it when it is not there.
func enter(dir string) (*os.Root, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // whoever starts the agent names it
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if err := private(root, dir); err != nil {
		_ = root.Close()
		return nil, err
	}
	return root, nil
}

// private returns an error when somebody else could put files, or links, into the
// directory, or has put a link to a directory of ours in its place: its folder may
// be open to others.
func private(dir *os.Root, path string) error {
	info, err := dir.Stat(".")
	if err != nil {
		return err
	}
	// After it was opened: what is there now must be what was opened.
	named, err := os.Lstat(path) //nolint:gosec // whoever starts the agent names it
	if err != nil {
		return err
	}
	link, ok := named.Sys().(*syscall.Stat_t)
	switch {
	case named.Mode()&fs.ModeSymlink == 0 && !os.SameFile(named, info):
		return errors.New("somebody has changed it meanwhile")
	case named.Mode()&fs.ModeSymlink != 0 && (!ok || link.Uid != 0 && int(link.Uid) != os.Geteuid()):
		return fmt.Errorf("it is a symbolic link of user %d, which is not followed: name the directory itself", link.Uid)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others than its owner may write there (%s): chmod go-w", info.Mode())
	case !ok || int(owner.Uid) != os.Geteuid():
		return errors.New("it belongs to another user: chown it to the one that the agent runs as")
	}
	return nil
}

// listen has the runtime write to a file, see [debug.SetCrashOutput].
func (b *Box) listen() error {
	name := fmt.Sprintf("%s%d.txt", livePrefix, os.Getpid())
	_ = b.root.Remove(name) // of a process that had our ID
	live, err := b.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := debug.SetCrashOutput(live, debug.CrashOptions{}); err != nil {
		_ = live.Close()
		_ = b.root.Remove(name)
		return err
	}
	b.live = live
	return nil
}

// Close removes what is only needed while the process runs. The agent has ended as
// it should.
func (b *Box) Close() {
	if b == nil {
		return
	}
	_ = debug.SetCrashOutput(nil, debug.CrashOptions{})
	if info, err := b.live.Stat(); err == nil && info.Size() == 0 {
		_ = b.root.Remove(filepath.Base(b.live.Name()))
	}
	_ = b.live.Close()
	_ = b.root.Close()
}

// collect names what earlier processes have left, and removes what is too old.
func (b *Box) collect() {
	for _, name := range b.names(livePrefix) {
		pid := 0
		if n, _ := fmt.Sscanf(name, livePrefix+"%d.txt", &pid); n != 1 || alive(pid) {
			continue
		}
		info, err := b.root.Lstat(name)
		if err != nil || info.Size() == 0 {
			_ = b.root.Remove(name)
			continue
		}
		kept := fatalPrefix + stamp(info.ModTime()) + ".txt"
		if err := b.root.Rename(name, kept); err != nil {
			b.log.Warn("an earlier process ended by a fault; what it wrote cannot be kept", "file", filepath.Join(b.dir, name), "error", err)
			continue
		}
		b.log.Warn("an earlier process ended by a fault, and left what it was doing; please report it", "pid", pid, "file", filepath.Join(b.dir, kept))
	}
	b.prune(fatalPrefix)
	b.prune(dumpPrefix)
}

// alive reports whether a process with the ID runs that is not this one: one with
// our ID was before us.
func alive(pid int) bool {
	if pid <= 0 || pid == os.Getpid() {
		return false
	}
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// names returns the files with a prefix, the oldest first.
func (b *Box) names(prefix string) []string {
	entries, err := fs.ReadDir(b.root.FS(), ".")
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out) // the time is in the name
	return out
}

// prune keeps the newest files with a prefix.
func (b *Box) prune(prefix string) {
	names := b.names(prefix)
	for _, name := range names[:max(0, len(names)-keeps)] {
		_ = b.root.Remove(name)
	}
}

// stamp is a time in the name of a file; names sort by it.
func stamp(t time.Time) string { return t.UTC().Format("20060102T150405.000000000Z") }
