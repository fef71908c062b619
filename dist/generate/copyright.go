// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
)

// copyright is the file that Debian's policy asks for, in its machine-readable
// format (DEP-5, copyright-format 1.0), with every licence in full: licences ask
// that their text goes with the binary.
func copyright(ours string, modules []module) []byte {
	var b strings.Builder
	b.WriteString("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n" +
		"Upstream-Name: outrider\n" +
		"Source: https://github.com/outrider-mesh/outrider\n" +
		"Comment: /usr/bin/outrider is linked from the modules below, each named as its\n" +
		" folder in a vendored tree.\n\n" +
		"Files: *\nCopyright: The Outrider Authors\nLicense: MPL-2.0\n")
	names := newNames(append([]module{{licences: []licence{{"MPL-2.0", ours}}}}, modules...))
	for _, m := range modules {
		fmt.Fprintf(&b, "\nFiles: vendor/%s/*\nCopyright: %s\nLicense: %s\n", m.path, strings.Join(m.holders, "\n "), names.expression(m))
		comment := []string{"Version " + m.version + "."}
		for _, notice := range m.notices {
			comment = append(comment, "Its notice:", notice)
		}
		fmt.Fprintf(&b, "Comment: %s\n", fold(strings.Join(comment, "\n")))
	}
	for _, l := range names.order {
		fmt.Fprintf(&b, "\nLicense: %s\n %s\n", l.name, fold(l.text))
	}
	return []byte(b.String())
}

// fold makes text the continuation of a field: lines begin with a space, and
// empty ones have a dot.
func fold(text string) string {
	lines := strings.Split(text, "\n")
	for n, line := range lines {
		line = strings.TrimRight(strings.ReplaceAll(line, "\f", ""), " \t\r")
		if line == "" {
			line = "."
		}
		if n > 0 {
			line = " " + line
		}
		lines[n] = line
	}
	return strings.Join(lines, "\n")
}

// names gives each different text of a licence a name of its own: the MIT licence
// of two authors is two texts.
type names struct {
	order []named
}

type named struct {
	name, id, key, text string
}

// key is what two copies of a text have in common. Those of the MPL and of the
// Apache License differ in what people write around it.
func (l licence) key() string {
	if l.id == "MPL-2.0" || l.id == "Apache-2.0" {
		return l.id
	}
	return strings.ToLower(strings.Join(strings.Fields(l.text), " "))
}

func newNames(modules []module) *names {
	n := &names{}
	count := make(map[string]int)
	for _, m := range modules {
		for _, l := range m.licences {
			if n.of(l) != "" {
				continue
			}
			count[l.id]++
			name := l.id
			if count[l.id] > 1 {
				name = fmt.Sprintf("%s~%d", l.id, count[l.id])
			}
			n.order = append(n.order, named{name, l.id, l.key(), l.text})
		}
	}
	slices.SortStableFunc(n.order, func(a, b named) int { return strings.Compare(a.id, b.id) })
	return n
}

func (n *names) of(l licence) string {
	for _, known := range n.order {
		if known.key == l.key() {
			return known.name
		}
	}
	return ""
}

func (n *names) expression(m module) string {
	var all []string
	for _, l := range m.licences {
		if name := n.of(l); !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return strings.Join(all, " and ")
}
