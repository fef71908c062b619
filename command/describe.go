// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"flag"
	"io"
	"strings"
)

// A Description is what a manual says of one command. It comes from the table
// that runs it, so it cannot say anything else.
type Description struct {
	Name    string // of the command, with a second word where it has one: "job inject"
	Args    string // what follows the name, in the short form of the help
	Summary string // half a sentence
	Flags   []Flag // by name
}

// A Flag is one flag of a command.
type Flag struct {
	Name    string // without hyphens
	Value   string // what its value is called; "" for one that is given alone
	Usage   string
	Default string // "" for none, and for one that the environment sets
}

// Describe returns every command in the order of the help. No command is run. The
// caller owns the result.
func Describe() []Description {
	var out []Description
	for _, c := range commands() {
		d := Description{Name: c.name, Args: c.args, Summary: c.summary}
		words := strings.Fields(c.args)
		// "job inject": a lower-case word in front of the flags is part of the name.
		for len(words) > 0 && strings.Trim(words[0], "abcdefghijklmnopqrstuvwxyz") == "" {
			d.Name += " " + words[0]
			words = words[1:]
		}
		d.Args = strings.Join(words, " ")
		c.run(invocation{
			args:  strings.Fields(d.Name)[1:],
			stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard,
			visit: func(fs *flag.FlagSet) { d.Flags = describeFlags(fs) },
		})
		out = append(out, d)
	}
	return out
}

func describeFlags(fs *flag.FlagSet) []Flag {
	var out []Flag
	fs.VisitAll(func(f *flag.Flag) {
		value, usage := flag.UnquoteUsage(f)
		d := Flag{Name: f.Name, Value: value, Usage: usage}
		// What a flag says about itself is more than "0s" or "false".
		if f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" {
			d.Default = f.DefValue
		}
		out = append(out, d)
	})
	return out
}
