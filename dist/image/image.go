// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	program = "/usr/bin/outrider"

	// user 101 is whom Nomad's transparent_proxy block lets past the redirection
	// when it is told nothing. Group 0 is that of the files in a task's folder of
	// secrets, of which the Consul token is for root and its group only.
	user = "101:0"

	accounts = "root:x:0:0:root:/:/sbin/nologin\noutrider:x:101:0:Outrider:/:/sbin/nologin\n"
	groups   = "root:x:0:\n"
)

// A binary is Outrider built for one architecture.
type binary struct {
	arch    string // in Go's words
	content []byte
}

// readBinary reads linux/ARCH=PATH, and refuses what would not start in an image
// that holds nothing else.
func readBinary(arg string) (binary, error) {
	platform, path, ok := strings.Cut(arg, "=")
	arch, isLinux := strings.CutPrefix(platform, "linux/")
	if !ok || !isLinux {
		return binary{}, fmt.Errorf("%q is not linux/ARCH=BINARY", arg)
	}
	machine, known := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	if !known {
		return binary{}, fmt.Errorf("%q: the architecture is neither amd64 nor arm64", arg)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return binary{}, fmt.Errorf("read the binary: %w", err)
	}
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return binary{}, fmt.Errorf("read the binary %s: %w", path, err)
	}
	if f.Machine != machine {
		return binary{}, fmt.Errorf("%s is for %s, not for %s", path, f.Machine, arch)
	}
	for _, part := range f.Progs {
		if part.Type == elf.PT_INTERP {
			return binary{}, fmt.Errorf("%s is linked dynamically, and the image has no libraries; build it with CGO_ENABLED=0", path)
		}
	}
	return binary{arch, content}, nil
}

func emptyIndex() v1.ImageIndex {
	return mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
}

// image is that of one binary: one layer, and how to start it.
func (o options) image(b binary) (v1.Image, error) {
	content, err := o.layer(b)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: o.created}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{Created: created, CreatedBy: "dist/image"}, MediaType: types.OCILayer})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS, config.Created = b.arch, "linux", created
	config.Config = v1.Config{Entrypoint: []string{program}, User: user, WorkingDir: "/", Env: []string{"PATH=/usr/bin"}, Labels: o.labels()}
	return mutate.ConfigFile(image, config)
}

// labels are those that the image specification names.
func (o options) labels() map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":       "outrider",
		"org.opencontainers.image.description": "Consul service-mesh sidecar",
		"org.opencontainers.image.vendor":      "The Outrider Authors",
		"org.opencontainers.image.licenses":    "MPL-2.0",
		"org.opencontainers.image.version":     o.version,
		"org.opencontainers.image.created":     o.created.Format(time.RFC3339),
	}
	if o.revision != "" {
		labels["org.opencontainers.image.revision"] = o.revision
	}
	return labels
}

// layer is the file system: nobody but root may write to any of it.
func (o options) layer(b binary) ([]byte, error) {
	files := []struct {
		path    string // of a folder with a slash at the end
		mode    int64
		content []byte
	}{
		{"etc/", 0o755, nil},
		{"etc/group", 0o644, []byte(groups)},
		{"etc/passwd", 0o644, []byte(accounts)},
		{"etc/ssl/", 0o755, nil},
		{"etc/ssl/certs/", 0o755, nil},
		{"etc/ssl/certs/ca-certificates.crt", 0o644, o.certificates},
		{"usr/", 0o755, nil},
		{"usr/bin/", 0o755, nil},
		{"usr/bin/outrider", 0o755, b.content},
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		header := tar.Header{Name: f.path, Mode: f.mode, ModTime: o.created, Format: tar.FormatUSTAR, Typeflag: tar.TypeDir}
		if !strings.HasSuffix(f.path, "/") {
			if f.content == nil {
				continue
			}
			header.Typeflag, header.Size = tar.TypeReg, int64(len(f.content))
		}
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// index lists the images by platform, in the order of the binaries.
func (o options) index(images []v1.Image) v1.ImageIndex {
	index := emptyIndex()
	for n, image := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: o.binaries[n].arch}},
		})
	}
	return index
}

// writeArchive writes what docker load and podman load read.
func (o options) writeArchive(image v1.Image) error {
	tag, err := name.NewTag("outrider:" + o.tag())
	if err != nil {
		return err
	}
	return tarball.WriteToFile(o.archive, tag, image)
}
