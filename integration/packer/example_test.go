// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package packer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

const someDigest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"

// given is what a person gives to packer validate, by example, beside the package.
func given(t *testing.T) map[string][]string {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return map[string][]string{
		"amazon-ebs":    nil,
		"googlecompute": {"-var", "project=my-project"},
		"qemu": {
			"-var", "cloud_image=https://images.example.com/debian-12.qcow2", "-var", "cloud_image_checksum=sha256:" + someDigest,
			"-var", "build_public_key=ssh-ed25519 AAAA", "-var", "build_private_key_file=" + key,
		},
		"local": {"-var", "machine_user=builder", "-var", "machine_password=correct-horse"},
	}
}

func somePackage() []string {
	return []string{"-var", "outrider_package=/srv/outrider.deb", "-var", "outrider_package_sha256=" + someDigest}
}

// The builders are real plugins, so that each argument of an example exists.
func TestExamplesAreValid(t *testing.T) {
	vars := given(t)
	entries, err := os.ReadDir(example(""))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if want := slices.Sorted(maps.Keys(vars)); !slices.Equal(names, want) {
		t.Fatalf("examples are %q, and the test knows %q", names, want)
	}
	for name, args := range vars {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cloud := map[string]string{"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
			if out, err := run(t, example(name), cloud, slices.Concat([]string{"validate"}, somePackage(), args, []string{"."})...); err != nil {
				t.Errorf("packer validate: %v:\n%s", err, out)
			}
			cmd := exec.CommandContext(t.Context(), outrider(t), "validate", filepath.Join(example(name), "config"))
			cmd.Env = []string{"WEB_ADDRESS=192.0.2.1"}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("outrider validate: %v:\n%s", err, out)
			}
		})
	}
	t.Run("and formatted", func(t *testing.T) {
		t.Parallel()
		if out, err := run(t, filepath.Join("..", "..", "packer"), nil, "fmt", "-check", "-recursive", "."); err != nil {
			t.Errorf("packer fmt -check: %v: run packer fmt -recursive packer:\n%s", err, out)
		}
	})
}

// outrider takes the program out of the package.
func outrider(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--extract", os.Getenv(packageVariable), dir).CombinedOutput(); err != nil {
		t.Fatalf("unpack the package: %v: %s", err, out)
	}
	return filepath.Join(dir, "usr", "bin", "outrider")
}

// cloud-init comes with the Debian machine, and has the schema of its own files.
func TestUserDataFollowsTheSchemaOfCloudInit(t *testing.T) {
	m := newMachine(t)
	for _, name := range []string{"user-data.yaml", "user-data-image.yaml"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "dist", "examples", "cloud-init", name))
		if err != nil {
			t.Fatal(err)
		}
		m.write(t, "/root/"+name, string(text), 0o600)
		if out, err := m.shell(t, "cloud-init schema --config-file /root/"+name+" 2>&1"); err != nil || !strings.Contains(out, "Valid") {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
	m.write(t, "/root/bad.yaml", "#cloud-config\nwrite_files: [{owner: root}]\nruncmd: 5\n", 0o600)
	if out, err := m.shell(t, "cloud-init schema --config-file /root/bad.yaml"); err == nil {
		t.Errorf("a file with mistakes passes: %s", out)
	}
}

// Providers come from a registry, so that this is the language and the format only.
func TestTerraformExamplesAreHCLInCanonicalForm(t *testing.T) {
	t.Parallel()
	found := 0
	err := filepath.WalkDir(filepath.Join("..", "..", "dist", "examples", "terraform"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".tf" {
			return err
		}
		found++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, diags := hclsyntax.ParseConfig(text, path, hcl.InitialPos); diags.HasErrors() {
			t.Error(diags)
		}
		if string(hclwrite.Format(text)) != string(text) {
			t.Errorf("%s: run terraform fmt", path)
		}
		return nil
	})
	if err != nil || found == 0 {
		t.Fatalf("read %d files: %v", found, err)
	}
}
