// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"regexp"
	"strings"
	"time"
)

// configurationManual is outrider.d(5), from docs/configuration.md: headings,
// paragraphs, lists, tables and fenced code.
func configurationManual(markdown, version string, day time.Time) []byte {
	p := newPage("outrider.d", "5", version, day)
	p.heading("Name")
	p.raw(`outrider.d \- configuration of the Outrider service\-mesh sidecar`)
	p.heading("Description")
	var paragraph []string
	flush := func() {
		if len(paragraph) > 0 {
			p.paragraph()
			p.raw(inline(strings.Join(paragraph, " ")))
		}
		paragraph = nil
	}
	lines := strings.Split(strings.TrimRight(markdown, "\n"), "\n")
	for n := 0; n < len(lines); n++ {
		line := lines[n]
		marks := len(line) - len(strings.TrimLeft(line, "#"))
		switch {
		case strings.HasPrefix(line, "```"):
			flush()
			n += p.fence(lines[n+1:])
		case marks == 1:
			flush() // The title is that of the page.
		case marks == 2:
			flush()
			p.heading(plain(line[marks+1:]))
		case marks > 2:
			flush()
			p.subheading(plain(line[marks+1:]))
		case strings.HasPrefix(line, "|"):
			flush()
			n += p.table(lines[n:]) - 1
		case strings.HasPrefix(line, "- "), strings.HasPrefix(line, "* "):
			flush()
			n += p.bullet(lines[n:]) - 1
		case strings.TrimSpace(line) == "":
			flush()
		default:
			paragraph = append(paragraph, strings.TrimSpace(line))
		}
	}
	flush()
	p.heading("See also")
	p.raw(bold("outrider") + "(1)")
	return []byte(p.text.String())
}

// bullet writes one item of a list, and returns how many lines it took.
func (p *page) bullet(lines []string) int {
	text := []string{lines[0][2:]}
	for _, line := range lines[1:] {
		if !strings.HasPrefix(line, "  ") {
			break
		}
		text = append(text, strings.TrimSpace(line))
	}
	p.raw(".IP \\(bu 2\n" + inline(strings.Join(text, " ")))
	return len(text)
}

// fence writes code and returns how many lines it took, the last fence included.
func (p *page) fence(lines []string) int {
	for n, line := range lines {
		if strings.HasPrefix(line, "```") {
			p.example(lines[:n]...)
			return n + 1
		}
	}
	p.example(lines...)
	return len(lines)
}

// table writes each row as a term with its meaning, and returns how many lines
// it took.
func (p *page) table(lines []string) int {
	taken := 0
	for taken < len(lines) && strings.HasPrefix(lines[taken], "|") {
		if taken >= 2 { // below the head and its line
			p.row(lines[taken])
		}
		taken++
	}
	return taken
}

func (p *page) row(line string) {
	cells := strings.Split(strings.ReplaceAll(strings.Trim(strings.TrimSpace(line), "|"), `\|`, "\x00"), "|")
	var meaning []string
	for n, cell := range cells {
		cells[n] = strings.ReplaceAll(strings.TrimSpace(cell), "\x00", "|")
		if n > 0 && cells[n] != "" {
			meaning = append(meaning, cells[n])
		}
	}
	p.raw(".TP\n" + inline(cells[0]))
	p.raw(inline(strings.Join(meaning, "; ")))
}

var (
	markdownLink = regexp.MustCompile(`\[([^\]]+)\]\([^)]+\)`)
	strong       = regexp.MustCompile(`\*\*([^*]+)\*\*`)
)

// plain is text without what Markdown sets it in.
func plain(text string) string {
	text = markdownLink.ReplaceAllString(text, "$1")
	return strings.ReplaceAll(strong.ReplaceAllString(text, "$1"), "`", "")
}

// inline is one line of text, with code in bold.
func inline(text string) string {
	var out strings.Builder
	for n, part := range strings.Split(text, "`") {
		if n%2 == 0 {
			out.WriteString(roff(strong.ReplaceAllString(markdownLink.ReplaceAllString(part, "$1"), "$1")))
		} else {
			out.WriteString(bold(part))
		}
	}
	if strings.HasPrefix(out.String(), ".") || strings.HasPrefix(out.String(), "'") {
		return `\&` + out.String()
	}
	return out.String()
}
