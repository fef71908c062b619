// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/agent/rehearse"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/hcl"
)

func runPolicy(i invocation) int {
	const usage = "Usage: outrider policy test [-config-dir PATH... | -consul] FILE...\n\n" +
		"Checks what intentions decide against a table of expectations. \"outrider policy\ntest -h\" lists the flags.\n"
	return i.family("policy", usage, member{"test", runPolicyTest})
}

func runPolicyTest(i invocation) int {
	var from origin
	fs := i.flags("policy test", "[-config-dir PATH... | -consul] FILE...")
	from.flags(fs)
	asJSON := fs.Bool("json", false, "print JSON")
	if code, ok := i.parse(fs); !ok {
		return code
	}
	switch {
	case fs.NArg() == 0:
		return i.misuse("policy test: no table; give a file with lines such as: web -> api GET /admin = deny")
	case from.live == (len(from.paths) > 0):
		return i.misuse("policy test: whose intentions? give either -config-dir with a directory of config entries, or -consul")
	}
	var tables []*rehearse.Table
	for _, name := range fs.Args() {
		t, err := i.readTable(name)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				i.fail("policy test: %s", printable(strings.TrimSpace(line)))
			}
			return exitUsage
		}
		tables = append(tables, t)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	rules, err := i.open(from)
	if err != nil {
		return i.failEntries("policy test", err)
	}
	verdicts, err := i.tryTables(ctx, tables, rules, from.live)
	if err != nil {
		return i.fail("policy test: %v", err)
	}
	return i.printVerdicts(verdicts, *asJSON)
}

// readTable reads a table; "-" is standard input.
func (i invocation) readTable(name string) (*rehearse.Table, error) {
	const limit = 4 << 20 // more than a table may have, which says so itself
	in := i.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("read the table: %w", err)
		}
		defer func() { _ = f.Close() }() // Nothing was written.
		in = f
	}
	src, err := io.ReadAll(io.LimitReader(in, limit))
	if err != nil {
		return nil, fmt.Errorf("read the table %s: %w", name, err)
	}
	return rehearse.ParseTable(name, src)
}

// origin is where intentions are read from.
type origin struct {
	paths list
	live  bool
}

func (o *origin) flags(fs *flag.FlagSet) {
	fs.Var(&o.paths, "config-dir", "read the config entries in `PATH`, a file or a directory of them as \"consul config write\" takes them, one in a file; may be given several times")
	fs.BoolVar(&o.live, "consul", false, "read the intentions from Consul, which CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN and so on name")
}

// A rulesOf returns what decides on the calls of a service.
type rulesOf func(ctx context.Context, service string) (rehearse.Rules, error)

// open prepares the source of intentions, and tells what was passed over.
func (i invocation) open(from origin) (rulesOf, error) {
	if !from.live {
		entries, err := i.readEntries(from.paths)
		if err != nil {
			return nil, err
		}
		i.note(entries.Refused()...)
		return func(_ context.Context, service string) (rehearse.Rules, error) {
			p, err := entries.Policy(service)
			return rulesFrom(p), err
		}, nil
	}
	cfg, err := agent.EnvironmentConfig()
	if err != nil {
		return nil, err
	}
	client, err := agent.ConsulClient(cfg, "")
	if err != nil {
		return nil, err
	}
	known := map[string]rehearse.Rules{}
	return func(ctx context.Context, service string) (rehearse.Rules, error) {
		if r, ok := known[service]; ok {
			return r, nil
		}
		p, err := client.Policy(ctx, service)
		known[service] = rulesFrom(p)
		return known[service], err
	}, nil
}

func rulesFrom(p consul.Policy) rehearse.Rules {
	return rehearse.Rules{
		Intentions: p.Rules, Default: p.Default, DefaultFrom: p.DefaultFrom,
		Protocol: p.Protocol, Normalization: p.Normalization, Providers: p.Providers,
	}
}

// readEntries reads config entries from files, and tells what was passed over.
func (i invocation) readEntries(paths []string) (*consul.Entries, error) {
	found, err := hcl.LoadEntries(paths...)
	if err != nil {
		return nil, err
	}
	var written []consul.Written
	for _, e := range found {
		written = append(written, consul.Written{File: e.File, JSON: e.JSON})
	}
	entries, err := consul.ReadEntries(written)
	if err != nil {
		return nil, err
	}
	i.note(entries.Notes...)
	return entries, nil
}

func (i invocation) note(sentences ...string) {
	for _, s := range sentences {
		_, _ = fmt.Fprintf(i.stderr, "outrider: note: %s\n", printable(s))
	}
}

// failEntries tells why intentions cannot be read.
func (i invocation) failEntries(command string, err error) int {
	if found, ok := errors.AsType[*hcl.Error](err); ok {
		_ = found.Write(i.stderr, terminalWidth, colored(i.stderr))
		return exitFailed
	}
	return i.fail("%s: %s", command, printable(err.Error()))
}

// tryTables has every expectation judged. What a table says of the default
// policy holds for config entries, which do not say it; Consul's own must be so.
func (i invocation) tryTables(ctx context.Context, tables []*rehearse.Table, rules rulesOf, live bool) ([]rehearse.Verdict, error) {
	var out []rehearse.Verdict
	var problems []string
	for _, t := range tables {
		judges := map[string]*rehearse.Judge{}
		for _, e := range t.Expectations {
			j := judges[e.Destination]
			if j == nil {
				r, err := rules(ctx, e.Destination)
				if err != nil {
					return nil, err
				}
				if v, wrong := checkDefault(t, r); live && wrong && len(judges) == 0 {
					out = append(out, v)
				}
				if t.Default != nil && !live {
					r.Default = *t.Default
				}
				if j, err = rehearse.NewJudge(r, t.Peers()...); err != nil {
					return nil, err
				}
				judges[e.Destination] = j
				problems = append(problems, j.Problems()...)
			}
			out = append(out, j.Try(e, time.Now()))
		}
	}
	slices.Sort(problems)
	i.note(slices.Compact(problems)...)
	return out, nil
}

// checkDefault compares what a table says of the default policy.
func checkDefault(t *rehearse.Table, r rehearse.Rules) (v rehearse.Verdict, wrong bool) {
	if t.Default == nil || *t.Default == r.Default {
		return rehearse.Verdict{}, false
	}
	return rehearse.Verdict{
		Expectation: rehearse.Expectation{File: t.File, Line: t.DefaultLine, Text: "default = " + t.Default.String(), Want: *t.Default},
		Allowed:     r.Default == connect.Allow,
		Why:         fmt.Sprintf("Consul's default policy is %s (%s)", r.Default, r.DefaultFrom),
	}, true
}

func (i invocation) printVerdicts(verdicts []rehearse.Verdict, asJSON bool) int {
	failed := 0
	type line struct {
		File        string
		Line        int
		Expectation string
		Holds       bool
		Allowed     bool
		Reason      connect.Reason `json:",omitempty"`
		Why         string
	}
	lines := []line{}
	for _, v := range verdicts {
		e := v.Expectation
		word := "ok   "
		if !v.Held {
			word = "FAIL "
			failed++
		}
		lines = append(lines, line{e.File, e.Line, e.Text, v.Held, v.Allowed, v.Reason, v.Why})
		if !asJSON {
			_, _ = fmt.Fprintln(i.stdout, printable(fmt.Sprintf("%s %s:%d: %s: %s", word, e.File, e.Line, e.Text, v.Why)))
		}
	}
	code := exitOK
	if failed > 0 {
		code = exitFailed
	}
	if asJSON {
		if printed := i.printJSON(lines); printed != exitOK {
			return printed
		}
		return code
	}
	_, _ = fmt.Fprintf(i.stdout, "%d of %d hold.\n", len(verdicts)-failed, len(verdicts))
	return code
}
