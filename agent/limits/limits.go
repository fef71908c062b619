// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package limits reads what the system lets this process use, the memory of its
// cgroups and its file descriptors, and tells the kernel how the program's own pages
// are used. It decides nothing about connections.
package limits

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Memory is what a process may use before the kernel kills it. The zero value
// knows of no limit.
type Memory struct {
	Bytes int64  // 0: no limit is known
	From  string // who says so, for people

	program int64   // bytes of the program's pages that it needs to get on
	files   []files // of each cgroup whose processes the kernel kills at a limit
}

// files are those of one cgroup.
type files struct {
	limit       int64
	usage, stat string
	caches      []string // what of usage the kernel takes back before it kills
	mapped      string   // what of that somebody has mapped, as a process its program
}

// none is what version 1 writes where there is no limit: the largest whole
// number of pages, whatever their size (Linux, memory.limit_in_bytes).
const none = math.MaxInt64 - 1<<20

// Soft is the limit to give to Go's collector, in bytes: four fifths. The rest
// is for what Go does not count and a cgroup does: pages of the program, what the
// kernel keeps for sockets (about 8 KiB for a proxied connection, and what they
// buffer), and what grows between two looks. Where a fifth is too little for
// that, it is what leaves room for the program and a tenth, but never less than
// half. It is 0 without a limit.
func (m Memory) Soft() int64 {
	return max(m.Bytes/2, min(m.Bytes/5*4, m.Bytes-m.program-m.Bytes/10))
}

// Tight reports whether the limit is so low that the program's own pages matter.
func (m Memory) Tight() bool { return m.Bytes > 0 && m.Bytes/10 < m.program }

// programOf is what the process needs of its program, in bytes: three fifths of the
// file. Under load the kernel keeps 11 MB of 20, of which 6 are mapped. It is 0 when
// the file cannot be looked at.
func programOf(root fs.FS) int64 {
	info, err := fs.Stat(root, "proc/self/exe")
	if err != nil {
		return 0
	}
	return info.Size() / 5 * 3
}

// Smaller returns the smaller one of two limits.
func (m Memory) Smaller(bytes int64, from string) Memory {
	if bytes <= 0 || m.Bytes > 0 && m.Bytes <= bytes {
		return m
	}
	m.Bytes, m.From = bytes, from
	return m
}

// ReadMemory reads the limits of the process's own cgroup and of those above it,
// in both versions of cgroups, and returns the smallest: of memory.max and
// memory.high, or of memory.limit_in_bytes. root is the root of the file system.
// A system without cgroups has no limit; files that should be there and cannot
// be read are errors, with what was found until then.
func ReadMemory(root fs.FS) (Memory, error) {
	own, err := fs.ReadFile(root, "proc/self/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return Memory{}, nil
	}
	if err != nil {
		return Memory{}, fmt.Errorf("read the cgroups of this process: %w", err)
	}
	mounts, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return Memory{}, fmt.Errorf("read where cgroups are mounted: %w", err)
	}
	m := Memory{program: programOf(root)}
	for line := range strings.Lines(string(own)) {
		// Linux manual, cgroups(7): hierarchy, controllers, path.
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		version := 0
		switch {
		case parts[0] == "0" && parts[1] == "":
			version = 2
		case slices.Contains(strings.Split(parts[1], ","), "memory"):
			version = 1
		default:
			continue
		}
		for _, mount := range mountsOf(string(mounts), version) {
			m.climb(root, mount, parts[2], version)
		}
	}
	return m, nil
}

// A mount is a place where a hierarchy of cgroups is to be seen, from root on.
type mount struct{ root, point string }

// mountsOf finds the mounts of a hierarchy (Linux manual, proc_pid_mountinfo(5)).
func mountsOf(text string, version int) []mount {
	var found []mount
	for line := range strings.Lines(text) {
		first, second, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		left, right := strings.Fields(first), strings.Fields(second)
		if !ok || len(left) < 6 || len(right) < 3 {
			continue
		}
		v2 := version == 2 && right[0] == "cgroup2"
		v1 := version == 1 && right[0] == "cgroup" && slices.Contains(strings.Split(right[2], ","), "memory")
		if v1 || v2 {
			found = append(found, mount{root: unescape(left[3]), point: unescape(left[4])})
		}
	}
	return found
}

// unescape reads a path of mountinfo, which writes blanks in octal.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// climb looks at a cgroup and at all above it that can be seen. A path that the
// mount does not show, as in a container with a namespace of its own half set
// up, leaves the mount's own root.
func (m *Memory) climb(root fs.FS, at mount, own string, version int) {
	below, inside := strings.CutPrefix(path.Clean(own), strings.TrimSuffix(path.Clean(at.root), "/"))
	if !inside || below != "" && !strings.HasPrefix(below, "/") || strings.HasPrefix(below, "/..") {
		below = "/"
	}
	for dir := path.Clean("/" + below); ; dir = path.Dir(dir) {
		m.look(root, path.Join(at.point, dir), version)
		if dir == "/" {
			return
		}
	}
}

// look takes the limits of one cgroup. Those of the root do not exist.
func (m *Memory) look(root fs.FS, dir string, version int) {
	at := files{usage: path.Join(dir, "memory.current"), stat: path.Join(dir, "memory.stat"), caches: []string{"inactive_file", "active_file"}, mapped: "file_mapped"}
	names := []string{"memory.max", "memory.high"}
	if version == 1 {
		at.usage, names = path.Join(dir, "memory.usage_in_bytes"), []string{"memory.limit_in_bytes"}
		at.caches, at.mapped = []string{"total_inactive_file", "total_active_file"}, "total_mapped_file"
	}
	for _, name := range names {
		file := path.Join(dir, name)
		limit, err := number(root, file)
		if err != nil || limit <= 0 || limit >= none {
			continue // there is none, or it says max
		}
		*m = m.Smaller(limit, file)
		if name != "memory.high" { // there the kernel only slows down
			at.limit = limit
		}
	}
	if at.limit > 0 {
		m.files = append(m.files, at)
	}
}

func number(root fs.FS, file string) (int64, error) {
	text, err := fs.ReadFile(root, strings.TrimPrefix(file, "/"))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// Full is how much of the memory is used by all processes in the cgroups, in
// thousandths of the limit; of several cgroups it is the fullest. What the kernel
// would take back first does not count, but for what is mapped of files, as far as
// the program needs that: taken back, it is read again at once. It is 0 where
// nothing can be read.
func (m Memory) Full(root fs.FS) int {
	full := 0
	for _, f := range m.files {
		used, err := number(root, f.usage)
		if err != nil {
			continue
		}
		cached, mapped := f.spare(root)
		used = max(0, used-max(0, cached-min(mapped, m.program)))
		full = max(full, int(min(used, f.limit)*1000/f.limit))
	}
	return full
}

// spare is the page cache of files, which the kernel can read again, and what
// processes have mapped of it, in bytes.
func (f files) spare(root fs.FS) (cached, mapped int64) {
	text, err := fs.ReadFile(root, strings.TrimPrefix(f.stat, "/"))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok || name != f.mapped && !slices.Contains(f.caches, name) {
			continue
		}
		n, err := strconv.ParseInt(value, 10, 62)
		switch {
		case err != nil || n < 0:
			return 0, 0
		case name == f.mapped:
			mapped = n
		default:
			cached += n
		}
	}
	return cached, mapped
}

// MachineMemory is the memory of the whole machine in bytes, 0 when it cannot be
// read.
func MachineMemory(root fs.FS) int64 {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kb, err := strconv.ParseInt(f[1], 10, 40)
			if err != nil {
				return 0
			}
			return kb << 10
		}
	}
	return 0
}
