// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

var epoch = time.Unix(86400, 0)

// packed writes an image of two platforms and returns its layout and archive.
func packed(t *testing.T, more ...string) (layer, archive string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("SOURCE_DATE_EPOCH", "86400")
	layer, archive = filepath.Join(dir, "layout"), filepath.Join(dir, "image.tar")
	args := append([]string{"-layout", layer, "-tar", archive, "-version", "v1.0.0+x"}, more...)
	args = append(args, "linux/amd64="+fakeProgram(t, elf.EM_X86_64, false), "linux/arm64="+fakeProgram(t, elf.EM_AARCH64, false))
	var errs bytes.Buffer
	if code := run(args, &errs); code != 0 {
		t.Fatalf("code %d: %s", code, &errs)
	}
	return layer, archive
}

func TestImageIsThatOfEachPlatformAndStartsAsNobodySpecial(t *testing.T) {
	dir, archive := packed(t)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := index.IndexManifest()
	if err != nil || len(outer.Manifests) != 1 || outer.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1.0.0-x" {
		t.Fatalf("%+v, %v", outer, err)
	}
	inner, err := index.ImageIndex(outer.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	list, err := inner.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var platforms []string
	for _, m := range list.Manifests {
		platforms = append(platforms, m.Platform.String())
		image, err := inner.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c := config.Config
		if "linux/"+config.Architecture != m.Platform.String() || !slices.Equal(c.Entrypoint, []string{"/usr/bin/outrider"}) || c.Cmd != nil || c.User != "101:0" {
			t.Errorf("%s: %s, %+v", m.Platform, config.Architecture, c)
		}
		if !config.Created.Equal(epoch) || !config.History[0].Created.Equal(epoch) {
			t.Errorf("%s: made at %v, %v", m.Platform, config.Created, config.History)
		}
	}
	if !slices.Equal(platforms, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("platforms %v", platforms)
	}
	first, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	if config, err := first.ConfigFile(); err != nil || config.Architecture != "amd64" {
		t.Errorf("the archive is for %+v, %v", config, err)
	}
}

// Whoever runs in the image is not its owner.
func TestFilesAreWrittenByRootAloneAndAtOneTime(t *testing.T) {
	t.Parallel()
	for name, certificates := range map[string][]byte{"without certificates": nil, "with": []byte("certificate\n")} {
		content, err := options{created: epoch, certificates: certificates}.layer(binary{"amd64", []byte("program")})
		if err != nil {
			t.Fatal(err)
		}
		modes := map[string]int64{}
		for r := tar.NewReader(bytes.NewReader(content)); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			modes[h.Name] = h.Mode
			if h.Mode&0o022 != 0 || h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(epoch) || strings.HasSuffix(h.Name, "/") != (h.Typeflag == tar.TypeDir) {
				t.Errorf("%s: %s has mode %o, owner %d:%d, time %v, type %c", name, h.Name, h.Mode, h.Uid, h.Gid, h.ModTime, h.Typeflag)
			}
		}
		_, has := modes["etc/ssl/certs/ca-certificates.crt"]
		if modes["usr/bin/outrider"] != 0o755 || modes["etc/passwd"] != 0o644 || has != (certificates != nil) {
			t.Errorf("%s: %v", name, modes)
		}
	}
}

func TestTheSameBinariesGiveTheSameBytes(t *testing.T) {
	_, first := packed(t)
	_, second := packed(t)
	a, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(second)
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("two archives of the same binaries differ (%v)", err)
	}
}
