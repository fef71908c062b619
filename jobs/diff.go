// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"fmt"
	"slices"
	"strings"
)

const (
	diffContext = 3

	// maxDiffSteps bounds time and memory, which grow with its square. Texts that
	// differ by more lines are shown as one replacement.
	maxDiffSteps = 2000
)

// A diffLine is one line of two texts: both have it (' '), the old one ('-') or
// the new one ('+').
type diffLine struct {
	sign byte
	text string // without its line break; of the old text for ' '
	torn bool   // the text ends without a line break here
}

// Diff returns the unified difference of two texts with three lines of context,
// "" when they are equal. color adds ANSI colours; control characters of the texts
// are shown as questions marks then, since it goes to a terminal.
func Diff(oldName, newName string, before, after []byte, color bool) string {
	lines := compare(split(before), split(after))
	if !slices.ContainsFunc(lines, func(l diffLine) bool { return l.sign != ' ' }) {
		return ""
	}
	var out strings.Builder
	p := painter{&out, color}
	p.line("1", "--- "+oldName)
	p.line("1", "+++ "+newName)
	for _, h := range hunks(lines) {
		p.line("36", h.header())
		for _, l := range h.lines {
			p.line(map[byte]string{'+': "32", '-': "31"}[l.sign], string(l.sign)+l.text)
			if l.torn {
				p.line("", `\ No newline at end of file`)
			}
		}
	}
	return out.String()
}

type painter struct {
	out   *strings.Builder
	color bool
}

func (p painter) line(code, text string) {
	if p.color {
		text = strings.Map(printable, text)
		if code != "" {
			text = "\x1b[" + code + "m" + text + "\x1b[0m"
		}
	}
	p.out.WriteString(text + "\n")
}

func printable(r rune) rune {
	if r < ' ' && r != '\t' || r >= 0x7f && r < 0xa0 {
		return '?'
	}
	return r
}

func split(text []byte) []diffLine {
	var out []diffLine
	for line := range strings.Lines(string(text)) {
		trimmed, whole := strings.CutSuffix(line, "\n")
		out = append(out, diffLine{' ', trimmed, !whole})
	}
	return out
}

// compare returns the lines of both texts with the fewest that differ, by Myers'
// greedy algorithm (An O(ND) Difference Algorithm, 1986).
func compare(a, b []diffLine) []diffLine {
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	middle := walk(a[head:len(a)-tail], b[head:len(b)-tail])
	return slices.Concat(a[:head], middle, a[len(a)-tail:])
}

// walk finds the furthest point on every diagonal k = x-y for a growing number of
// steps, and then goes the way back.
func walk(a, b []diffLine) []diffLine {
	limit := min(len(a)+len(b), maxDiffSteps)
	furthest := make([]int, 2*limit+3) // by k+limit+1
	var trail [][]int
	for steps := 0; steps <= limit; steps++ {
		trail = append(trail, slices.Clone(furthest[limit+1-steps:limit+2+steps]))
		for k := -steps; k <= steps; k += 2 {
			at := limit + 1 + k
			x := furthest[at-1] + 1
			if k == -steps || k != steps && furthest[at-1] < furthest[at+1] {
				x = furthest[at+1]
			}
			for x < len(a) && x-k < len(b) && a[x] == b[x-k] {
				x++
			}
			furthest[at] = x
			if x >= len(a) && x-k >= len(b) {
				return back(a, b, trail)
			}
		}
	}
	return slices.Concat(signed(a, '-'), signed(b, '+'))
}

func back(a, b []diffLine, trail [][]int) []diffLine {
	var out []diffLine
	x, y := len(a), len(b)
	for steps := len(trail) - 1; steps > 0; steps-- {
		before := trail[steps] // of diagonals -steps to steps, before this step
		k := x - y
		down := k == -steps || k != steps && before[steps+k-1] < before[steps+k+1]
		from := k - 1
		if down {
			from = k + 1
		}
		px := before[steps+from]
		for x > px && y > px-from && x > 0 && y > 0 && a[x-1] == b[y-1] {
			x, y = x-1, y-1
			out = append(out, a[x])
		}
		if down {
			y--
			out = append(out, signed(b[y:y+1], '+')...)
		} else {
			x--
			out = append(out, signed(a[x:x+1], '-')...)
		}
	}
	for x > 0 {
		x--
		out = append(out, a[x])
	}
	slices.Reverse(out)
	return out
}

func signed(lines []diffLine, sign byte) []diffLine {
	out := slices.Clone(lines)
	for n := range out {
		out[n].sign = sign
	}
	return out
}

// A hunk is a run of lines around differences.
type hunk struct {
	lines      []diffLine
	oldAt, new int // lines before it
}

func (h hunk) header() string {
	count := map[byte]int{}
	for _, l := range h.lines {
		count[l.sign]++
	}
	olds, news := count[' ']+count['-'], count[' ']+count['+']
	return fmt.Sprintf("@@ -%s +%s @@", extent(h.oldAt, olds), extent(h.new, news))
}

// extent counts lines from 1; an empty run is named by the line before it.
func extent(before, count int) string {
	if count > 0 {
		before++
	}
	if count == 1 {
		return fmt.Sprint(before)
	}
	return fmt.Sprintf("%d,%d", before, count)
}

func hunks(lines []diffLine) []hunk {
	var out []hunk
	end, oldAt, newAt := 0, 0, 0 // the lines before end are in out or left out
	for n, l := range lines {
		if l.sign == ' ' || n < end {
			continue
		}
		start := max(end, n-diffContext)
		last := n
		for m := n; m < len(lines) && m <= last+2*diffContext+1; m++ {
			if lines[m].sign != ' ' {
				last = m
			}
		}
		for _, l := range lines[end:start] {
			oldAt, newAt = advance(l, oldAt, newAt)
		}
		end = min(len(lines), last+diffContext+1)
		out = append(out, hunk{lines[start:end], oldAt, newAt})
		for _, l := range lines[start:end] {
			oldAt, newAt = advance(l, oldAt, newAt)
		}
	}
	return out
}

func advance(l diffLine, oldAt, newAt int) (int, int) {
	if l.sign != '+' {
		oldAt++
	}
	if l.sign != '-' {
		newAt++
	}
	return oldAt, newAt
}
