// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"os"
	"strings"
	"testing"
)

// What a newcomer copies from the first page must be accepted.
func TestConfigurationOfTheREADMEIsValid(t *testing.T) {
	page, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "```hcl\n")
	block, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("README.md shows no configuration")
	}
	cfg, err := Parse("README.md", []byte(block))
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Services) != 1 || cfg.Vault == nil || cfg.Warnings != nil {
		t.Errorf("%+v, warnings %v", cfg, cfg.Warnings)
	}
	if formatted, err := Format([]byte(block)); err != nil || string(formatted) != block {
		t.Errorf("it is not in canonical form: %v\n%s", err, formatted)
	}
}
