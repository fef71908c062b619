// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"debug/elf"
	endian "encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeProgram returns a file that looks like a static program for a machine, with
// an interpreter when it is to look dynamic.
func fakeProgram(t *testing.T, machine elf.Machine, dynamic bool) string {
	t.Helper()
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	part := elf.Prog64{Type: uint32(elf.PT_LOAD)}
	if dynamic {
		part.Type = uint32(elf.PT_INTERP)
	}
	var out bytes.Buffer
	for _, v := range []any{header, part} {
		if err := endian.Write(&out, endian.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBinaryThatWouldNotStartIsRefused(t *testing.T) {
	t.Parallel()
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ arg, want string }{
		"another machine":  {"linux/arm64=" + fakeProgram(t, elf.EM_X86_64, false), "not for arm64"},
		"dynamic":          {"linux/amd64=" + fakeProgram(t, elf.EM_X86_64, true), "CGO_ENABLED=0"},
		"no program":       {"linux/amd64=" + text, "read the binary"},
		"no file":          {"linux/amd64=" + text + "x", "no such file"},
		"another system":   {"darwin/arm64=" + text, "is not linux/ARCH=BINARY"},
		"another platform": {"linux/386=" + text, "neither amd64 nor arm64"},
		"no path":          {"linux/amd64", "is not linux/ARCH=BINARY"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := readBinary(tc.arg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestCommandLineIsChecked(t *testing.T) {
	t.Parallel()
	good := "linux/amd64=" + fakeProgram(t, elf.EM_X86_64, false)
	for name, tc := range map[string]struct {
		args        []string
		epoch, want string
	}{
		"no layout":       {[]string{good}, "", "give -layout DIR"},
		"no binary":       {[]string{"-layout", "x"}, "", "give -layout DIR"},
		"no number":       {[]string{"-layout", "x", good}, "yesterday", "SOURCE_DATE_EPOCH"},
		"no certificates": {[]string{"-layout", "x", "-ca-certificates", "/nowhere", good}, "", "read the certificates"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := parse(tc.args, tc.epoch, t.Output()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one with %q", err, tc.want)
			}
		})
	}
	o, err := parse([]string{"-layout", "x", "-version", "v1.0.0+dirty", good}, "86400", t.Output())
	if err != nil || !o.created.Equal(time.Unix(86400, 0)) || o.tag() != "v1.0.0-dirty" {
		t.Errorf("created %v, tag %q, error %v", o.created, o.tag(), err)
	}
}

func TestLayoutThatExistsIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var errs bytes.Buffer
	if code := run([]string{"-layout", dir, "linux/amd64=" + fakeProgram(t, elf.EM_X86_64, false)}, &errs); code != 1 || !strings.Contains(errs.String(), "exists already") {
		t.Errorf("code %d: %s", code, &errs)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
