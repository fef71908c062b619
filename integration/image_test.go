// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/internal/harness"
)

// A descriptor points at a blob of a layout (OCI image specification,
// descriptor).
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    map[string]string `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

type imageManifest struct {
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"` // of an index
}

// staticBinary builds the program as releases have it.
func staticBinary(t *testing.T, arch string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outrider-"+arch)
	if err := harness.Release(path, "..", "", "GOOS=linux", "GOARCH="+arch); err != nil {
		t.Fatal(err)
	}
	return path
}

// pack makes a layout and an archive of binaries given as linux/ARCH=PATH.
func pack(t *testing.T, program string, binaries ...string) (layout, archive string) {
	t.Helper()
	dir := t.TempDir()
	layout, archive = filepath.Join(dir, "image"), filepath.Join(dir, "image.tar")
	args := append([]string{"-layout", layout, "-tar", archive, "-version", "v1.2.3", "-revision", "abc"}, binaries...)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1000000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pack: %v\n%s", err, out)
	}
	return layout, archive
}

// blob reads what d points at, and checks that it is that.
func (d descriptor) blob(t *testing.T, layout string) []byte {
	t.Helper()
	digest, ok := strings.CutPrefix(d.Digest, "sha256:")
	content, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", digest))
	if sum := fmt.Sprintf("%x", sha256.Sum256(content)); !ok || err != nil || sum != digest || int64(len(content)) != d.Size {
		t.Fatalf("blob %+v has digest %s and size %d: %v", d, sum, len(content), err)
	}
	return content
}

func decode[T any](t *testing.T, text []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("decode %.200s: %v", text, err)
	}
	return v
}

// files returns the entries of a layer and the content of the program in it.
func files(t *testing.T, layer []byte) (entries []string, program []byte) {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(layer))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, program
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, fmt.Sprintf("%s %04o %d:%d %d %c", h.Name, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Typeflag))
		if h.Name == "usr/bin/outrider" {
			program = content
		}
	}
}

func TestImageIsReproducibleAndStartsAsNomadStartsEnvoy(t *testing.T) {
	t.Parallel()
	packer := filepath.Join(t.TempDir(), "image")
	if err := harness.Build(packer, filepath.Join("..", "dist", "image")); err != nil {
		t.Fatal(err)
	}
	amd64, arm64 := "linux/amd64="+staticBinary(t, "amd64"), "linux/arm64="+staticBinary(t, "arm64")
	layout, archive := pack(t, packer, amd64, arm64)
	again, archiveAgain := pack(t, packer, amd64, arm64)
	for _, pair := range [][2]string{{archive, archiveAgain}, {filepath.Join(layout, "index.json"), filepath.Join(again, "index.json")}} {
		if !bytes.Equal(content(t, pair[0]), content(t, pair[1])) {
			t.Errorf("%s differs when it is made again", filepath.Base(pair[0]))
		}
	}
	if got := decode[map[string]string](t, content(t, filepath.Join(layout, "oci-layout"))); got["imageLayoutVersion"] != "1.0.0" {
		t.Errorf("oci-layout: %v", got)
	}

	outer := decode[imageManifest](t, content(t, filepath.Join(layout, "index.json")))
	if len(outer.Manifests) != 1 || outer.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1.2.3" {
		t.Fatalf("index.json: %+v", outer)
	}
	inner := decode[imageManifest](t, outer.Manifests[0].blob(t, layout))
	var platforms []string
	for _, m := range inner.Manifests {
		arch := m.Platform["architecture"]
		platforms = append(platforms, m.Platform["os"]+"/"+arch)
		program := checkImage(t, layout, arch, decode[imageManifest](t, m.blob(t, layout)))
		if arch == runtime.GOARCH {
			startsAsEnvoyWould(t, program)
		}
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, platforms); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// checkImage checks one image and returns its program.
func checkImage(t *testing.T, layout, arch string, m imageManifest) []byte {
	t.Helper()
	type config struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Created      string `json:"created"`
		Config       struct {
			Entrypoint, Cmd []string
			User            string
			Labels          map[string]string
		} `json:"config"`
	}
	got := decode[config](t, m.Config.blob(t, layout))
	want := config{Architecture: arch, OS: "linux", Created: "2001-09-09T01:46:40Z"}
	want.Config.Entrypoint, want.Config.User = []string{"/usr/bin/outrider"}, "101:0"
	want.Config.Labels = map[string]string{
		"org.opencontainers.image.title": "outrider", "org.opencontainers.image.description": "Consul service-mesh sidecar", "org.opencontainers.image.vendor": "The Outrider Authors",
		"org.opencontainers.image.licenses": "MPL-2.0", "org.opencontainers.image.version": "v1.2.3", "org.opencontainers.image.revision": "abc", "org.opencontainers.image.created": want.Created,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("config of %s (-want +got):\n%s", arch, diff)
	}
	if len(m.Layers) != 1 || m.Layers[0].MediaType != "application/vnd.oci.image.layer.v1.tar+gzip" {
		t.Fatalf("layers of %s: %+v", arch, m.Layers)
	}
	entries, program := files(t, m.Layers[0].blob(t, layout))
	wantEntries := []string{
		"etc/ 0755 0:0 1000000000 5", "etc/group 0644 0:0 1000000000 0", "etc/passwd 0644 0:0 1000000000 0", "etc/ssl/ 0755 0:0 1000000000 5", "etc/ssl/certs/ 0755 0:0 1000000000 5",
		"usr/ 0755 0:0 1000000000 5", "usr/bin/ 0755 0:0 1000000000 5", "usr/bin/outrider 0755 0:0 1000000000 0",
	}
	if diff := cmp.Diff(wantEntries, entries); diff != "" {
		t.Errorf("files of %s (-want +got):\n%s", arch, diff)
	}
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	if f, err := elf.NewFile(bytes.NewReader(program)); err != nil || f.Machine != machine {
		t.Errorf("program of %s: %v, %+v", arch, err, f)
	}
	return program
}

// startsAsEnvoyWould runs the program with the arguments that Nomad gives to the
// image of a sidecar when it is told nothing.
func startsAsEnvoyWould(t *testing.T, program []byte) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "outrider")
	if err := os.WriteFile(path, program, 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), path, args...)
		cmd.Env = []string{"PATH=/usr/bin"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("version"); err != nil || !strings.Contains(strings.ToLower(out), "outrider") {
		t.Errorf("version: %v\n%s", err, out)
	}
	missing := filepath.Join(dir, "envoy_bootstrap.json")
	out, err := run("-c", missing, "-l", "info", "--concurrency", "1", "--disable-hot-restart")
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(out, missing) || !strings.Contains(out, "no such file or directory") {
		t.Errorf("without a bootstrap file: %v\n%s", err, out)
	}
}
