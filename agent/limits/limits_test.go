// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	v2Mount = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	v1Mount = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" +
		"34 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
	unlimited = "9223372036854771712\n"
	unit      = "sys/fs/cgroup/system.slice/outrider.service/"
)

// files makes a file system of pairs of path and text.
func system(pairs ...string) fs.FS {
	out := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return out
}

func v2(pairs ...string) fs.FS {
	return system(append(pairs, "proc/self/cgroup", "0::/system.slice/outrider.service\n", "proc/self/mountinfo", v2Mount)...)
}

func v1(pairs ...string) fs.FS {
	return system(append(pairs, "proc/self/cgroup", "9:name=systemd:/x\n4:cpu,memory:/a/b\n0::/\n", "proc/self/mountinfo", v1Mount)...)
}

func TestSmallestLimitOnTheWayToTheRootCounts(t *testing.T) {
	t.Parallel()
	const v1Dir = "sys/fs/cgroup/memory/"
	for name, tc := range map[string]struct {
		root fs.FS
		want int64
		from string
	}{
		"own memory.max":              {v2(unit+"memory.max", "512\n", unit+"memory.high", "max\n"), 512, "/" + unit + "memory.max"},
		"own memory.high":             {v2(unit+"memory.max", "512\n", unit+"memory.high", "400\n"), 400, "/" + unit + "memory.high"},
		"memory.max of a slice above": {v2(unit+"memory.max", "512\n", "sys/fs/cgroup/system.slice/memory.max", "100\n"), 100, "/sys/fs/cgroup/system.slice/memory.max"},
		"none in version 2":           {v2(unit+"memory.max", "max\n", unit+"memory.high", "max\n"), 0, ""},
		"nonsense is no limit":        {v2(unit+"memory.max", "lots\n", "sys/fs/cgroup/system.slice/memory.max", "-5\n"), 0, ""},
		"own limit of version 1":      {v1(v1Dir+"a/b/memory.limit_in_bytes", "700\n", v1Dir+"memory.limit_in_bytes", unlimited), 700, "/" + v1Dir + "a/b/memory.limit_in_bytes"},
		"a parent's of version 1":     {v1(v1Dir+"a/b/memory.limit_in_bytes", unlimited, v1Dir+"a/memory.limit_in_bytes", "300\n"), 300, "/" + v1Dir + "a/memory.limit_in_bytes"},
		"none in version 1":           {v1(v1Dir+"a/b/memory.limit_in_bytes", unlimited), 0, ""},
		"no cgroups at all":           {system(), 0, ""},
		"a mount that shows a part": {system("proc/self/cgroup", "0::/docker/abc/inner\n",
			"proc/self/mountinfo", "30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n", "sys/fs/cgroup/inner/memory.max", "90\n"), 90, "/sys/fs/cgroup/inner/memory.max"},
		"a path that the mount does not show": {system("proc/self/cgroup", "0::/../other\n",
			"proc/self/mountinfo", v2Mount, "sys/fs/cgroup/memory.max", "80\n"), 80, "/sys/fs/cgroup/memory.max"},
		"a mount of another's cgroup with the same beginning": {system("proc/self/cgroup", "0::/docker/abcdef\n",
			"proc/self/mountinfo", "30 23 0:26 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup rw\n", "sys/fs/cgroup/def/memory.max", "1\n"), 0, ""},
		"a blank in a path": {system("proc/self/cgroup", "0::/x\n",
			"proc/self/mountinfo", strings.ReplaceAll(v2Mount, "/sys/fs/cgroup", `/my\040cgroups`), "my cgroups/x/memory.max", "70\n"), 70, "/my cgroups/x/memory.max"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := ReadMemory(tc.root)
			if err != nil || m.Bytes != tc.want || m.From != tc.from {
				t.Errorf("%d from %q, %v; want %d from %q", m.Bytes, m.From, err, tc.want, tc.from)
			}
		})
	}
}

func TestMissingMountsAreAnError(t *testing.T) {
	t.Parallel()
	if _, err := ReadMemory(system("proc/self/cgroup", "0::/x\n")); err == nil {
		t.Error("no error")
	}
}

func TestFullLeavesOutWhatTheKernelTakesBack(t *testing.T) {
	t.Parallel()
	// At memory.high nobody is killed: a neighbour's cache may fill a slice up to it.
	m, err := ReadMemory(v2("proc/self/exe", strings.Repeat("x", 85), unit+"memory.max", "1000\n", "sys/fs/cgroup/system.slice/memory.high", "2000\n", "sys/fs/cgroup/system.slice/memory.max", "4000\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		root fs.FS
		want int
	}{
		"the process's own":          {v2(unit+"memory.current", "900\n", unit+"memory.stat", "anon 5\ninactive_file 200\nactive_file 100\n"), 600},
		"no statistics":              {v2(unit+"memory.current", "900\n"), 900},
		"the slice's":                {v2(unit+"memory.current", "100\n", "sys/fs/cgroup/system.slice/memory.current", "3900\n"), 975},
		"above the limit":            {v2(unit+"memory.current", "5000\n"), 1000},
		"files all of a sudden gone": {v2(), 0},
		"a program that is mapped":   {v2(unit+"memory.current", "900\n", unit+"memory.stat", "inactive_file 200\nactive_file 100\nfile_mapped 30\n"), 630},
		"more than the program":      {v2(unit+"memory.current", "900\n", unit+"memory.stat", "file_mapped 250\ninactive_file 200\nactive_file 100\n"), 651},
		"mapped, and no file":        {v2(unit+"memory.current", "900\n", unit+"memory.stat", "file_mapped 250\ninactive_file 10\n"), 900},
		"nonsense":                   {v2(unit+"memory.current", "900\n", unit+"memory.stat", "inactive_file 200\nactive_file many\n"), 900},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := m.Full(tc.root); got != tc.want {
				t.Errorf("%d, want %d", got, tc.want)
			}
		})
	}
}

func TestSoftLimitLeavesAFifthOrRoomForTheProgram(t *testing.T) {
	t.Parallel()
	const mb = 1 << 20
	for _, tc := range []struct {
		limit, program, want int64
		tight                bool
	}{
		{0, 10 * mb, 0, false},
		{500 * mb, 10 * mb, 400 * mb, false},
		{100 * mb, 10 * mb, 80 * mb, false},
		{90 * mb, 10 * mb, 71 * mb, true},
		{40 * mb, 10 * mb, 26 * mb, true},
		{40 * mb, 0, 32 * mb, false},
		{20 * mb, 10 * mb, 10 * mb, true},
		{5 * mb, 10 * mb, 5 * mb / 2, true},
	} {
		m := Memory{Bytes: tc.limit, program: tc.program}
		if got := m.Soft(); got != tc.want || m.Tight() != tc.tight {
			t.Errorf("%d MB of %d and tight %t; want %d MB, %t", got/mb, tc.limit/mb, m.Tight(), tc.want/mb, tc.tight)
		}
	}
}

func TestSmallerKeepsTheSmallerKnownLimit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ have, other, want int64 }{{0, 5, 5}, {5, 0, 5}, {5, 3, 3}, {3, 5, 3}, {0, 0, 0}} {
		if got := (Memory{Bytes: tc.have}).Smaller(tc.other, "task").Bytes; got != tc.want {
			t.Errorf("%d and %d: %d, want %d", tc.have, tc.other, got, tc.want)
		}
	}
}

func TestDescriptorsAndPairs(t *testing.T) {
	t.Parallel()
	n, err := Descriptors()
	if err != nil || n < 1 {
		t.Errorf("%d, %v", n, err)
	}
	for descriptors, want := range map[int]int{0: 0, 100: 0, 1024: 412, 65536: 32668} {
		if got := Pairs(descriptors); got != want {
			t.Errorf("%d descriptors: %d pairs, want %d", descriptors, got, want)
		}
	}
}

func TestPagesThatWereReadAreThoseOfTheProcess(t *testing.T) {
	t.Parallel()
	const before, after = "7 (out) 1 (rider) S 1 7 7 0 -1 4194560 5000 6 ", " 0 12 3 0 0 20 0 8\n"
	if n, err := PagesRead(system("proc/self/stat", before+"4711"+after)); n != 4711 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for name, text := range map[string]string{"empty": "", "short": before, "no name": "1 2 3", "no number": before + "x" + after, "negative": before + "-1" + after} {
		if n, err := PagesRead(system("proc/self/stat", text)); err == nil {
			t.Errorf("%s: %d", name, n)
		}
	}
	if _, err := PagesRead(system("proc/self/other", "")); err == nil {
		t.Error("no error without the file")
	}
	if _, err := PagesRead(os.DirFS("/")); err != nil {
		t.Errorf("this process: %v", err)
	}
}

func TestMachineMemoryIsReadInBytes(t *testing.T) {
	t.Parallel()
	if got := MachineMemory(system("proc/meminfo", "MemTotal:       24684000 kB\nMemFree: 1 kB\n")); got != 24684000<<10 {
		t.Errorf("%d", got)
	}
	if got := MachineMemory(os.DirFS("/")); got < 1<<20 {
		t.Errorf("this machine: %d", got)
	}
	if got := MachineMemory(system("proc/meminfo", "MemTotal: lots\n")); got != 0 {
		t.Errorf("nonsense: %d", got)
	}
}

// Whatever the files say, it is read without a panic and never below zero.
func FuzzReadMemory(f *testing.F) {
	f.Add("0::/a/../b\n4:memory:/x\n", v1Mount+v2Mount, "512\n")
	f.Add(":::\n0::\n", "a b c d e f - cgroup2 c rw\n", "max")
	f.Fuzz(func(t *testing.T, own, mounts, limit string) {
		root := system("proc/self/cgroup", own, "proc/self/mountinfo", mounts, "sys/fs/cgroup/memory.max", limit, "sys/fs/cgroup/memory/x/memory.limit_in_bytes", limit)
		m, err := ReadMemory(root)
		if m.Bytes < 0 || m.Soft() < 0 || m.Full(root) < 0 {
			t.Error(fmt.Sprint(m, err))
		}
	})
}
