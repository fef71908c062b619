// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDescriptionsAreThoseOfTheTable(t *testing.T) {
	t.Parallel()
	var help strings.Builder
	printHelp(&help)
	got := Describe()
	if len(got) != len(commands()) {
		t.Fatalf("%d descriptions for %d commands", len(got), len(commands()))
	}
	for _, d := range got {
		if !strings.Contains(help.String(), d.Summary) || !strings.Contains(help.String(), strings.Fields(d.Name)[0]) {
			t.Errorf("the help does not have %q: %q", d.Name, d.Summary)
		}
		for _, f := range d.Flags {
			if strings.ContainsAny(f.Usage, "`\n") || f.Usage == "" {
				t.Errorf("%s -%s: usage %q cannot stand in a manual", d.Name, f.Name, f.Usage)
			}
		}
	}
}

func TestDescriptionHasTheFlagsAsTheCommandDeclaresThem(t *testing.T) {
	t.Parallel()
	all := Describe()
	named := func(name string) Description {
		at := slices.IndexFunc(all, func(d Description) bool { return d.Name == name })
		if at < 0 {
			t.Fatalf("no command %q among %v", name, all)
		}
		return all[at]
	}
	want := Description{
		Name: "fmt", Args: "[-check] [FILE...]", Summary: "rewrite configuration files in canonical form",
		Flags: []Flag{{Name: "check", Usage: "write nothing; exit 1 and list the files that are not in canonical form"}},
	}
	if diff := cmp.Diff(want, named("fmt")); diff != "" {
		t.Errorf("fmt (-want +got):\n%s", diff)
	}
	agent := named("agent")
	if len(agent.Flags) == 0 || agent.Flags[0].Name != "config" || agent.Flags[0].Value != "PATH" {
		t.Errorf("flags of agent: %+v", agent.Flags)
	}
	if inject := named("job inject"); len(inject.Flags) < 5 {
		t.Errorf("flags of job inject: %+v", inject.Flags)
	}
}
