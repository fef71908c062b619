// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package dist_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/command"
)

func unzipped(t *testing.T, compressed []byte) string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	if !z.ModTime.IsZero() || z.Name != "" {
		t.Errorf("the compressed file names its time %v or its name %q", z.ModTime, z.Name)
	}
	text, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestManualHasEveryCommandAndFlag(t *testing.T) {
	t.Parallel()
	text := strings.ReplaceAll(unzipped(t, debOf(t, "amd64").files["/usr/share/man/man1/outrider.1.gz"].content), `\-`, "-")
	for _, c := range command.Describe() {
		at := strings.Index(text, `.SS "outrider `+c.Name)
		if at < 0 {
			t.Errorf("the manual does not have %q", c.Name)
			continue
		}
		part, _, _ := strings.Cut(text[at+1:], "\n.SS")
		for _, f := range c.Flags {
			if !strings.Contains(part, `\fB-`+f.Name+`\fR`) {
				t.Errorf("the manual of %q does not have -%s", c.Name, f.Name)
			}
		}
	}
}

func TestManualOfTheConfigurationHasTheWholeDocument(t *testing.T) {
	t.Parallel()
	manual := unzipped(t, debOf(t, "amd64").files["/usr/share/man/man5/outrider.d.5.gz"].content)
	manual = strings.NewReplacer(`\-`, "-", `\fB`, "", `\fR`, "", `\(dq`, `"`, `\(aq`, "'", `\e`, `\`, `\&`, "", `\(ga`, "`").Replace(manual)
	for line := range strings.Lines(read(t, "../docs/configuration.md")) {
		// The first cell of each row of a table is a name.
		cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "`")
		if ok && strings.HasPrefix(line, "| `") && !strings.Contains(manual, "\n"+cell) {
			t.Errorf("outrider.d(5) does not have %s", cell)
		}
	}
}

// Where the programs that show manual pages are installed, they find no fault.
func TestManualsRender(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, archived := range map[string]string{"outrider.1": "man1/outrider.1.gz", "outrider.d.5": "man5/outrider.d.5.gz"} {
		path := filepath.Join(dir, name)
		write(t, path, unzipped(t, debOf(t, "amd64").files["/usr/share/man/"+archived].content), 0o644)
		for _, check := range [][]string{
			{"mandoc", "-T", "lint", "-W", "warning", path},
			{"groff", "-man", "-ww", "-z", "-K", "utf8", "-T", "utf8", path},
		} {
			if _, err := exec.LookPath(check[0]); err != nil {
				t.Logf("%s is not here", check[0])
				continue
			}
			out, err := exec.CommandContext(t.Context(), check[0], check[1:]...).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("%s: %v\n%s", check[0], err, out)
			}
		}
	}
}

func TestBashCompletesWhatTheProgramHas(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "outrider")
	write(t, path, string(debOf(t, "amd64").files["/usr/share/bash-completion/completions/outrider"].content), 0o644)
	complete := func(line ...string) []string {
		script := `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _outrider; printf '%s\n' "${COMPREPLY[@]}"`
		out, err := exec.CommandContext(t.Context(), "bash", append([]string{"-euc", script, "bash", path}, line...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", line, err, out)
		}
		return strings.Fields(string(out))
	}
	for _, tc := range []struct{ line, want []string }{
		{[]string{"outrider", "val"}, []string{"validate"}},
		{[]string{"outrider", "nothing"}, nil},
		{[]string{"outrider", "job", ""}, []string{"inject"}},
		{[]string{"outrider", "validate", ""}, nil}, // files, which are the shell's
		{[]string{"outrider", "job", "inject", "-drive"}, []string{"-driver"}},
		{[]string{"outrider", "agent", "-"}, []string{"-config"}},
	} {
		if got := complete(tc.line...); !slices.Equal(got, tc.want) {
			t.Errorf("%q completes to %q, want %q", tc.line, got, tc.want)
		}
	}
	for _, c := range command.Describe() {
		words := strings.Fields(c.Name)
		for _, f := range c.Flags {
			got := complete(append(append([]string{"outrider"}, words...), "-"+f.Name)...)
			if len(got) == 0 || got[0] != "-"+f.Name {
				t.Errorf("%s -%s completes to %q", c.Name, f.Name, got)
			}
		}
	}
}

func TestOtherShellsHaveEveryFlagAndCanReadIt(t *testing.T) {
	t.Parallel()
	files := debOf(t, "amd64").files
	for shell, name := range map[string]string{"fish": "/usr/share/fish/vendor_completions.d/outrider.fish", "zsh": "/usr/share/zsh/vendor-completions/_outrider"} {
		text := string(files[name].content)
		for _, c := range command.Describe() {
			for _, f := range c.Flags {
				if !strings.Contains(text, "'*-"+f.Name+"[") && !strings.Contains(text, " -o "+f.Name+" ") {
					t.Errorf("%s does not know %s -%s", shell, c.Name, f.Name)
				}
			}
		}
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("%s is not here", shell)
			continue
		}
		path := filepath.Join(t.TempDir(), "outrider")
		write(t, path, text, 0o644)
		if out, err := exec.CommandContext(t.Context(), shell, "-n", path).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s -n: %v\n%s", shell, err, out)
		}
	}
}

func TestLicencesAndBillOfMaterialsNameEveryModule(t *testing.T) {
	t.Parallel()
	for _, arch := range []string{"amd64", "arm64"} {
		p := debOf(t, arch)
		binary := p.files["/usr/bin/outrider"].content
		info, err := buildinfo.Read(bytes.NewReader(binary))
		if err != nil {
			t.Fatal(err)
		}
		var bill struct {
			BOMFormat, SpecVersion, SerialNumber string
			Metadata                             struct {
				Component struct{ Hashes []struct{ Content string } }
			}
			Components []struct {
				Name, Version, PURL string
				Licenses            []struct{ License struct{ ID string } }
			}
		}
		if err := json.Unmarshal(built(t, "outrider_"+release+"_"+arch+".cdx.json"), &bill); err != nil {
			t.Fatal(err)
		}
		copyright := string(p.files["/usr/share/doc/outrider/copyright"].content)
		licences := map[string]bool{}
		for _, c := range bill.Components {
			if len(c.Licenses) == 0 || c.PURL != "pkg:golang/"+c.Name+"@"+c.Version {
				t.Errorf("%s: licences %v, URL %s", c.Name, c.Licenses, c.PURL)
			}
			licences[c.Name+" "+c.Version] = true
		}
		if len(bill.Components) != len(info.Deps)+1 {
			t.Errorf("%s: %d components for %d modules and the standard library", arch, len(bill.Components), len(info.Deps))
		}
		for _, m := range info.Deps {
			if !licences[m.Path+" "+m.Version] {
				t.Errorf("%s: the bill of materials does not have %s %s", arch, m.Path, m.Version)
			}
			if !strings.Contains(copyright, "\nFiles: vendor/"+m.Path+"/*\nCopyright: ") {
				t.Errorf("%s: the copyright file does not have %s", arch, m.Path)
			}
		}
		sum := sha256.Sum256(binary)
		if got := bill.Metadata.Component.Hashes[0].Content; got != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: the bill is of another binary, %s", arch, got)
		}
		if bill.BOMFormat != "CycloneDX" || bill.SpecVersion != "1.6" || !strings.HasPrefix(bill.SerialNumber, "urn:uuid:") {
			t.Errorf("%s: %s %s %s", arch, bill.BOMFormat, bill.SpecVersion, bill.SerialNumber)
		}
	}
}

// In the format of Debian each paragraph is fields, and each licence that files
// are under stands once in full.
func TestCopyrightFileIsMachineReadable(t *testing.T) {
	t.Parallel()
	text := string(debOf(t, "amd64").files["/usr/share/doc/outrider/copyright"].content)
	used, given := map[string]bool{}, map[string]bool{}
	for n, paragraph := range strings.Split(strings.TrimRight(text, "\n"), "\n\n") {
		fields := map[string]string{}
		last := ""
		for line := range strings.Lines(paragraph + "\n") {
			key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), ":")
			switch {
			case line[0] == ' ' && last != "" && strings.TrimSpace(line) != "":
				fields[last] += line
			case ok && !strings.ContainsAny(key, " \t"):
				last, fields[key] = key, strings.TrimSpace(value)
			default:
				t.Fatalf("paragraph %d: %q belongs to no field", n, line)
			}
		}
		switch {
		case n == 0:
			if !strings.HasSuffix(fields["Format"], "/copyright-format/1.0/") {
				t.Errorf("format %q", fields["Format"])
			}
		case fields["Files"] != "":
			if fields["Copyright"] == "" || fields["License"] == "" {
				t.Errorf("paragraph %d: %v", n, fields)
			}
			for name := range strings.SplitSeq(fields["License"], " and ") {
				used[name] = true
			}
		default:
			name, body, _ := strings.Cut(fields["License"], " ")
			given[name] = len(body) > 500
		}
	}
	if diff := cmp.Diff(used, given); diff != "" {
		t.Errorf("licences used and licences in full (-used +given):\n%s", diff)
	}
}
