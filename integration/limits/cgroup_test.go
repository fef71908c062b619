// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// unitFile is the unit that packages install.
const unitFile = "../../dist/root/usr/lib/systemd/system/outrider.service"

// unitMemory is MemoryMax of the packaged unit, in bytes.
func unitMemory(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	if err != nil {
		t.Fatalf("read the packaged unit: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "MemoryMax="); ok {
			mb, err := strconv.ParseInt(strings.TrimSuffix(value, "M"), 10, 32)
			if err != nil || !strings.HasSuffix(value, "M") {
				t.Fatalf("MemoryMax=%s of %s is not in M", value, unitFile)
			}
			return mb << 20
		}
	}
	t.Fatalf("%s has no MemoryMax: the agent would have no limit to keep", unitFile)
	return 0
}

// A cgroup bounds the memory of whoever is put into it.
type cgroup struct {
	dir string
	v2  bool
}

// newCgroup makes a cgroup with a limit in bytes, which goes with the test.
func newCgroup(t *testing.T, limit int64) cgroup {
	t.Helper()
	const root = "/sys/fs/cgroup"
	g := cgroup{dir: filepath.Join(root, "memory")}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		g = cgroup{dir: root, v2: true}
		// As a rule systemd has done it; elsewhere it is to be asked for.
		_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+memory"), 0)
	}
	dir, err := os.MkdirTemp(g.dir, "outrider-limits-")
	if err != nil {
		t.Fatalf("make a memory cgroup: %v: run the test as root, on a host or in a container whose %s is writable", err, g.dir)
	}
	g.dir = dir
	t.Cleanup(func() { g.remove(t) })
	g.set(t, map[bool]string{true: "memory.max", false: "memory.limit_in_bytes"}[g.v2], strconv.FormatInt(limit, 10))
	if g.v2 {
		_ = os.WriteFile(filepath.Join(dir, "memory.swap.max"), []byte("0"), 0) // fails without swap accounting only
	}
	return g
}

func (g cgroup) set(t *testing.T, name, value string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, name), []byte(value), 0); err != nil {
		t.Fatalf("set %s of the cgroup: %v: the memory controller must be available to it", name, err)
	}
}

// remove waits for the last process to leave.
func (g cgroup) remove(t *testing.T) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); ; {
		err := os.Remove(g.dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		select {
		case <-deadline:
			t.Errorf("remove the cgroup: %v", err)
			return
		case <-tick.C:
		}
	}
}

// within is a command line that runs another one inside the cgroup.
func (g cgroup) within(args ...string) []string {
	return append([]string{"/bin/sh", "-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"", g.dir}, args...)
}

func (g cgroup) number(t *testing.T, v2, v1 string) int64 {
	t.Helper()
	name := v1
	if g.v2 {
		name = v2
	}
	text, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// field is a number of a file of names and numbers.
func (g cgroup) field(t *testing.T, file, name string) int64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("%s of the cgroup has no %s", file, name)
	return 0
}

// kills is how often the kernel has killed for want of memory.
func (g cgroup) kills(t *testing.T) int64 {
	t.Helper()
	if g.v2 {
		return g.field(t, "memory.events", "oom_kill")
	}
	return g.field(t, "memory.oom_control", "oom_kill")
}

// files is how much of files counts for the cgroup, in bytes.
func (g cgroup) files(t *testing.T) int64 {
	t.Helper()
	if g.v2 {
		return g.field(t, "memory.stat", "file")
	}
	return g.field(t, "memory.stat", "cache")
}

// readAgain is how often a page that was to be used had to be read from a disk.
func (g cgroup) readAgain(t *testing.T) int64 {
	t.Helper()
	return g.field(t, "memory.stat", "pgmajfault")
}

// use is what the cgroup holds, in words.
func (g cgroup) use(t *testing.T) string {
	t.Helper()
	rss := "anon"
	if !g.v2 {
		rss = "rss"
	}
	const mb = 1 << 20
	return fmt.Sprintf("%d MB of program memory, %d MB with the kernel's and files', at most %d MB so far, %d kills", g.field(t, "memory.stat", rss)/mb,
		g.number(t, "memory.current", "memory.usage_in_bytes")/mb, g.number(t, "memory.peak", "memory.max_usage_in_bytes")/mb, g.kills(t))
}
