// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package explain

import (
	"os"
	"strings"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

func TestManualHasAnExampleOfEveryReason(t *testing.T) {
	text, err := os.ReadFile("../../docs/explain.md")
	if err != nil {
		t.Fatal(err)
	}
	_, reasons, _ := strings.Cut(string(text), "## Every reason")
	for _, r := range connect.Reasons() {
		_, section, found := strings.Cut(reasons, "### "+string(r)+"\n")
		section, _, _ = strings.Cut(section, "### ")
		if !found || strings.Count(section, "```") != 2 || len(strings.TrimSpace(section[strings.LastIndex(section, "```")+3:])) == 0 {
			t.Errorf("docs/explain.md has no example of %s with what to do", r)
		}
	}
}
