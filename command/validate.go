// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/hcl"
)

func runValidate(i invocation) int {
	fs := i.flags("validate", "[-json] [-machine] PATH...")
	asJSON := fs.Bool("json", false, "print diagnostics as JSON")
	here := fs.Bool("machine", false, "ask this machine for its addresses, its name and its metadata, and look for the files with secrets, as the agent does; else that is left to the first boot")
	if code, ok := i.parse(fs); !ok {
		return code
	}
	if fs.NArg() == 0 {
		return i.misuse("validate: no path; give a file or a directory, such as /etc/outrider.d")
	}
	load := hcl.Load
	if *here {
		load = func(paths ...string) (*hcl.Config, error) {
			return agent.NewLoader(paths...).Load(context.Background())
		}
	}
	cfg, err := load(fs.Args()...)
	var found *hcl.Error
	switch {
	case errors.As(err, &found):
	case err != nil:
		return i.fail("validate: %v", err)
	default:
		found = cfg.Warnings
	}
	if *asJSON {
		return i.validateJSON(found, err == nil)
	}
	if found != nil {
		_ = found.Write(i.stderr, terminalWidth, colored(i.stderr))
	}
	if err != nil {
		return exitFailed
	}
	_, _ = fmt.Fprintf(i.stdout, "The configuration is valid: %d services.\n", len(cfg.Services))
	return exitOK
}

func (i invocation) validateJSON(found *hcl.Error, valid bool) int {
	out := struct {
		Valid       bool `json:"valid"`
		Diagnostics any  `json:"diagnostics"`
	}{valid, []any{}}
	if found != nil {
		out.Diagnostics = found.JSON()
	}
	if code := i.printJSON(out); code != exitOK || valid {
		return code
	}
	return exitFailed
}

func (i invocation) printJSON(v any) int {
	e := json.NewEncoder(i.stdout)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return i.fail("write JSON: %v", err)
	}
	return exitOK
}

func runFmt(i invocation) int {
	fs := i.flags("fmt", "[-check] [FILE...]")
	check := fs.Bool("check", false, "write nothing; exit 1 and list the files that are not in canonical form")
	if code, ok := i.parse(fs); !ok {
		return code
	}
	if fs.NArg() == 0 {
		return i.fmtStdin()
	}
	code := exitOK
	for _, path := range fs.Args() {
		changed, err := fmtFile(path, !*check)
		if err != nil {
			i.fail("fmt: %s is left as it is:", path)
			i.printConfigError(err)
			code = exitFailed
			continue
		}
		if changed {
			_, _ = fmt.Fprintln(i.stdout, path)
			if *check {
				code = exitFailed
			}
		}
	}
	return code
}

func (i invocation) fmtStdin() int {
	const limit = 1 << 20
	src, err := io.ReadAll(io.LimitReader(i.stdin, limit))
	if err != nil {
		return i.fail("fmt: read standard input: %v", err)
	}
	out, err := hcl.Format(src)
	if err != nil {
		i.printConfigError(err)
		return exitFailed
	}
	_, _ = i.stdout.Write(out)
	return exitOK
}

// fmtFile replaces a file in one step, keeping its mode, so that a crash leaves
// the old or the new text and never half of one.
func fmtFile(path string, write bool) (changed bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("fmt: %w", err)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("fmt: %w", err)
	}
	out, err := hcl.Format(src)
	if err != nil {
		return false, fmt.Errorf("fmt %s: %w", path, err)
	}
	if bytes.Equal(src, out) || !write {
		return !bytes.Equal(src, out), nil
	}
	return true, replaceFile(path, out, info.Mode().Perm())
}

func replaceFile(path string, content []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+strings.TrimPrefix(filepath.Base(path), ".")+".*")
	if err != nil {
		return fmt.Errorf("fmt: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("fmt %s: %w", path, err)
	}
	return nil
}
