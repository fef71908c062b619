// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package packer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Secrets that the build is given, and that no file of the image may hold.
func canaries() map[string]string {
	return map[string]string{
		"OUTRIDER_PACKAGE_AUTHORIZATION": "Bearer canary-of-the-registry-7f3a91c2",
		"CONSUL_HTTP_TOKEN":              "canary-of-consul-55d0c8e4",
		"VAULT_TOKEN":                    "hvs.canaryOfVault0123456789abcdef",
		"AWS_SECRET_ACCESS_KEY":          "canary-of-the-cloud-0b6e4d1f",
	}
}

// run runs Packer in a folder below packer/, with nothing of the environment of
// whoever runs the tests.
func run(t *testing.T, folder string, env map[string]string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	home := t.TempDir()
	cmd := exec.CommandContext(ctx, os.Getenv(packerVariable), args...)
	cmd.Dir = folder
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "PACKER_CONFIG_DIR=" + home,
		"PACKER_PLUGIN_PATH=" + os.Getenv(pluginsVariable), "CHECKPOINT_DISABLE=1", "PACKER_NO_COLOR=1",
	}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func sum(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

func example(name string) string { return filepath.Join("..", "..", "packer", "examples", name) }

// arguments are those of a build of the example "local" on a machine.
func arguments(t *testing.T, l login, source, digest string) []string {
	t.Helper()
	host, port, err := net.SplitHostPort(l.addr)
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		"build", "-var", "machine_address=" + host, "-var", "machine_port=" + port,
		"-var", "machine_user=" + l.user, "-var", "machine_private_key_file=" + l.key,
		"-var", "outrider_package=" + source, "-var", "outrider_package_sha256=" + digest,
		"-var", "outrider_cache=" + t.TempDir(),
	}
}

// serve is a registry of packages that wants to know who asks. It returns the
// address of the package and a file with the certificate.
func serve(t *testing.T, file string) (address, certificate string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != canaries()["OUTRIDER_PACKAGE_AUTHORIZATION"] {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		http.ServeFile(w, r, file)
	}))
	t.Cleanup(server.Close)
	certificate = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(certificate, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return server.URL + "/outrider.deb", certificate
}

func TestImageJoinsTheMeshAndHoldsNoSecret(t *testing.T) {
	m := newMachine(t)
	// Debian's own libraries have keys for their self-tests.
	before := search(t, m.dir, nil)
	began := time.Now()
	ssh, stop := m.serveSSH(t)
	deb := os.Getenv(packageVariable)
	address, certificate := serve(t, deb)
	env := canaries()
	env["CURL_CA_BUNDLE"] = certificate
	out, err := run(t, example("local"), env, append(arguments(t, ssh, address, sum(t, deb)), ".")...)
	key, _ := os.ReadFile(ssh.key)
	stop()
	if err != nil {
		t.Fatalf("packer build: %v:\n%s", err, out)
	}
	t.Logf("packer build took %v", time.Since(began).Round(time.Millisecond))

	t.Run("the package is installed, the unit enabled, the configuration as given", func(t *testing.T) { isInstalled(t, m) })
	t.Run("what makes clones alike is gone", func(t *testing.T) { hasNoIdentity(t, m) })
	t.Run("no file holds a secret of the build", func(t *testing.T) {
		secrets := []string{strings.Split(string(key), "\n")[1]}
		for _, secret := range canaries() {
			secrets = append(secrets, strings.TrimPrefix(secret, "Bearer "))
			if strings.Contains(out, secret) {
				t.Error("the output of Packer shows a secret")
			}
		}
		if diff := cmp.Diff(before, search(t, m.dir, secrets)); diff != "" {
			t.Errorf("secrets (-before the build +after):\n%s", diff)
		}
		// The search finds what is there.
		c := machine{t.TempDir()}
		c.write(t, "/a", "x"+secrets[1]+"y", 0o600)
		c.write(t, "/b", string(key), 0o600)
		if found := search(t, c.dir, secrets); len(found) != 3 {
			t.Errorf("the search in a folder with two secrets found %q", found)
		}
	})
	t.Run("clones have identities of their own", func(t *testing.T) { clonesDiffer(t, m) })
}

func isInstalled(t *testing.T, m machine) {
	if out, err := m.shell(t, "dpkg-query -W -f '${Status}' outrider"); out != "install ok installed" {
		t.Errorf("the status of the package is %q (%v)", out, err)
	}
	if out, err := m.shell(t, "systemctl is-enabled outrider.service"); err != nil || strings.TrimSpace(out) != "enabled" {
		t.Errorf("the unit is %q (%v), want enabled", out, err)
	}
	want, err := os.ReadFile(filepath.Join(example("local"), "config", "web.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), m.read(t, "/etc/outrider.d/web.hcl")); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	out, err := m.shell(t, "stat -c '%U:%G %a' /etc/outrider.d /etc/outrider.d/web.hcl /var/lib/outrider; ls -A /var/lib/outrider")
	if diff := cmp.Diff("root:outrider 750\nroot:outrider 640\noutrider:outrider 700\n", out); diff != "" || err != nil {
		t.Errorf("owners and modes (-want +got, %v):\n%s", err, diff)
	}
}

func hasNoIdentity(t *testing.T, m machine) {
	info, err := os.Stat(m.path("/etc/machine-id"))
	if err != nil || info.Size() != 0 {
		t.Errorf("/etc/machine-id: %v, %v; want an empty file", info, err)
	}
	left, err := filepath.Glob(m.path("/tmp/*"))
	if err != nil || len(left) > 0 {
		t.Errorf("the build left %q (%v)", left, err)
	}
	if out, err := m.shell(t, "find / -xdev -path /proc -prune -o -name '*outrider-image-*' -print -o -name 'script_*.sh' -print"); out != "" || err != nil {
		t.Errorf("the build left %q (%v)", out, err)
	}
}

// search reads every file below a folder and returns a sentence for each secret
// that one of them holds, and for each private key.
func search(t *testing.T, folder string, secrets []string) []string {
	t.Helper()
	private := regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----\r?\n[A-Za-z0-9+/=]{40}`)
	var found []string
	files := 0
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		for i, secret := range secrets {
			if bytes.Contains(data, []byte(secret)) {
				found = append(found, fmt.Sprintf("%s holds secret %d of the build", path, i))
			}
		}
		if private.Match(data) {
			found = append(found, path+" holds a private key")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("search %s: %v", folder, err)
	}
	t.Logf("searched %d files", files)
	return found
}
