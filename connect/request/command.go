// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"strconv"
	"strings"
)

// A Command is one of Envoy's format commands: "NAME", "NAME(args)" or
// "NAME(args):LIMIT".
type Command struct {
	Name, Args string
	Parens     bool   // there are parentheses, with or without something in them
	Limit      int    // bytes of what the command yields; 0 means all
	Text       string // as written, without the percent signs
}

// CutCommand reads a command from after its opening percent sign to its closing
// one. rest is what follows; ok is false when there is no command.
func CutCommand(s string) (c Command, rest string, ok bool) {
	i := 0
	for i < len(s) && (s[i] == '_' || 'A' <= s[i] && s[i] <= 'Z' || '0' <= s[i] && s[i] <= '9') {
		i++
	}
	c.Name, rest = s[:i], s[i:]
	if c.Name == "" {
		return c, "", false
	}
	if inside, found := strings.CutPrefix(rest, "("); found {
		if c.Args, rest, found = strings.Cut(inside, ")"); !found {
			return c, "", false
		}
		c.Parens = true
	}
	if digits, found := strings.CutPrefix(rest, ":"); found {
		n := 0
		for n < len(digits) && '0' <= digits[n] && digits[n] <= '9' {
			n++
		}
		limit, err := strconv.Atoi(digits[:n])
		if err != nil || limit == 0 {
			return c, "", false
		}
		c.Limit, rest = limit, digits[n:]
	}
	after, ok := strings.CutPrefix(rest, "%")
	c.Text = s[:len(s)-len(rest)]
	return c, after, ok
}
