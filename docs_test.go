// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main_test

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

var (
	makeCommand = regexp.MustCompile(`(?m)^(?:\$ )?make((?: [a-z]+)+)`)
	makeTarget  = regexp.MustCompile(`(?m)^([a-z]+):`)
	link        = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	span        = regexp.MustCompile("`([^`\n]+)`")
	fence       = regexp.MustCompile("(?ms)^```.*?^```$")
	packageName = regexp.MustCompile("`((?:agent|command|connect|dev|dist|hcl|integration|internal|jobs|version)(?:/[a-z]+)?)`")
)

// texts returns the paths of all Markdown files of the tree.
func texts(t *testing.T, fsys fs.FS) []string {
	t.Helper()
	var out []string
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return enter(fsys, p, d.Name())
		case path.Ext(p) == ".md":
			out = append(out, p)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("look for Markdown files: %v", err)
	}
	return out
}

func text(t *testing.T, fsys fs.FS, p string) string {
	t.Helper()
	src, err := fs.ReadFile(fsys, p)
	if err != nil {
		t.Fatal(err)
	}
	return string(src)
}

// code returns what a text sets as code, fenced or within a line, each piece
// on lines of its own: "make sure" in a sentence is no command.
func code(text string) string {
	out := strings.Join(fence.FindAllString(text, -1), "\n")
	for _, m := range span.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		out += "\n" + m[1]
	}
	return out
}

// checkTargets returns a sentence for each make target that a text names as a
// command and the Makefile does not have.
func checkTargets(t *testing.T, fsys fs.FS) []string {
	t.Helper()
	var have, found []string
	rules := text(t, fsys, "Makefile")
	if included, err := fs.ReadFile(fsys, "dist/package.mk"); err == nil {
		rules += string(included)
	}
	for _, m := range makeTarget.FindAllStringSubmatch(rules, -1) {
		have = append(have, m[1])
	}
	for _, p := range texts(t, fsys) {
		for _, m := range makeCommand.FindAllStringSubmatch(code(text(t, fsys, p)), -1) {
			for target := range strings.FieldsSeq(m[1]) {
				if !slices.Contains(have, target) {
					found = append(found, fmt.Sprintf("%s: the Makefile has no target %q", p, target))
				}
			}
		}
	}
	return found
}

// checkLinks returns a sentence for each relative link that leads nowhere.
func checkLinks(t *testing.T, fsys fs.FS) []string {
	t.Helper()
	var found []string
	for _, p := range texts(t, fsys) {
		prose := fence.ReplaceAllString(text(t, fsys, p), "")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			to, _, _ := strings.Cut(m[1], "#")
			if to == "" || strings.Contains(to, ":") {
				continue
			}
			if _, err := fs.Stat(fsys, path.Join(path.Dir(p), to)); err != nil {
				found = append(found, fmt.Sprintf("%s: the link %s leads nowhere", p, m[1]))
			}
		}
	}
	return found
}

func TestTextsNameOnlyTargetsThatExist(t *testing.T) {
	t.Parallel()
	report(t, checkTargets(t, os.DirFS(".")))
}

func TestRelativeLinksResolve(t *testing.T) {
	t.Parallel()
	report(t, checkLinks(t, os.DirFS(".")))
}

func TestREADMEShowsTheTwoCommands(t *testing.T) {
	t.Parallel()
	readme := text(t, os.DirFS("."), "README.md")
	for _, command := range []string{"make demo", "make test"} {
		if !regexp.MustCompile(`(?m)^` + command + `\b`).MatchString(readme) {
			t.Errorf("README.md does not show %q on a line of its own", command)
		}
	}
}

func TestArchitectureNamesEveryPackage(t *testing.T) {
	t.Parallel()
	named := make(map[string]bool)
	for _, m := range packageName.FindAllStringSubmatch(text(t, os.DirFS("."), "ARCHITECTURE.md"), -1) {
		named[m[1]] = true
	}
	rules := arrows()
	for dir := range rules {
		if dir != "." && dir != "integration" && !named[dir] {
			t.Errorf("ARCHITECTURE.md does not name the package %s", dir)
		}
	}
	for dir := range named {
		if _, ok := rules[dir]; !ok {
			t.Errorf("ARCHITECTURE.md names %s, which is not in the table of arrows_test.go", dir)
		}
	}
}

func TestMissingTargetsAndLinksAreFound(t *testing.T) {
	t.Parallel()
	small := fstest.MapFS{
		"Makefile":   {Data: []byte("demo: build ## text\nbuild:\n")},
		"docs/in.md": {Data: []byte("to [the top](../README.md), to [nothing](gone.md#part)\n")},
		"README.md": {Data: []byte("make sure of `make demo build`, then `make tea`.\n\n" +
			"```\nmake build\nmake coffee\n```\n\n[in](docs/in.md#x) [out](https://example.com) [here](#a)\n\n" +
			"```go\nm[0](missing)\n```\n")},
	}
	wantTargets := []string{
		`README.md: the Makefile has no target "coffee"`,
		`README.md: the Makefile has no target "tea"`,
	}
	if diff := cmp.Diff(wantTargets, checkTargets(t, small)); diff != "" {
		t.Errorf("targets (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"docs/in.md: the link gone.md#part leads nowhere"}, checkLinks(t, small)); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
}
