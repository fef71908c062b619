// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package dist_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A packed is what an opened package holds, of either kind.
type packed struct {
	files   map[string]entry  // by absolute path
	scripts map[string]string // preinst, postinst, prerm, postrm
	config  []string          // kept when edited
	fields  map[string]string // of deb's control file
}

type entry struct {
	owner, group string
	mode         fs.FileMode // permissions, and whether it is a directory
	modified     time.Time
	content      []byte
}

func debOf(t *testing.T, arch string) packed {
	t.Helper()
	name := "outrider_" + release + "_" + arch + ".deb"
	members, err := members(built(t, name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	control, data := untar(t, members["control.tar.gz"]), untar(t, members["data.tar.gz"])
	p := packed{files: data, scripts: map[string]string{}, fields: map[string]string{}}
	for script := range maps.Keys(control) {
		if e := control[script]; e.mode&0o111 != 0 && !e.mode.IsDir() {
			p.scripts[script[1:]] = string(e.content)
		}
	}
	p.config = strings.Fields(string(control["/conffiles"].content))
	for line := range strings.Lines(string(control["/control"].content)) {
		if key, value, ok := strings.Cut(line, ": "); ok && line[0] != ' ' {
			p.fields[key] = strings.TrimSpace(value)
		}
	}
	return p
}

// members reads the archive of ar(5) that a Debian package is (deb(5)).
func members(archive []byte) (map[string][]byte, error) {
	const magic, header = "!<arch>\n", 60
	rest, ok := bytes.CutPrefix(archive, []byte(magic))
	if !ok {
		return nil, errors.New("not an archive")
	}
	out := make(map[string][]byte)
	for len(rest) >= header {
		size, err := strconv.Atoi(strings.TrimSpace(string(rest[48:58])))
		if err != nil || size > len(rest)-header {
			return nil, fmt.Errorf("broken archive: %w", err)
		}
		out[strings.TrimRight(string(rest[:16]), " /")] = rest[header : header+size]
		rest = rest[min(len(rest), header+size+size%2):]
	}
	return out, nil
}

func untar(t *testing.T, compressed []byte) map[string]entry {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]entry)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[path.Clean("/"+h.Name)] = entry{h.Uname, h.Gname, h.FileInfo().Mode(), h.ModTime, content}
	}
}

// content is every file that a package must have, with mode and owner; directories
// only where they are ours.
func content(zsh string) map[string]string {
	out := map[string]string{
		"/etc/outrider.d":                      "drwxr-x--- root:outrider",
		"/etc/outrider.d/outrider.hcl.example": "-rw-r----- root:outrider",
		"/usr/bin/outrider":                    "-rwxr-xr-x root:root",
		"/var/lib/outrider":                    "drwx------ outrider:outrider",
	}
	for _, name := range []string{
		"/usr/lib/systemd/system/outrider.service",
		"/usr/lib/sysusers.d/outrider.conf",
		"/usr/share/bash-completion/completions/outrider",
		"/usr/share/fish/vendor_completions.d/outrider.fish",
		zsh,
		"/usr/share/man/man1/outrider.1.gz",
		"/usr/share/man/man5/outrider.d.5.gz",
		"/usr/share/doc/outrider/copyright",
		"/usr/share/doc/outrider/CHANGELOG.md",
		"/usr/share/doc/outrider/examples/backoff.conf",
		"/usr/share/doc/outrider/examples/credentials.conf",
		"/usr/share/doc/outrider/examples/limits.conf",
		"/usr/share/doc/outrider/examples/low-ports.conf",
		"/usr/share/doc/outrider/examples/unix-sockets.conf",
	} {
		out[name] = "-rw-r--r-- root:root"
	}
	return out
}

// checkContent holds for both kinds of package.
func checkContent(t *testing.T, p packed, zsh string) {
	t.Helper()
	want, got := content(zsh), map[string]string{}
	for name, e := range p.files {
		described := e.mode.String() + " " + e.owner + ":" + e.group
		_, expected := want[name]
		switch {
		case expected:
			got[name] = described
		case e.mode.IsDir() && described == "drwxr-xr-x root:root":
		case strings.HasPrefix(name, "/usr/share/doc/outrider/examples/") && described == "-rw-r--r-- root:root":
		default:
			got[name] = described
		}
		if !e.modified.Equal(time.Unix(date, 0)) {
			t.Errorf("%s was modified at %v, which is not the time of the commit", name, e.modified)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"/etc/outrider.d/outrider.hcl.example"}, p.config); diff != "" {
		t.Errorf("configuration files (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"postinst", "postrm", "preinst", "prerm"}, slices.Sorted(maps.Keys(p.scripts))); diff != "" {
		t.Errorf("scripts (-want +got):\n%s", diff)
	}
}

func TestDebianPackageHoldsEachFileForWhomItIs(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{"amd64", "arm64"} {
		p := debOf(t, arch)
		checkContent(t, p, "/usr/share/zsh/vendor-completions/_outrider")
		for _, field := range []string{"Depends", "Pre-Depends", "Recommends", "Conflicts"} {
			if p.fields[field] != "" {
				t.Errorf("%s: the package has %s: %s", arch, field, p.fields[field])
			}
		}
		if p.fields["Package"] != "outrider" || p.fields["Version"] != release || p.fields["Architecture"] != arch {
			t.Errorf("%s: fields %v", arch, p.fields)
		}
	}
}

func TestArchitecturesDifferInTheBinaryOnly(t *testing.T) {
	t.Parallel()
	amd64, arm64 := debOf(t, "amd64"), debOf(t, "arm64")
	for name, e := range amd64.files {
		if name != "/usr/bin/outrider" && !bytes.Equal(e.content, arm64.files[name].content) {
			t.Errorf("%s differs between architectures", name)
		}
	}
}
