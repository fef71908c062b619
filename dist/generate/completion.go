// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/command"
)

const completionHeader = "# Copyright (c) The Outrider Authors\n# SPDX-License-Identifier: MPL-2.0\n\n"

// words returns the first words of all commands, each once, in their order.
func words(commands []command.Description) []string {
	var out []string
	for _, c := range commands {
		word, _, _ := strings.Cut(c.Name, " ")
		if !slices.Contains(out, word) {
			out = append(out, word)
		}
	}
	return append(out, "help")
}

// second returns the second words of the commands that begin with a word.
func second(commands []command.Description, word string) []string {
	var out []string
	for _, c := range commands {
		if rest, ok := strings.CutPrefix(c.Name, word+" "); ok {
			out = append(out, rest)
		}
	}
	return out
}

func flagNames(c command.Description) []string {
	out := make([]string, 0, len(c.Flags))
	for _, f := range c.Flags {
		out = append(out, "-"+f.Name)
	}
	return out
}

// bash completes commands and flags itself, and leaves files to the shell.
func bash(commands []command.Description) []byte {
	var seconds, flags strings.Builder
	for _, word := range words(commands) {
		var names []string
		for _, c := range commands {
			if first, _, _ := strings.Cut(c.Name, " "); first == word {
				names = append(names, flagNames(c)...)
			}
		}
		if len(names) > 0 {
			fmt.Fprintf(&flags, "        %s) choice='%s' ;;\n", word, strings.Join(names, " "))
		}
		if next := second(commands, word); len(next) > 0 {
			fmt.Fprintf(&seconds, "        %s) choice='%s' ;;\n", word, strings.Join(next, " "))
		}
	}
	var b strings.Builder
	b.WriteString(completionHeader)
	b.WriteString("_outrider() {\n    local word=${COMP_WORDS[COMP_CWORD]} choice=''\n")
	fmt.Fprintf(&b, "    if [[ $COMP_CWORD -eq 1 ]]; then\n        choice='%s'\n", strings.Join(words(commands), " "))
	fmt.Fprintf(&b, "    elif [[ $word == -* ]]; then\n        case ${COMP_WORDS[1]} in\n%s        esac\n", flags.String())
	fmt.Fprintf(&b, "    elif [[ $COMP_CWORD -eq 2 ]]; then\n        case ${COMP_WORDS[1]} in\n%s        esac\n    fi\n", seconds.String())
	b.WriteString("    mapfile -t COMPREPLY < <(compgen -W \"$choice\" -- \"$word\")\n}\n")
	b.WriteString("complete -o default -F _outrider outrider\n")
	return []byte(b.String())
}

// quoted is text inside single quotes of fish and zsh.
func quoted(text string) string {
	return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text)
}

func fish(commands []command.Description) []byte {
	var b strings.Builder
	b.WriteString(completionHeader)
	all := strings.Join(words(commands), " ")
	for _, word := range words(commands) {
		fmt.Fprintf(&b, "complete -c outrider -f -n 'not __fish_seen_subcommand_from %s' -a %s -d '%s'\n", all, word, quoted(summary(commands, word)))
		for _, next := range second(commands, word) {
			fmt.Fprintf(&b, "complete -c outrider -f -n '__fish_seen_subcommand_from %s; and not __fish_seen_subcommand_from %s' -a %s\n", word, next, next)
		}
	}
	for _, c := range commands {
		word, _, _ := strings.Cut(c.Name, " ")
		for _, f := range c.Flags {
			value := ""
			if f.Value != "" {
				value = " -r"
			}
			fmt.Fprintf(&b, "complete -c outrider -n '__fish_seen_subcommand_from %s' -o %s%s -d '%s'\n", word, f.Name, value, quoted(f.Usage))
		}
	}
	return []byte(b.String())
}

func summary(commands []command.Description, word string) string {
	for _, c := range commands {
		if first, _, _ := strings.Cut(c.Name, " "); first == word {
			return c.Summary
		}
	}
	return "list the commands"
}

func zsh(commands []command.Description) []byte {
	// Inside _describe and _arguments colons and brackets mean something.
	escape := func(text string) string {
		text = strings.NewReplacer(`\`, `\\`, ":", `\:`, "[", `\[`, "]", `\]`).Replace(text)
		return strings.ReplaceAll(text, "'", `'\''`)
	}
	var b strings.Builder
	b.WriteString("#compdef outrider\n" + completionHeader + "local -a commands\ncommands=(\n")
	for _, word := range words(commands) {
		fmt.Fprintf(&b, "    '%s:%s'\n", word, escape(summary(commands, word)))
	}
	b.WriteString(")\nif (( CURRENT == 2 )); then\n    _describe command commands\n    return\nfi\ncase $words[2] in\n")
	for _, word := range words(commands) {
		fmt.Fprintf(&b, "    %s)\n", word)
		if next := second(commands, word); len(next) > 0 {
			fmt.Fprintf(&b, "        if (( CURRENT == 3 )); then compadd -- %s; return; fi\n", strings.Join(next, " "))
		}
		b.WriteString("        _arguments \\\n")
		for _, c := range commands {
			if first, _, _ := strings.Cut(c.Name, " "); first != word {
				continue
			}
			for _, f := range c.Flags {
				value := ""
				if f.Value != "" {
					value = ":" + escape(strings.ToLower(f.Value)) + ":_files"
				}
				fmt.Fprintf(&b, "            '*-%s[%s]%s' \\\n", f.Name, escape(f.Usage), value)
			}
		}
		b.WriteString("            '*:file:_files' ;;\n")
	}
	b.WriteString("esac\n")
	return []byte(b.String())
}
