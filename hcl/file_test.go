// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// chmod sets a mode whatever the umask is.
func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestWhatEverybodyMayWriteToIsRefused(t *testing.T) {
	const remedy = "every user of this host may write to it"
	tests := map[string]struct {
		prepare func(t *testing.T)
		load    string
		want    string // "" means it is loaded
	}{
		"file":                       {func(t *testing.T) { chmod(t, "conf/a.hcl", 0o646) }, "conf", `read configuration file "conf/a.hcl": ` + remedy + " (mode 0646); run: chmod o-w conf/a.hcl"},
		"directory":                  {func(t *testing.T) { chmod(t, "conf", 0o757) }, "conf", `list configuration directory "conf": ` + remedy},
		"sticky directory":           {func(t *testing.T) { chmod(t, "conf", 0o757|os.ModeSticky) }, "conf", `list configuration directory "conf": ` + remedy},
		"directory of a file":        {func(t *testing.T) { chmod(t, "conf", 0o757) }, "conf/a.hcl", "its directory"},
		"sticky directory of a file": {func(t *testing.T) { chmod(t, "conf", 0o757|os.ModeSticky) }, "conf/a.hcl", ""},
		"file behind a link": {func(t *testing.T) {
			chmod(t, "other/b.hcl", 0o646)
			symlink(t, "../other/b.hcl", "conf/b.hcl")
		}, "conf", `"conf/b.hcl": ` + remedy},
		"directory behind a link": {func(t *testing.T) {
			chmod(t, "other", 0o757)
			symlink(t, "../other/b.hcl", "conf/b.hcl")
		}, "conf", "its directory other: " + remedy},
		"link to a good file": {func(t *testing.T) { symlink(t, "../other/b.hcl", "conf/b.hcl") }, "conf", ""},
		"file of file()": {func(t *testing.T) {
			chmod(t, "other/text", 0o646)
			symlink(t, "../other/c.hcl", "conf/c.hcl")
		}, "other/c.hcl", remedy},
		"writable by its group": {func(t *testing.T) { chmod(t, "conf/a.hcl", 0o660); chmod(t, "conf", 0o770) }, "conf", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			tree(t, map[string]string{
				"conf/a.hcl": service("a", 1), "other/b.hcl": service("b", 2), "other/text": "x",
				"other/c.hcl": "consul {\n  datacenter = file(\"text\")\n}\n",
			})
			test.prepare(t)
			_, err := Load(test.load)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("Load = %v, want %q", err, test.want)
			}
		})
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func TestPipesAndDirectoriesDoNotStopTheStart(t *testing.T) {
	tree(t, map[string]string{"conf/a.hcl": service("a", 1), "dir/x": "", "b.hcl": "consul {\n  datacenter = file(\"pipe\")\n}\n"})
	for _, path := range []string{"conf/pipe.hcl", "pipe"} {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"conf": `"conf/pipe.hcl": not a regular file`, "b.hcl": "pipe cannot be read: not a regular file"} {
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%q) = %v, want %q", path, err, want)
		}
	}
	if err := os.Remove("conf/pipe.hcl"); err != nil {
		t.Fatal(err)
	}
	symlink(t, "../dir", "conf/dir.hcl")
	if _, err := Load("conf"); err == nil || !strings.Contains(err.Error(), `"conf/dir.hcl": not a regular file`) {
		t.Errorf("Load = %v", err)
	}
}

func TestWhatEditorsAndPackagesLeaveIsNotRead(t *testing.T) {
	files := map[string]string{"conf/a.hcl": service("a", 1)}
	for _, name := range []string{"a.hcl~", ".a.hcl.swp", ".#a.hcl", "#a.hcl#", "a.hcl.bak", "a.hcl.dpkg-old", "a.hcl.dpkg-dist", "a.hcl.rpmsave", "a.hcl.rpmnew", "4913"} {
		files["conf/"+name] = "not HCL {"
	}
	tree(t, files)
	symlink(t, "nowhere", "conf/.#b.hcl") // as Emacs locks a file
	cfg, err := Load("conf")
	if err != nil || len(cfg.Services) != 1 {
		t.Errorf("Load = %v, %v", cfg, err)
	}
}

const credentialFiles = `consul {
  token_file = "secret/consul"

  tls {
    ca_file   = "secret/ca"
    key_file  = "secret/key"
    cert_file = "secret/cert"
  }
}

vault {
  address = "https://127.0.0.1:8200"

  auth "approle" {
    role_id_file   = "secret/role"
    secret_id_file = "secret/id"
  }

  pki {
    role = "web"
  }
}
`

func TestFilesWithCredentialsMustBeThereWhereTheAgentRuns(t *testing.T) {
	names := []string{"consul", "ca", "key", "cert", "role", "id"}
	files := map[string]string{"a.hcl": credentialFiles + service("web", 8080)}
	tree(t, files)
	if cfg, err := Load("a.hcl"); err != nil || cfg.Warnings != nil {
		t.Errorf("where an image is built: %v", err)
	}
	opts, _ := asking(nil)
	_, err := opts.Load("a.hcl")
	problem, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("Load = %v", err)
	}
	want := []string{
		"a.hcl:2: file is missing: secret/consul is not there. Write the file with the Consul token, or correct the path.",
		"a.hcl:5: file is missing: secret/ca is not there. Write the CA certificate, or correct the path.",
		"a.hcl:6: file is missing: secret/key is not there. Write the key, or correct the path.",
		"a.hcl:7: file is missing: secret/cert is not there. Write the client certificate, or correct the path.",
		"a.hcl:15: file is missing: secret/role is not there. Write the file with the role id, or correct the path.",
		"a.hcl:16: file is missing: secret/id is not there. Write the file with the secret id, or correct the path.",
	}
	if diff := cmp.Diff(want, problem.Lines()); diff != "" {
		t.Error(diff)
	}
	if err := os.Mkdir("secret", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join("secret", name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		chmod(t, path, 0o644)
	}
	chmod(t, "secret/id", 0o640)
	for where, load := range map[string]func(...string) (*Config, error){"elsewhere": Load, "here": opts.Load} {
		cfg, err := load("a.hcl")
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		want = []string{
			"a.hcl:2: warning: Secret open to every user: secret/consul has the mode 0644. Run: chmod o= secret/consul",
			"a.hcl:6: warning: Secret open to every user: secret/key has the mode 0644. Run: chmod o= secret/key",
		}
		if cfg.Warnings == nil {
			t.Fatalf("%s: no warning of secrets that everybody may read", where)
		}
		if diff := cmp.Diff(want, cfg.Warnings.Lines()); diff != "" {
			t.Errorf("%s: %s", where, diff)
		}
	}
}

func TestACredentialThatIsADirectoryIsReported(t *testing.T) {
	tree(t, map[string]string{"secret/x": "", "a.hcl": "consul {\n  token_file = \"secret\"\n}\n" + service("web", 8080)})
	if _, err := Load("a.hcl"); err == nil || !strings.Contains(err.Error(), "a.hcl:2: not a file: secret is a directory") {
		t.Errorf("Load = %v", err)
	}
}

func TestAFileThatMayNotBeReadNamesTheUserAndTheRemedy(t *testing.T) {
	err := &os.PathError{Op: "open", Path: "/etc/outrider.d/a.hcl", Err: syscall.EACCES}
	got := permissionRemedy(err)
	if want := fmt.Sprintf("let the user that runs this (uid %d) read it: chgrp and chmod g+r", os.Geteuid()); !strings.Contains(got, want) {
		t.Errorf("remedy %q, want %q", got, want)
	}
	if got := permissionRemedy(syscall.ENOENT); got != "" {
		t.Errorf("remedy %q for a file that is not there", got)
	}
	v := &validator{cfg: &Config{}, pos: positions{}}
	v.unreadable(kept{"consul.token_file", "/t", "the file with the Consul token", true}, err)
	if d := v.diags[0]; d.Summary != "File may not be read" || !strings.Contains(d.Detail, "/t: permission denied. Let the user") {
		t.Errorf("%s: %s", d.Summary, d.Detail)
	}
}

func TestTheFolderOfANomadTaskIsTrustedByThatTask(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "outrider.hcl")
	if err := os.WriteFile(file, []byte("log { level = \"info\" }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	chmod(t, dir, 0o777)
	t.Setenv("NOMAD_TASK_DIR", "")
	if _, err := Load(file); err == nil {
		t.Error("a folder of everybody's")
	}
	t.Setenv("NOMAD_TASK_DIR", t.TempDir())
	if _, err := Load(file); err == nil {
		t.Error("the folder of another task")
	}
	t.Setenv("NOMAD_TASK_DIR", dir)
	if _, err := Load(file); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil {
		t.Error("a file of everybody's in the folder of the task")
	}
}
