// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package packer

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestWrongVariableIsRefusedWithItsRemedy(t *testing.T) {
	bad := t.TempDir()
	if err := os.WriteFile(filepath.Join(bad, "a.hcl"), []byte("vault {\n  auth \"approle\" {\n    secret_id = \"x\"\n  }\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		variable, want string // want "": it is valid
	}{
		"no source":                 {`outrider_sources=[]`, "must name at least one source block"},
		"a source without its word": {`outrider_sources=["null.machine"]`, "each as source.TYPE.NAME"},
		"a package of another kind": {`outrider_package=/srv/outrider.tar.gz`, "must end in .deb or .rpm"},
		"http":                      {`outrider_package=http://example.com/outrider.deb`, "https:// address"},
		"a password in the address": {`outrider_package=https://me:pw@example.com/outrider.deb`, "without a user, a password or a query"},
		"https":                     {`outrider_package=https://example.com/outrider.deb`, ""},
		"half a digest":             {`outrider_package_sha256=ca978112`, "64 lower-case hexadecimal digits"},
		"a name outside the folder": {`outrider_config={"../a.hcl"="log {}"}`, "must be a plain file name"},
		"a hidden file":             {`outrider_config={".a.hcl"="log {}"}`, "must be a plain file name"},
		"a file that is not read":   {`outrider_config={"a.txt"="log {}"}`, "must be a plain file name"},
		"a token":                   {`outrider_config={"a.hcl"="consul {\n  token = \"x\"\n}"}`, "name a file with token_file ="},
		"a token as an object":      {`outrider_config={"a.hcl"="consul = { \"token\" : \"x\" }"}`, "name a file with token_file ="},
		"a secret ID":               {`outrider_config={"a.hcl"="secret_id=\"x\""}`, "holds a secret"},
		"a PEM block":               {`outrider_config={"a.hcl"="x = <<E\n-----BEGIN PRIVATE KEY-----\nE"}`, "PEM block"},
		"a token of Vault":          {`outrider_config={"a.hcl"="x = \"hvs.abcdefghijklmnopqrstuvwxyz\""}`, "Vault token"},
		"a password in a URL":       {`outrider_config={"a.hcl"="address = \"https://me:pw@consul:8500\""}`, "password in a URL"},
		"the name of a file":        {`outrider_config={"a.hcl"="consul {\n  token_file = \"/etc/outrider.d/consul.token\"\n}"}`, ""},
		"a folder that is not there": {
			`outrider_config_dir=/nowhere`, "must exist and have files that end in .hcl",
		},
		"a folder with a secret ID":  {`outrider_config_dir=` + bad, "name a file with token_file ="},
		"no name of a variable":      {`outrider_sample_environment={"A B"="x"}`, "must be the name of an environment variable"},
		"a value that is no boolean": {`outrider_enable="maybe"`, "outrider_enable"},
	}
	spaces := regexp.MustCompile(`\s+`)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := slices.Concat([]string{"validate"}, somePackage(), given(t)["local"], []string{"-var", tc.variable, "."})
			out, err := run(t, example("local"), nil, args...)
			out = spaces.ReplaceAllString(out, " ")
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("%s is refused: %s", tc.variable, out)
			case tc.want != "" && (err == nil || !strings.Contains(out, tc.want)):
				t.Errorf("%s: %v, %s; want %q", tc.variable, err, out, tc.want)
			}
		})
	}
}

// What a script of the user does to the machine is seen at the end of the build.
func TestImageWithASecretOrAMistakeIsNotMade(t *testing.T) {
	m := newMachine(t)
	ssh, _ := m.serveSSH(t)
	deb := os.Getenv(packageVariable)
	tests := map[string]struct {
		script, digest, want string
	}{
		"another package":       {digest: someDigest, want: "it is another package, or somebody changed it"},
		"a token file":          {script: "echo x > /etc/outrider.d/consul.token", want: "the image would hold a secret, in: /etc/outrider.d/consul.token"},
		"a credential":          {script: "mkdir -p /etc/credstore; echo x > /etc/credstore/outrider.vault.token", want: "the image would hold a secret, in /etc/credstore"},
		"a key under any name":  {script: "echo '-----BEGIN EC PRIVATE KEY-----' > /etc/outrider.d/a.pem", want: "the image would hold a secret, in: /etc/outrider.d/a.pem"},
		"a token in a variable": {script: "echo VAULT_TOKEN=x > /etc/outrider.d/outrider.env", want: "the image would hold a secret, in: /etc/outrider.d/outrider.env"},
		"a wrong configuration": {script: "echo 'servise {}' > /etc/outrider.d/b.hcl", want: `the configuration has mistakes`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			args := arguments(t, ssh, deb, sum(t, deb))
			if tc.digest != "" {
				args = append(args, "-var", "outrider_package_sha256="+tc.digest)
			}
			if tc.script != "" {
				script := filepath.Join(t.TempDir(), "mine.sh")
				if err := os.WriteFile(script, []byte(tc.script+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(args, "-var", `outrider_scripts=["`+script+`"]`)
			}
			out, err := run(t, example("local"), nil, append(args, ".")...)
			if err == nil || !strings.Contains(out, tc.want) {
				t.Errorf("packer build: %v; want %q in:\n%s", err, tc.want, out)
			}
			if out, err := m.shell(t, "rm -rf /etc/outrider.d/*.token /etc/credstore/outrider.* /etc/outrider.d/a.pem /etc/outrider.d/outrider.env /etc/outrider.d/b.hcl; ls -d /tmp/outrider-image-* 2>/dev/null || true"); err != nil || out != "" {
				t.Errorf("the failed build left %q (%v)", out, err)
			}
		})
	}
}
