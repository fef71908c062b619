// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package dist_test looks into the packages that make package builds, as files:
// what they hold, for whom, and what their scripts would do. It must not install
// them.
package dist_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	release = "1.2.3"
	commit  = "0123456789ab"
	date    = 1795272629 // seconds since 1970
)

func names() []string {
	return []string{
		"SHA256SUMS",
		"outrider-" + release + ".aarch64.rpm", "outrider-" + release + ".x86_64.rpm",
		"outrider_" + release + "_amd64.cdx.json", "outrider_" + release + "_amd64.deb",
		"outrider_" + release + "_arm64.cdx.json", "outrider_" + release + "_arm64.deb",
	}
}

// scratch is a directory for the whole run, with a copy of the checkout: what
// somebody edits meanwhile must not get between two builds.
var scratch string

// TestMain's result is that of m.Run, which the test binary ends with.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "outrider-package-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	scratch = dir
	m.Run()
}

func sources() string { return filepath.Join(scratch, "checkout") }

// packages holds what one make package of this checkout built, for all tests.
var packages = sync.OnceValues(func() (map[string][]byte, error) {
	if err := copyTree("..", sources()); err != nil {
		return nil, err
	}
	return pack(context.Background(), sources(), filepath.Join(scratch, "package"), "umask 022")
})

func pack(ctx context.Context, root, out, before string) (map[string][]byte, error) {
	cmd := exec.CommandContext(ctx, "sh", "-ec", before+`; exec make --no-print-directory -f dist/package.mk package "$@"`, "sh",
		"VERSION=v"+release, "COMMIT="+commit, "PACKAGE_DIR="+out)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", date), "MAKEFLAGS=", "MAKELEVEL=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make package in %s: %w\n%s", root, err, text)
	}
	files := make(map[string][]byte)
	entries, err := os.ReadDir(out)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(out, e.Name())); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func built(t *testing.T, name string) []byte {
	t.Helper()
	files, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	content, ok := files[name]
	if !ok {
		t.Fatalf("make package has not built %s", name)
	}
	return content
}

func TestPackageBuildsTheFilesThatAreAnnounced(t *testing.T) {
	t.Parallel()
	var want, got []string
	for _, name := range names() {
		if name != "SHA256SUMS" {
			sum := sha256.Sum256(built(t, name))
			want = append(want, hex.EncodeToString(sum[:])+"  "+name)
		}
	}
	got = strings.Split(strings.TrimRight(string(built(t, "SHA256SUMS")), "\n"), "\n")
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("SHA256SUMS (-want +got):\n%s", diff)
	}
	files, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(names()) {
		t.Errorf("make package left %d files, not %d", len(files), len(names()))
	}
}

// Another directory, another umask, another time zone, another clock of the files
// and no git: equal bytes.
func TestAnotherBuildGivesTheSameBytes(t *testing.T) {
	t.Parallel()
	built(t, "SHA256SUMS")
	first, err := packages()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "some where", "else")
	if err := copyTree(sources(), elsewhere); err != nil {
		t.Fatal(err)
	}
	second, err := pack(t.Context(), elsewhere, filepath.Join(t.TempDir(), "out"), "umask 077; export TZ=Asia/Kathmandu LC_ALL=C CONSUL_HTTP_ADDR=elsewhere:1 OUTRIDER_ADMIN=elsewhere:2")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names() {
		if !bytes.Equal(first[name], second[name]) {
			t.Errorf("%s differs between two builds", name)
		}
	}
}

// copyTree copies what a build needs: neither history nor what was built.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && (rel == "bin" || rel == "bench" || rel == "integration" || rel != "." && strings.HasPrefix(rel, ".")):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), content, 0o600)
	})
}

func TestBinaryIsStaticStrippedAndSmall(t *testing.T) {
	t.Parallel()
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		binary := debOf(t, arch).files["/usr/bin/outrider"].content
		f, err := elf.NewFile(bytes.NewReader(binary))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if f.Machine != machine {
			t.Errorf("%s: the binary is for %s", arch, f.Machine)
		}
		for _, part := range f.Progs {
			if part.Type == elf.PT_INTERP {
				t.Errorf("%s: the binary is linked dynamically", arch)
			}
		}
		if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
			t.Errorf("%s: the binary is not stripped", arch)
		}
		if bytes.Contains(binary, []byte(sources())) {
			t.Errorf("%s: the binary names the directory of its sources", arch)
		}
		const limit = 25 << 20
		t.Logf("%s: %.1f MB", arch, float64(len(binary))/(1<<20))
		if len(binary) > limit {
			t.Errorf("%s: the binary has %d bytes, more than %d", arch, len(binary), limit)
		}
	}
}

func TestBinaryKnowsItsVersion(t *testing.T) {
	t.Parallel()
	found := false
	for _, arch := range []string{"amd64", "arm64"} {
		binary := debOf(t, arch).files["/usr/bin/outrider"].content
		if !bytes.Contains(binary, []byte("v"+release)) || !bytes.Contains(binary, []byte(commit)) {
			t.Errorf("%s: the binary holds neither version nor commit", arch)
		}
		path := filepath.Join(t.TempDir(), "outrider")
		if err := os.WriteFile(path, binary, 0o755); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), path, "version").CombinedOutput()
		if err != nil {
			continue // of another architecture
		}
		found = true
		if want := "outrider " + release + " (" + commit + ")\n"; string(out) != want {
			t.Errorf("%s: version prints %q, want %q", arch, out, want)
		}
	}
	if !found {
		t.Error("neither binary runs here")
	}
}
