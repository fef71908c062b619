// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package accesslog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// foreign makes what is at a path somebody else's and returns who we are then:
// without the right to give it away, we become somebody else.
func foreign(t *testing.T, path string) (euid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		return os.Geteuid() + 1
	}
	if err := os.Lchown(path, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	return 0
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFilesAreOpenedWhereNobodyElseHasASay(t *testing.T) {
	t.Parallel()
	us := os.Geteuid()
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, dir string) (path string, euid int)
		want    string // of the error; "" for none
	}{
		"new file": {func(_ *testing.T, dir string) (string, int) { return dir + "/new", us }, ""},
		"our file": {func(t *testing.T, dir string) (string, int) {
			must(t, os.WriteFile(dir+"/a", []byte("before\n"), 0o600))
			return dir + "/a", us
		}, ""},
		"our link to a directory": {func(t *testing.T, dir string) (string, int) {
			must(t, os.Mkdir(dir+"/real", 0o700), os.Symlink(dir+"/real", dir+"/abs"), os.Symlink("../real/../abs", dir+"/real/rel"))
			return dir + "/abs/rel/a", us
		}, ""},
		"link of somebody else": {func(t *testing.T, dir string) (string, int) {
			must(t, os.Mkdir(dir+"/real", 0o700), os.Symlink("real", dir+"/link"))
			return dir + "/link/a", foreign(t, dir+"/link")
		}, `"link" is a symbolic link of user`},
		"the file is a link": {func(t *testing.T, dir string) (string, int) {
			must(t, os.Symlink("target", dir+"/a"))
			return dir + "/a", us
		}, "symbolic link"},
		"file of somebody else": {func(t *testing.T, dir string) (string, int) {
			must(t, os.WriteFile(dir+"/a", nil, 0o666))
			return dir + "/a", foreign(t, dir+"/a")
		}, "belongs to user"},
		"hard link": {func(t *testing.T, dir string) (string, int) {
			must(t, os.WriteFile(dir+"/a", nil, 0o600), os.Link(dir+"/a", dir+"/b"))
			return dir + "/b", us
		}, "another name"},
		"program": {func(t *testing.T, dir string) (string, int) {
			must(t, os.WriteFile(dir+"/a", []byte("#!/bin/sh\n"), 0o700)) //nolint:gosec // it is to be a program
			return dir + "/a", us
		}, "is a program"},
		"pipe without a reader": {func(t *testing.T, dir string) (string, int) {
			must(t, unix.Mkfifo(dir+"/a", 0o600))
			return dir + "/a", us
		}, "no regular file"},
		"directory": {func(t *testing.T, dir string) (string, int) {
			must(t, os.Mkdir(dir+"/a", 0o700))
			return dir + "/a", us
		}, "is a directory"},
		"no directory": {func(_ *testing.T, dir string) (string, int) { return dir + "/none/a", us }, `directory "none": no such file`},
		"file for a directory": {func(t *testing.T, dir string) (string, int) {
			must(t, os.WriteFile(dir+"/a", nil, 0o600))
			return dir + "/a/b", us
		}, "is no directory"},
		"links in a circle": {func(t *testing.T, dir string) (string, int) {
			must(t, os.Symlink("two", dir+"/one"), os.Symlink("one", dir+"/two"))
			return dir + "/one/a", us
		}, "more than 16 symbolic links"},
		"nothing": {func(*testing.T, string) (string, int) { return "/", us }, "names no file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, euid := tc.prepare(t, t.TempDir())
			f, err := openFile(path, euid)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Fatalf("error %v, want %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteString("line\n")
			must(t, err, f.Close())
			got, err := os.ReadFile(path)
			if err != nil || !strings.HasSuffix(string(got), "line\n") {
				t.Errorf("%q: %v", got, err)
			}
			if strings.HasSuffix(path, "/a") && name == "our file" && !strings.HasPrefix(string(got), "before") {
				t.Errorf("the file was cut: %q", got)
			}
		})
	}
}

func TestOpeningFilesLeavesNoDescriptorBehind(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/real", 0o700), os.Symlink(dir+"/real", dir+"/abs"), os.Symlink("loop", dir+"/loop"), os.Symlink("real", dir+"/a"))
	count := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(all)
	}
	before := count()
	for range 50 {
		for _, path := range []string{"/abs/f", "/loop/f", "/none/f", "/a", "/abs", "/real/f"} {
			if f, err := openFile(filepath.Join(dir, path), os.Geteuid()); err == nil {
				must(t, f.Close())
			}
		}
	}
	if after := count(); after > before+5 { // other tests may run
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
