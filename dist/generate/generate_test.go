// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/command"
)

func TestLicencesAreKnownByTheirWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Mozilla Public License Version\n2.0":                                                 "MPL-2.0",
		"Mozilla Public License, version 2.0":                                                 "MPL-2.0",
		"Mozilla Public License, version 1.1":                                                 "",
		"Apache License\n   Version 2.0, January 2004":                                        "Apache-2.0",
		"Permission is hereby granted,\nfree of charge, to":                                   "MIT",
		"Redistribution and use in source and binary forms\nNeither the name of":              "BSD-3-Clause",
		"Redistribution and use in source and binary forms, with":                             "BSD-2-Clause",
		"Permission to use, copy, modify, and distribute this software for any\npurpose with": "ISC",
		"Business Source License 1.1":                                                         "",
		"GNU GENERAL PUBLIC LICENSE Version 3":                                                "",
		"":                                                                                    "",
	} {
		if got := identify(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func TestHoldersAreThoseWhoSignedAndNotTheForm(t *testing.T) {
	t.Parallel()
	text := "Copyright (c) 2014  Somebody\ncopyright notice that is included\n   Copyright [yyyy] [name of copyright owner]\n(c) 2020 Else"
	want := []string{"2014 Somebody", "2020 Else"}
	if diff := cmp.Diff(want, holders(text)); diff != "" {
		t.Errorf("holders (-want +got):\n%s", diff)
	}
}

func TestModuleWithoutAKnownLicenceIsRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ file, text, want string }{
		"none":    {"README.md", "Hello.", "has no licence"},
		"unknown": {"LICENSE", "Business Source License 1.1", "none of those that are known to fit"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, tc.file), []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		m := module{path: "example.org/a"}
		if err := m.read(dir); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, tc.want)
		}
	}
}

func TestTextsOfOneLicenceHaveNamesOfTheirOwn(t *testing.T) {
	t.Parallel()
	mit := func(who string) licence { return licence{"MIT", who + "\n\nPermission is hereby granted"} }
	text := string(copyright("Mozilla Public License\nours", []module{
		{path: "a", version: "v1", holders: []string{"A"}, licences: []licence{mit("A")}},
		{path: "b", version: "v1", holders: []string{"B", "C"}, licences: []licence{mit("B"), {"MPL-2.0", "theirs"}}, notices: []string{"Mind\n\nthis."}},
		{path: "c", version: "v1", holders: []string{"A"}, licences: []licence{mit("A")}},
	}))
	for _, want := range []string{
		"\nFiles: *\nCopyright: The Outrider Authors\nLicense: MPL-2.0\n",
		"\nFiles: vendor/a/*\nCopyright: A\nLicense: MIT\n",
		"\nFiles: vendor/b/*\nCopyright: B\n C\nLicense: MIT~2 and MPL-2.0\nComment: Version v1.\n Its notice:\n Mind\n .\n this.\n",
		"\nFiles: vendor/c/*\nCopyright: A\nLicense: MIT\n",
		"\nLicense: MIT~2\n B\n .\n Permission is hereby granted\n",
		"\nLicense: MPL-2.0\n Mozilla Public License\n ours\n",
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("not there once: %q\nin:\n%s", want, text)
		}
	}
	if strings.Contains(text, "theirs") {
		t.Error("a second copy of the MPL is in the file")
	}
}

func TestMarkdownBecomesAManualPage(t *testing.T) {
	t.Parallel()
	const markdown = "# Configuration\n\nA `*.hcl` file, [see](there.md),\nand **more**.\n\n## Values\n\n```hcl\n.x = \"a-b\"\n```\n\n| Name | Meaning |\n|---|---|\n| `a` | b; `c` |\n| `d` | | e |\n\n- one\n  and\n- two\n\n### Deep\n\n.dot\n"
	got := string(configurationManual(markdown, "1.2.3", time.Unix(0, 0).UTC()))
	_, got, _ = strings.Cut(got, ".SH \"DESCRIPTION\"\n")
	got, _, _ = strings.Cut(got, ".SH \"SEE ALSO\"")
	want := "A \\fB*.hcl\\fR file, see, and more.\n" +
		".SH \"VALUES\"\n.in +4n\n.EX\n\\&.x = \\(dqa\\-b\\(dq\n.EE\n.in\n" +
		".TP\n\\fBa\\fR\nb; \\fBc\\fR\n.TP\n\\fBd\\fR\ne\n" +
		".IP \\(bu 2\none and\n.IP \\(bu 2\ntwo\n" +
		".SS \"Deep\"\n\\&.dot\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
}

func TestCompletionsSurviveWhatTextsContain(t *testing.T) {
	t.Parallel()
	commands := []command.Description{{
		Name: "job inject", Summary: "it's one",
		Flags: []command.Flag{{Name: "a", Value: "PATH", Usage: "it's [this]: that"}, {Name: "b", Usage: "plain"}},
	}}
	for got, want := range map[string]string{
		string(fish(commands)): `-o a -r -d 'it\'s [this]: that'`,
		string(zsh(commands)):  `'*-a[it'\''s \[this\]\: that]:path:_files'`,
		string(bash(commands)): "job) choice='inject' ;;",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%s is not in:\n%s", want, got)
		}
	}
}

func TestWhatTheEnvironmentSetsIsNoDefaultInAManual(t *testing.T) {
	t.Setenv("OUTRIDER_ADMIN", "unix:///of/the/builder.sock")
	commands, err := describe()
	if err != nil {
		t.Fatal(err)
	}
	if page := string(manual(commands, "1.2.3", time.Unix(0, 0))); strings.Contains(page, "builder") {
		t.Error("the manual has a path of who builds it")
	}
	if os.Getenv("OUTRIDER_ADMIN") == "" {
		t.Error("the environment is not restored")
	}
}

func TestWrongUsageIsSaid(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"-binary", "x"}, {"-nonsense"}} {
		var said strings.Builder
		if code := run(t.Context(), args, &said); code != 2 || said.Len() == 0 {
			t.Errorf("%q: exit code %d, says %q", args, code, said.String())
		}
	}
}
