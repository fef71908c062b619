// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package hcl is the configuration language of Outrider: it turns *.hcl files
// into one validated [Config], or into an [Error] that shows each mistake, its
// line and its remedy. It must not act on what it reads: it opens no
// connection, starts nothing, and knows no other package of the project.
package hcl

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Limits of what is read. They are far above any real configuration and keep a
// wrong path (a log file, a device) from filling the memory.
const (
	maxFileSize  = 1 << 20 // bytes of one file, configuration or file("…")
	maxFiles     = 256     // configuration files of one load
	maxNesting   = 64      // brackets open at once
	maxOperators = 50_000  // brackets and operators of one file
	maxExponent  = 3       // characters of a number's exponent, sign included
	maxProblems  = 100     // diagnostics that are reported one by one
)

// Load reads the configuration from files and directories. Of a directory it
// takes the files whose names end in ".hcl", sorted by name, without those that
// begin with a dot, and does not descend. All files together form one
// configuration, so a block that may occur once may occur once in all of them.
//
// What only the machine knows that runs the agent is left open, with a warning;
// see [Options] to ask this machine.
//
// The error is an [*Error] when the content is at fault; it then holds every
// problem of every file, warnings included. Other errors say which path could
// not be read, or that everybody may write to it. Warnings of a valid
// configuration are in Config.Warnings.
func Load(paths ...string) (*Config, error) { return Options{}.Load(paths...) }

// Options say for whom a configuration is loaded.
type Options struct {
	// Metadata returns a value of the cloud's metadata by its name: instance_id,
	// region, tags.Name and the like. It is called for names that the
	// configuration has, once for each. A function means that this machine runs
	// the agent: its addresses and its name are filled in, and secrets must be in
	// their files. nil means that another machine will, for which this one only
	// checks.
	Metadata func(name string) (string, error)
}

// Load is the function [Load] with options.
func (o Options) Load(paths ...string) (*Config, error) {
	files, err := expand(paths, ".hcl")
	if err != nil {
		return nil, err
	}
	var sources []*source
	for _, name := range files {
		text, err := readLimited(name)
		if err != nil {
			return nil, fmt.Errorf("read configuration file %q: %w%s", name, reason(err), permissionRemedy(err))
		}
		sources = append(sources, newSource(name, text))
	}
	return o.load(sources)
}

// Parse reads the configuration from one source, for tests and for callers that
// hold the text already. The name appears in diagnostics, and file("…") resolves
// relative paths against its directory. The error is always an [*Error].
func Parse(filename string, src []byte) (*Config, error) {
	return Options{}.load([]*source{newSource(filename, src)})
}

// load decodes and validates the sources as one configuration.
func (o Options) load(sources []*source) (*Config, error) {
	d := newDecoder(sources, o)
	cfg := d.config()
	v := &validator{cfg: cfg, pos: d.pos, literal: d.literal}
	v.all()
	v.files(o.Metadata != nil)
	if len(cfg.Services) == 0 && !d.incomplete {
		v.warn("", "No service is configured",
			`Outrider has nothing to do until a "service" block exists. Add a file with one to the configuration directory and reload.`)
	}
	problems := append(d.diags, v.diags...)
	report := newError(sources, problems)
	if problems.HasErrors() {
		return nil, report
	}
	if len(problems) > 0 {
		cfg.Warnings = report
	}
	return cfg, nil
}

// expand replaces directories by their files with one of the suffixes, and drops
// repetitions.
func expand(paths []string, suffixes ...string) ([]string, error) {
	if len(paths) == 0 {
		return nil, errors.New("load configuration: no path given; name a file or a directory of *.hcl files")
	}
	var files []string
	seen := map[string]bool{}
	add := func(name string) {
		if clean := filepath.Clean(name); !seen[clean] {
			seen[clean] = true
			files = append(files, clean)
		}
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("load configuration: %w%s", err, cmp.Or(permissionRemedy(err), "; check the path"))
		}
		if !info.IsDir() {
			add(path)
			continue
		}
		entries, err := os.ReadDir(path) // sorted by name
		if err != nil {
			return nil, fmt.Errorf("list configuration directory %q: %w%s", path, reason(err), permissionRemedy(err))
		}
		if err := onlyTrusted(path, info); err != nil {
			return nil, fmt.Errorf("list configuration directory %q: %w", path, err)
		}
		for _, entry := range entries {
			name := entry.Name()
			if !entry.IsDir() && slices.Contains(suffixes, filepath.Ext(name)) && !strings.HasPrefix(name, ".") {
				add(filepath.Join(path, name))
			}
		}
	}
	if len(files) > maxFiles {
		return nil, fmt.Errorf("load configuration: %d files, more than the limit of %d; merge some of them", len(files), maxFiles)
	}
	return files, nil
}
