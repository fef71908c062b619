// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
)

// A module is one that is linked into the binary, with what its authors ask of
// who passes it on.
type module struct {
	path, version string
	sum           string // as go.sum has it; "" for the standard library
	licences      []licence
	notices       []string // that the Apache License wants passed on
	holders       []string // of the copyright
}

// A licence is one text and its SPDX identifier.
type licence struct {
	id, text string
}

// linked returns the modules of a binary in the order of their paths, the standard
// library first. Their sources come from the module cache.
func linked(ctx context.Context, info *debug.BuildInfo) ([]module, error) {
	goRoot, err := goSays(ctx, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	std := module{path: "std", version: strings.TrimPrefix(info.GoVersion, "go")}
	if err := std.read(strings.TrimSpace(string(goRoot))); err != nil {
		return nil, err
	}
	args := []string{"mod", "download", "-json"}
	for _, dep := range info.Deps {
		if dep.Replace != nil {
			return nil, fmt.Errorf("the binary has %s replaced by another module; build it without a replace directive", dep.Path)
		}
		args = append(args, dep.Path+"@"+dep.Version)
	}
	directories, err := download(ctx, args)
	if err != nil {
		return nil, err
	}
	out := []module{std}
	for _, dep := range info.Deps {
		m := module{path: dep.Path, version: dep.Version, sum: dep.Sum}
		if err := m.read(directories[dep.Path]); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	slices.SortFunc(out[1:], func(a, b module) int { return cmp.Compare(a.path, b.path) })
	return out, nil
}

// download returns where the sources of the modules are.
func download(ctx context.Context, args []string) (map[string]string, error) {
	text, err := goSays(ctx, args...)
	if err != nil {
		return nil, err
	}
	directories := make(map[string]string)
	for d := json.NewDecoder(bytes.NewReader(text)); d.More(); {
		var m struct{ Path, Dir string }
		if err := d.Decode(&m); err != nil {
			return nil, fmt.Errorf("understand what go mod download says: %w", err)
		}
		directories[m.Path] = m.Dir
	}
	return directories, nil
}

// read finds the texts in the root of a module.
func (m *module) read(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for the licence of %s: %w", m.path, err)
	}
	for _, e := range entries {
		name := strings.ToUpper(e.Name())
		isNotice := strings.HasPrefix(name, "NOTICE")
		isLicence := strings.HasPrefix(name, "LICENSE") || strings.HasPrefix(name, "LICENCE") || strings.HasPrefix(name, "COPYING")
		if e.IsDir() || !isNotice && !isLicence {
			continue
		}
		content, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("read the licence of %s: %w", m.path, err)
		}
		text := strings.TrimSpace(strings.ReplaceAll(string(content), "\r\n", "\n"))
		m.holders = append(m.holders, holders(text)...)
		if isNotice {
			m.notices = append(m.notices, text)
			continue
		}
		id := identify(text)
		if id == "" {
			return fmt.Errorf("the licence %s of %s is none of those that are known to fit: read it, and teach dist/generate", e.Name(), m.path)
		}
		m.licences = append(m.licences, licence{id, text})
	}
	if len(m.licences) == 0 {
		return fmt.Errorf("the module %s has no licence: it must not be linked into what is passed on", m.path)
	}
	if len(m.holders) == 0 {
		m.holders = []string{"the authors of " + path.Base(m.path)}
	}
	slices.Sort(m.holders)
	m.holders = slices.Compact(m.holders)
	return nil
}

// identify returns the SPDX identifier of a text, "" for one that is not known.
// Only licences are known that fit a program under the MPL 2.0.
func identify(text string) string {
	flat := strings.Join(strings.Fields(text), " ")
	has := func(part string) bool { return strings.Contains(flat, part) }
	switch {
	case has("Mozilla Public License") && has("ersion 2.0"):
		return "MPL-2.0"
	case has("Apache License") && has("Version 2.0, January 2004"):
		return "Apache-2.0"
	case has("Permission is hereby granted, free of charge"):
		return "MIT"
	case has("Redistribution and use in source and binary forms") && (has("Neither the name") || has("names of its contributors") || has("name of the copyright holder")):
		return "BSD-3-Clause"
	case has("Redistribution and use in source and binary forms"):
		return "BSD-2-Clause"
	case has("Permission to use, copy, modify, and/or distribute") || has("Permission to use, copy, modify, and distribute this software for any purpose"):
		return "ISC"
	}
	return ""
}

var copyrightLine = regexp.MustCompile(`(?mi)^[ \t]*(?:copyright|\(c\)).*[0-9]{4}.*$|^[ \t]*copyright \(c\) [A-Z].*$`)

// holders returns the lines that name somebody's copyright.
func holders(text string) []string {
	var out []string
	for _, line := range copyrightLine.FindAllString(text, -1) {
		line = strings.Join(strings.Fields(line), " ")
		// The form that the Apache License gives to fill in.
		if strings.Contains(line, "[yyyy]") || strings.Contains(line, "{yyyy}") {
			continue
		}
		line = strings.TrimPrefix(strings.TrimPrefix(line, "Copyright "), "(c) ")
		out = append(out, line)
	}
	return out
}

// goSays returns what a go command prints.
func goSays(ctx context.Context, args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "go", args...) //nolint:gosec // The arguments are ours and the modules of our own binary.
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run go %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
