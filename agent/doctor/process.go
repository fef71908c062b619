// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/outrider-mesh/outrider/jobs"
)

// A process is the Nomad agent of this host.
type process struct {
	pid  int
	path string // its PATH; nothing else of its environment is kept
}

// find returns where the process would find a program; "" for nowhere.
func (p process) find(root fs.FS, program string) string {
	for _, dir := range filepath.SplitList(p.path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		at := filepath.Join(dir, program)
		info, err := fs.Stat(root, strings.TrimPrefix(at, "/"))
		if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return at
		}
	}
	return ""
}

// findAgent finds the process that serves a node's HTTP API. The error says why
// it cannot be looked at.
func findAgent(root fs.FS, node *jobs.Node) (process, error) {
	if node == nil || node.ID == "" {
		return process{}, errors.New("there is no Nomad client")
	}
	sockets := listeners(root, cmp.Or(node.Port, 4646))
	if len(sockets) == 0 {
		return process{}, fmt.Errorf("nobody listens on port %d in this network: the Nomad agent runs on another host or in another namespace", cmp.Or(node.Port, 4646))
	}
	pid, err := owner(root, sockets)
	if err != nil {
		return process{}, fmt.Errorf("the process of the Nomad agent: %w", err)
	}
	environment, err := fs.ReadFile(root, fmt.Sprintf("proc/%d/environ", pid))
	if err != nil {
		return process{}, fmt.Errorf("the environment of the Nomad agent, process %d, cannot be read: run this as root: %w", pid, err)
	}
	for variable := range strings.SplitSeq(string(environment), "\x00") {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			return process{pid, value}, nil
		}
	}
	return process{}, fmt.Errorf("the Nomad agent, process %d, has no PATH", pid)
}

// A socket listens on a TCP port of this network.
type socket struct {
	address netip.Addr
	port    int
	link    string // as it looks in a process's folder of files
}

// listeners returns the links of the sockets that listen on a port.
func listeners(root fs.FS, port int) []string {
	var out []string
	for _, s := range sockets(root) {
		if s.port == port {
			out = append(out, s.link)
		}
	}
	return out
}

// maxSockets bounds the lines that are read of the table of sockets.
const maxSockets = 1 << 20

// sockets returns every TCP socket that listens (Linux manual, proc(5): net/tcp).
func sockets(root fs.FS) (out []socket) {
	const (
		localField, stateField, inodeField = 1, 3, 9
		listen                             = "0A"
	)
	for _, name := range []string{"proc/net/tcp", "proc/net/tcp6"} {
		f, err := root.Open(name)
		if err != nil {
			continue
		}
		read := 0
		for lines := bufio.NewScanner(f); lines.Scan() && read < maxSockets; read++ {
			fields := strings.Fields(lines.Text())
			if len(fields) <= inodeField || fields[stateField] != listen {
				continue
			}
			text, number, _ := strings.Cut(fields[localField], ":")
			if at, err := strconv.ParseUint(number, 16, 16); err == nil {
				out = append(out, socket{kernelAddress(text), int(at), "socket:[" + fields[inodeField] + "]"})
			}
		}
		_ = f.Close()
	}
	return out
}

// kernelAddress reads an address as /proc/net/tcp writes it: words of 32 bits, each
// as a number of this machine. The zero Addr is none.
func kernelAddress(text string) netip.Addr {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw)%4 != 0 {
		return netip.Addr{}
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, _ := netip.AddrFromSlice(raw)
	return addr.Unmap()
}

var (
	errHidden    = errors.New("it cannot be found by this user: run this as root")
	errElsewhere = errors.New("it is not to be seen from here: it runs in another namespace")
)

// owner returns the process that has one of the sockets open.
func owner(root fs.FS, sockets []string) (int, error) {
	processes, err := fs.ReadDir(root, "proc")
	if err != nil {
		return 0, fmt.Errorf("look for the process that listens: %w", err)
	}
	hidden := false
	for _, entry := range processes {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		dir := path.Join("proc", entry.Name(), "fd")
		files, err := fs.ReadDir(root, dir)
		if errors.Is(err, fs.ErrPermission) {
			hidden = true
		}
		for _, file := range files {
			if link, err := fs.ReadLink(root, path.Join(dir, file.Name())); err == nil && slices.Contains(sockets, link) {
				return pid, nil
			}
		}
	}
	if hidden {
		return 0, errHidden
	}
	return 0, errElsewhere
}
