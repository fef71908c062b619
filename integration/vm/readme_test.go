// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A block is one code block of README.md, in the language it names.
type block struct{ language, text string }

// readmeBlocks returns the code blocks of the section "On a VM".
func readmeBlocks(t *testing.T) []block {
	t.Helper()
	path := filepath.Join("..", "..", "README.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "\n## On a VM\n")
	section, _, closed := strings.Cut(rest, "\n## ")
	if !found || !closed {
		t.Fatal(`README.md has no section "On a VM"`)
	}
	var blocks []block
	parts := strings.Split(section, "\n```")
	for i := 1; i < len(parts); i += 2 {
		language, text, _ := strings.Cut(parts[i], "\n")
		blocks = append(blocks, block{language, text + "\n"})
	}
	return blocks
}

// commands returns the commands of a block of shell, without its comments.
func (b block) commands() []string {
	var out []string
	for line := range strings.Lines(b.text) {
		command, _, _ := strings.Cut(line, " #")
		if command = strings.TrimSpace(command); command != "" && !strings.HasPrefix(command, "#") {
			out = append(out, command)
		}
	}
	return out
}
