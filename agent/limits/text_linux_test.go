// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package limits

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestOnlyTheCodeOfTheProgramIsForgotten(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]bool{
		"00400000-00b5e000 r-xp 00001000 08:01 12345  /usr/bin/outrider":           true,
		"00b5e000-01500000 r--p 00760000 08:01 12345  /usr/bin/outrider":           false,
		"01500000-01560000 rw-p 01101000 08:01 12345  /usr/bin/outrider":           false,
		"00400000-00b5e000 rwxp 00001000 08:01 12345  /usr/bin/outrider":           false,
		"7f0000000000-7f0000100000 r-xp 00000000 08:01 99  /usr/lib/libc.so.6":     false,
		"7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0  [vdso]":                  false,
		"00400000-00b5e000 r-xp 00001000 08:01 12345  /usr/bin/outrider (deleted)": true,
		"00b5e000-00400000 r-xp 00001000 08:01 12345  /usr/bin/outrider":           false,
		"": false, "x": false, "zz-yy r-xp 0 0 0 /usr/bin/outrider": false,
	} {
		if _, _, got := partOf(line, "/usr/bin/outrider", "r-xp"); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
	if start, length, _ := partOf("00400000-00b5e000 r-xp 00001000 08:01 1 /a", "/a", "r-xp"); start != 0x400000 || length != 0x75e000 {
		t.Errorf("%x, %x", start, length)
	}
}

func TestTheProgramRunsOnWithoutItsCode(t *testing.T) {
	before := fileKiB(t)
	for range 100 {
		if err := ForgetText(); err != nil {
			t.Fatal(err)
		}
	}
	if after := fileKiB(t); after >= before {
		t.Errorf("%d KiB of files are resident, %d before", after, before)
	}
}

func TestTheProgramIsReadSparinglyFromThenOn(t *testing.T) {
	if err := ReadSparingly(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parts, part := 0, ""
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 2 && strings.Contains(fields[0], "-"):
			part = ""
			if strings.HasSuffix(strings.TrimSpace(line), " "+program) && (fields[1] == "r-xp" || fields[1] == "r--p") {
				part = line
				parts++
			}
		// proc_pid_smaps(5): rr, random read advise provided.
		case part != "" && fields[0] == "VmFlags:" && !slices.Contains(fields, "rr"):
			t.Errorf("%sis read with what is around it: %s", part, line)
		}
	}
	if parts < 2 {
		t.Errorf("%d parts of %s are mapped", parts, program)
	}
}

// fileKiB is how much of files is resident.
func fileKiB(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssFile:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
