// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package command is the command line: it parses flags, prints, and returns
// exit codes. It holds no logic of the mesh.
package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Exit codes of every command.
const (
	exitOK     = 0 // fine
	exitFailed = 1 // the work failed
	exitUsage  = 2 // wrong usage
)

// invocation is one call of one command.
type invocation struct {
	args   []string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer

	// visit, where it is set, is shown the flags instead of the work being done.
	visit func(*flag.FlagSet)
}

// subcommand is one row of the table of commands.
type subcommand struct {
	name, args, summary string
	run                 func(invocation) int
}

func commands() []subcommand {
	return []subcommand{
		{"agent", "-config PATH...", "run every service of a configuration", runAgent},
		{"sidecar", "[-sidecar-for ID | -proxy-id ID]", "run one sidecar that is registered by somebody else, such as Nomad", runSidecar},
		{"wait", "[-timeout TIME] [-addr ADDRESS]", "wait until a sidecar is ready", runWait},
		{"dev", "[-once]", "show a mesh in one process, with a tour of what it does", runDev},
		{"validate", "[-json] [-machine] PATH...", "check configuration files", runValidate},
		{"fmt", "[-check] [FILE...]", "rewrite configuration files in canonical form", runFmt},
		{"job", "inject [FLAGS] FILE|-", "put sidecar tasks into a Nomad job, print it or run it", runJob},
		{"reload", "[-admin ADDRESS]", "have the running agent take up its configuration anew", runReload},
		{"upgrade", "[-admin ADDRESS]", "have the program on disk take over from the running agent", runUpgrade},
		{"status", "[-json] [-failures] [-alloc ID]", "show what this host serves, Nomad's sidecars too, or what failed", runStatus},
		{"tap", "[FILTERS] [-json]", "show connections and requests as they end", runTap},
		{"explain", "[-header FIELD] SRC DST [METHOD PATH]", "say what becomes of a call, and why", runExplain},
		{"doctor", "[-json] [-config PATH...]", "look for what keeps a sidecar from working here", runDoctor},
		{"policy", "test [FLAGS] FILE...", "check what intentions decide against a table of expectations", runPolicy},
		{"intentions", "preview -f FILE... [FLAGS]", "show which calls seen here other intentions would cut", runIntentions},
		{"intentions", "suggest [-l7] [FLAGS]", "write the intentions that the calls seen here need", runIntentions},
		{"version", "[-json]", "print the version", runVersion},
	}
}

// Run executes a command line without the program's name and returns its exit
// code: 0 fine, 1 the work failed, 2 wrong usage.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		printHelp(stderr)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		printHelp(stdout)
		return exitOK
	case "-v", "-version", "--version":
		args[0] = "version"
	}
	if strings.HasPrefix(args[0], "-") {
		return runEnvoy(invocation{args: args, stdin: stdin, stdout: stdout, stderr: stderr})
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return c.run(invocation{args: args[1:], stdin: stdin, stdout: stdout, stderr: stderr})
		}
	}
	_, _ = fmt.Fprintf(stderr, "outrider: there is no command %q; run \"outrider help\" for the list\n", args[0])
	return exitUsage
}

func printHelp(w io.Writer) {
	var b strings.Builder
	b.WriteString("Outrider is a Consul service-mesh sidecar for VMs and bare metal.\n\nUsage: outrider COMMAND [FLAGS]\n\nCommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-10s %-32s %s\n", c.name, c.args, c.summary)
	}
	b.WriteString("  -c FILE    -l LEVEL …                       as Envoy is started: run the sidecar of a bootstrap\n")
	b.WriteString("\n\"outrider COMMAND -h\" lists the flags of a command.\n")
	_, _ = io.WriteString(w, b.String())
}

// flags returns an empty flag set that reports to the invocation.
func (i invocation) flags(name, usage string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(i.stderr)
	fs.Usage = func() {
		_, _ = fmt.Fprintf(i.stderr, "Usage: outrider %s %s\n", name, usage)
		fs.PrintDefaults()
	}
	return fs
}

// parse reports false with the exit code when the command must not go on.
func (i invocation) parse(fs *flag.FlagSet) (code int, ok bool) {
	if i.visit != nil {
		i.visit(fs)
		return exitOK, false
	}
	err := fs.Parse(i.args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK, false
	case err != nil:
		return exitUsage, false
	}
	return exitOK, true
}

// fail prints one sentence and returns the exit code of failed work.
func (i invocation) fail(format string, args ...any) int {
	_, _ = fmt.Fprintf(i.stderr, "outrider: "+format+"\n", args...)
	return exitFailed
}

// misuse prints one sentence and returns the exit code of wrong usage.
func (i invocation) misuse(format string, args ...any) int {
	i.fail(format, args...)
	return exitUsage
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

// A member is one of several commands that begin with the same word.
type member struct {
	name string
	run  func(invocation) int
}

// family runs the member that the next argument names.
func (i invocation) family(word, usage string, members ...member) int {
	if len(i.args) == 0 {
		_, _ = io.WriteString(i.stderr, usage)
		return exitUsage
	}
	next := i.args[0]
	var all []string
	for _, m := range members {
		if m.name == next {
			i.args = i.args[1:]
			return m.run(i)
		}
		all = append(all, strconv.Quote("outrider "+word+" "+m.name))
	}
	switch next {
	case "-h", "-help", "--help":
		_, _ = io.WriteString(i.stdout, usage)
		return exitOK
	}
	return i.misuse("%s: there is no command %q; there is %s", word, next, strings.Join(all, " and "))
}
