// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package main writes the files of the packages that follow from others: manual
// pages and completions from the table of commands, the licences and the bill of
// materials from the binary. It must not say anything that those do not say, and
// the same input gives the same bytes.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/buildinfo"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/command"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stderr)) //nolint:forbidigo // This is a command: its process and its context begin and end here.
}

// settings is what the command line says.
type settings struct {
	binary, root, sbom string
	version            string
	date               int64 // seconds since 1970
}

func run(ctx context.Context, args []string, stderr io.Writer) int {
	var s settings
	fs := flag.NewFlagSet("generate", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&s.binary, "binary", "", "`FILE` that is packed")
	fs.StringVar(&s.root, "root", "", "`DIRECTORY` that becomes the content of the package")
	fs.StringVar(&s.sbom, "sbom", "", "`FILE` for the bill of materials")
	fs.StringVar(&s.version, "version", "", "`VERSION` of the package")
	fs.Int64Var(&s.date, "date", 0, "`SECONDS` since 1970 of the commit")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if fs.NArg() > 0 || s.binary == "" || s.root == "" || s.sbom == "" || s.version == "" {
		_, _ = fmt.Fprintln(stderr, "generate: -binary, -root, -sbom and -version are needed, and nothing else is")
		return 2
	}
	if err := s.generate(ctx); err != nil {
		_, _ = fmt.Fprintf(stderr, "generate: %v\n", err)
		return 1
	}
	return 0
}

func (s settings) generate(ctx context.Context) error {
	commands, err := describe()
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(s.binary)
	if err != nil {
		return fmt.Errorf("read what %s was built from: %w", s.binary, err)
	}
	modules, err := linked(ctx, info)
	if err != nil {
		return err
	}
	bom, err := s.billOfMaterials(info, modules)
	if err != nil {
		return err
	}
	changes, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		return fmt.Errorf("read the changes: %w; run at the root of the checkout", err)
	}
	configuration, err := os.ReadFile(filepath.Join("docs", "configuration.md"))
	if err != nil {
		return fmt.Errorf("read the documentation: %w; run at the root of the checkout", err)
	}
	ours, err := os.ReadFile("LICENSE")
	if err != nil {
		return fmt.Errorf("read our licence: %w; run at the root of the checkout", err)
	}
	day := time.Unix(s.date, 0).UTC()
	files := map[string][]byte{
		"usr/share/man/man1/outrider.1.gz":                  compress(manual(commands, s.version, day)),
		"usr/share/man/man5/outrider.d.5.gz":                compress(configurationManual(string(configuration), s.version, day)),
		"usr/share/bash-completion/completions/outrider":    bash(commands),
		"usr/share/fish/vendor_completions.d/outrider.fish": fish(commands),
		"usr/share/doc/outrider/copyright":                  copyright(strings.TrimSpace(string(ours)), modules),
		"usr/share/doc/outrider/CHANGELOG.md":               changes,
		"zsh/_outrider":                                     zsh(commands),
	}
	for name, content := range files {
		err = errors.Join(err, write(filepath.Join(s.root, filepath.FromSlash(name)), content))
	}
	return errors.Join(err, write(s.sbom, bom))
}

// describe asks the table of commands, away from the environment of who builds:
// some flags have their defaults from there.
func describe() ([]command.Description, error) {
	environment := os.Environ()
	os.Clearenv()
	commands := command.Describe()
	for _, variable := range environment {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, fmt.Errorf("restore the environment: %w", err)
		}
	}
	return commands, nil
}

func write(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("make the directory of %s: %w", path, err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// compress leaves out time and name, as Debian's policy asks of manual pages.
func compress(content []byte) []byte {
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	// A buffer takes everything.
	_, _ = w.Write(content)
	_ = w.Close()
	return out.Bytes()
}
