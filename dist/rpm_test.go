// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package dist_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"
)

// Tags of an rpm header (rpm's documentation, "RPM Tags").
const (
	tagVersion     = 1001
	tagBuildHost   = 1007
	tagArch        = 1022
	tagPreInstall  = 1023
	tagPostInstall = 1024
	tagPreRemove   = 1025
	tagPostRemove  = 1026
	tagModes       = 1030
	tagModified    = 1034
	tagFlags       = 1037
	tagOwners      = 1039
	tagGroups      = 1040
	tagRequires    = 1049
	tagDirIndexes  = 1116
	tagBaseNames   = 1117
	tagDirNames    = 1118
)

// header is one of the two that an rpm begins with (rpm's documentation, "Package
// format"): an index of 16 bytes for each tag, and the store that it points into.
type header map[uint32]tag

type tag struct {
	kind, count uint32
	store       []byte
}

// readHeader returns a header and what follows it.
func readHeader(in []byte) (header, []byte, error) {
	if len(in) < 16 || !bytes.HasPrefix(in, []byte{0x8e, 0xad, 0xe8, 0x01}) {
		return nil, nil, errors.New("no header")
	}
	tags, size := int(binary.BigEndian.Uint32(in[8:])), int(binary.BigEndian.Uint32(in[12:]))
	index, end := in[16:], 16+16*tags+size
	if len(in) < end {
		return nil, nil, errors.New("the header is cut off")
	}
	store, out := in[16+16*tags:end], make(header)
	for n := range tags {
		field := func(at int) uint32 { return binary.BigEndian.Uint32(index[16*n+4*at:]) }
		out[field(0)] = tag{field(1), field(3), store[field(2):]}
	}
	return out, in[end:], nil
}

func (h header) texts(number uint32) []string {
	t := h[number]
	var out []string
	for range t.count {
		text, rest, _ := bytes.Cut(t.store, []byte{0})
		out, t.store = append(out, string(text)), rest
	}
	return out
}

func (h header) text(number uint32) string { return strings.Join(h.texts(number), ",") }

// numbers are of 16 or of 32 bits.
func (h header) numbers(number uint32) []uint32 {
	t := h[number]
	out := make([]uint32, t.count)
	for n := range out {
		if t.kind == 3 {
			out[n] = uint32(binary.BigEndian.Uint16(t.store[2*n:]))
		} else {
			out[n] = binary.BigEndian.Uint32(t.store[4*n:])
		}
	}
	return out
}

func rpmOf(t *testing.T, arch string) (packed, header) {
	t.Helper()
	const lead = 96
	raw := built(t, "outrider-"+release+"."+arch+".rpm")
	signature, rest, err := readHeader(raw[lead:])
	if err != nil || len(signature) == 0 {
		t.Fatalf("%s: signature header: %v", arch, err)
	}
	padding := (8 - (len(raw)-len(rest))%8) % 8
	h, _, err := readHeader(rest[padding:])
	if err != nil {
		t.Fatalf("%s: %v", arch, err)
	}
	p := packed{files: map[string]entry{}, scripts: map[string]string{
		"preinst": h.text(tagPreInstall), "postinst": h.text(tagPostInstall), "prerm": h.text(tagPreRemove), "postrm": h.text(tagPostRemove),
	}}
	dirs, at := h.texts(tagDirNames), h.numbers(tagDirIndexes)
	modes, modified, flags := h.numbers(tagModes), h.numbers(tagModified), h.numbers(tagFlags)
	owners, groups := h.texts(tagOwners), h.texts(tagGroups)
	for n, base := range h.texts(tagBaseNames) {
		e := entry{owner: owners[n], group: groups[n], mode: fs.FileMode(modes[n] & 0o777), modified: time.Unix(int64(modified[n]), 0)}
		if modes[n]&0o170000 == 0o040000 {
			e.mode |= fs.ModeDir
		}
		p.files[dirs[at[n]]+base] = e
		// %config(noreplace) is bit 0 and bit 4 of the flags.
		if flags[n]&1 != 0 && flags[n]&(1<<4) != 0 {
			p.config = append(p.config, dirs[at[n]]+base)
		}
	}
	return p, h
}

func TestRPMHoldsEachFileForWhomItIs(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{"x86_64", "aarch64"} {
		p, h := rpmOf(t, arch)
		checkContent(t, p, "/usr/share/zsh/site-functions/_outrider")
		if h.text(tagVersion) != release || h.text(tagArch) != arch || h.text(tagBuildHost) != "localhost" {
			t.Errorf("version %s, architecture %s, built on %s", h.text(tagVersion), h.text(tagArch), h.text(tagBuildHost))
		}
		for _, name := range h.texts(tagRequires) {
			if !strings.HasPrefix(name, "rpmlib(") {
				t.Errorf("%s: the package requires %s", arch, name)
			}
		}
	}
}

func TestBothKindsOfPackageRunTheSameScripts(t *testing.T) {
	t.Parallel()
	deb := debOf(t, "amd64")
	rpm, _ := rpmOf(t, "x86_64")
	for name, script := range deb.scripts {
		if strings.TrimSpace(rpm.scripts[name]) != strings.TrimSpace(script) {
			t.Errorf("%s differs between deb and rpm", name)
		}
	}
	if !slices.Contains(deb.config, "/etc/outrider.d/outrider.hcl.example") {
		t.Errorf("configuration files of deb: %v", deb.config)
	}
}
