// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sidecarBlock = "connect {\n    sidecar_service {}\n  }"

// tree writes files into a new directory and makes it the working directory.
func tree(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func service(name string, port int) string {
	return fmt.Sprintf("service {\n  name = %q\n  port = %d\n  %s\n}\n", name, port, sidecarBlock)
}

func names(cfg *Config) []string {
	var all []string
	for _, s := range cfg.Services {
		all = append(all, s.Name)
	}
	return all
}

func TestDirectoryIsReadInOrderWithoutHiddenFilesAndSubdirectories(t *testing.T) {
	tree(t, map[string]string{
		"conf/20-b.hcl":      service("b", 2),
		"conf/10-a.hcl":      service("a", 1),
		"conf/.30-c.hcl":     service("hidden", 3),
		"conf/40-d.hcl.bak":  "not even HCL {",
		"conf/sub/50-e.hcl":  service("sub", 5),
		"conf/sub.hcl/x.hcl": service("subdirectory-with-ending", 6),
		"more.hcl":           service("c", 3),
	})
	cfg, err := Load("conf", "more.hcl", "conf/10-a.hcl", "./conf/../more.hcl")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, names(cfg)); diff != "" {
		t.Error(diff)
	}
}

func TestProblemsOfAllFilesAreReportedTogether(t *testing.T) {
	tree(t, map[string]string{
		"conf/a.hcl": "log {\n  level = \"info\"\n}\n" + service("web", 8080),
		"conf/b.hcl": "log {\n  level = \"debug\"\n}\n" + service("web", 8081),
		"conf/c.hcl": "nonsense {\n  level info\n}\n",
		"conf/d.hcl": "drian {}\n",
	})
	_, err := Load("conf")
	problem, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("Load = %v, want an *Error", err)
	}
	var got []string
	for _, d := range problem.JSON().Diagnostics {
		got = append(got, fmt.Sprintf("%s:%d %s: %s", filepath.Base(d.Range.Filename), d.Range.Start.Line, d.Summary, d.Detail))
	}
	want := []string{
		`b.hcl:1 Second "log" block: The first one is at conf/a.hcl:1, and there can be one only. Merge the two.`,
		`b.hcl:5 Second service with the ID "web": The first one is at conf/a.hcl:4. Remove one of the two; if both are meant, instances of one service, give each its own id.`,
		`c.hcl:2 Invalid block definition: A block definition must have block content delimited by "{" and "}", starting on the same line as the block header.`,
		`d.hcl:1 Unknown name "drian": Did you mean "drain"?`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestUnreadablePathsAreNamed(t *testing.T) {
	tree(t, map[string]string{"big.hcl": strings.Repeat("# line\n", maxFileSize/7+1), "empty/readme.txt": ""})
	for i := range maxFiles + 1 {
		if err := os.WriteFile(filepath.Join("empty", fmt.Sprintf("%d.conf", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests := map[string]struct {
		paths []string
		want  string
	}{
		"none":     {nil, "no path given"},
		"absent":   {[]string{"absent.hcl"}, "absent.hcl: no such file or directory"},
		"too big":  {[]string{"big.hcl"}, `"big.hcl": larger than the limit of 1048576 bytes`},
		"a device": {[]string{"/dev/null"}, "not a regular file"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Load(test.paths...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Load = %v, want %q in it", err, test.want)
			}
			if _, ok := errors.AsType[*Error](err); ok {
				t.Error("a path that cannot be read is not a matter of content")
			}
		})
	}
	cfg, err := Load("empty")
	if err != nil || cfg.Warnings == nil || !strings.Contains(cfg.Warnings.Error(), "no service is configured") {
		t.Errorf("Load of a directory without configuration = %v, %v; want a warning", cfg, err)
	}
}

func TestTooManyFilesAreRefused(t *testing.T) {
	files := map[string]string{}
	for i := range maxFiles + 1 {
		files[fmt.Sprintf("conf/%04d.hcl", i)] = ""
	}
	tree(t, files)
	if _, err := Load("conf"); err == nil || !strings.Contains(err.Error(), "257 files, more than the limit of 256") {
		t.Errorf("Load = %v, want the limit", err)
	}
}

func TestTextBeyondTheLimitsIsRefusedBeforeItIsParsed(t *testing.T) {
	tests := map[string]struct{ src, want string }{
		"size":      {strings.Repeat("#", maxFileSize+1), "File too large"},
		"encoding":  {"a = \"\xff\"", "File is not UTF-8 text"},
		"brackets":  {"a = " + strings.Repeat("[", 10_000), "Too deeply nested"},
		"blocks":    {strings.Repeat("a {\n", 10_000), "Too deeply nested"},
		"templates": {"a = " + strings.Repeat(`"${`, 10_000), "Too deeply nested"},
		"operators": {"a = " + strings.Repeat("!", 60_000) + "true", "File too complex"},
		"indexes":   {"a = b" + strings.Repeat("[0]", 60_000), "File too complex"},
		"secrets":   {strings.Repeat("token=[", 20_000), "Too deeply nested"},
		"one line":  {strings.Repeat("token=", 20_000), "Missing newline after argument"},
		"exponent":  {"a = 1e9999", "Number out of range"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("a.hcl", []byte(test.src))
			problem, ok := errors.AsType[*Error](err)
			if !ok || problem.JSON().Diagnostics[0].Summary != test.want {
				t.Errorf("Parse = %v, want %q", err, test.want)
			}
			if _, err := Format([]byte(test.src)); err == nil {
				t.Error("Format took it")
			}
		})
	}
}

func TestFileIsReadBesideTheConfigurationFile(t *testing.T) {
	tree(t, map[string]string{
		"conf/a.hcl":     "consul {\n  token = file(\"token\")\n}\n" + service("web", 8080),
		"conf/token":     "from-a-file\n",
		"elsewhere/keep": "",
	})
	t.Chdir("elsewhere")
	cfg, err := Load("../conf")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Consul.Token != "from-a-file" {
		t.Errorf("token = %q, want the text without its newline", string(cfg.Consul.Token))
	}
	if cfg.Warnings != nil {
		t.Errorf("a secret from a file was taken for an inline one: %v", cfg.Warnings)
	}
}

func TestEnvPrefersTheEnvironmentToItsDefault(t *testing.T) {
	t.Setenv("OUTRIDER_TEST_SET", "set")
	t.Setenv("OUTRIDER_TEST_EMPTY", "")
	for expr, want := range map[string]string{
		`env("OUTRIDER_TEST_SET")`:               "set",
		`env("OUTRIDER_TEST_SET", "default")`:    "set",
		`env("OUTRIDER_TEST_EMPTY", "default")`:  "",
		`env("OUTRIDER_TEST_ABSENT", "default")`: "default",
		`"dc-${env("OUTRIDER_TEST_SET")}"`:       "dc-set",
	} {
		cfg, err := Parse("a.hcl", []byte("consul {\n  datacenter = "+expr+"\n}\n"))
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		if cfg.Consul.Datacenter != want {
			t.Errorf("%s = %q, want %q", expr, cfg.Consul.Datacenter, want)
		}
	}
}

func TestRoleAndMountAreFilledInForEachService(t *testing.T) {
	pki := PKI{Mount: "pki/${service}", Role: "mesh-${service}-v1"}
	if got := pki.RoleFor("web"); got != "mesh-web-v1" {
		t.Errorf("RoleFor = %q", got)
	}
	if got := pki.MountFor("web"); got != "pki/web" {
		t.Errorf("MountFor = %q", got)
	}
	if got := (PKI{Role: "fixed"}).RoleFor("web"); got != "fixed" {
		t.Errorf("RoleFor = %q", got)
	}
}
