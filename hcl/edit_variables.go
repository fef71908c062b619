// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// A VariableFile is the text of a file of assignments.
type VariableFile struct {
	Name string // for messages
	Text []byte
}

// Variables returns the values of a job's input variables as the text of one file,
// as Nomad's command line reads them: environment (NOMAD_VAR_x=value, of declared
// variables only), then files, then pairs (x=value); a later value wins. A value of
// the environment or of a pair is a string where the job declares a string, a
// number, a bool or no type, else an expression. It is "" when there are none. The
// error names the file or the pair.
func Variables(job []byte, environment []string, files []VariableFile, pairs []string) (string, error) {
	types := variableTypes(job)
	values := map[string]string{}
	for _, e := range environment {
		name, value, _ := strings.Cut(e, "=")
		name, ours := strings.CutPrefix(name, "NOMAD_VAR_")
		if kind, declared := types[name]; ours && declared {
			text, err := assigned(value, kind)
			if err != nil {
				return "", fmt.Errorf("environment variable NOMAD_VAR_%s: %w", name, err)
			}
			values[name] = text
		}
	}
	for _, f := range files {
		if err := readAssignments(f, values); err != nil {
			return "", err
		}
	}
	for _, p := range pairs {
		name, value, ok := strings.Cut(p, "=")
		name = strings.TrimSpace(name)
		if !ok || !hclsyntax.ValidIdentifier(name) {
			return "", fmt.Errorf("variable %q has no form of NAME=VALUE", name)
		}
		if _, declared := types[name]; !declared && types != nil {
			return "", fmt.Errorf("the job declares no variable %q: add variable %q {} to it, or leave the value out", name, name)
		}
		text, err := assigned(value, types[name])
		if err != nil {
			return "", fmt.Errorf("variable %s: %w", name, err)
		}
		values[name] = text
	}
	var out strings.Builder
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&out, "%s = %s\n", name, values[name])
	}
	return out.String(), nil
}

// variableTypes returns the text of each declared variable's type, "" for none. It
// is nil for a text that is not valid, which is refused where it is parsed.
func variableTypes(job []byte) map[string]string {
	s := newSource("", job)
	if s.body == nil {
		return nil
	}
	types := map[string]string{}
	for _, b := range s.body.Blocks {
		if b.Type != "variable" || len(b.Labels) != 1 {
			continue
		}
		types[b.Labels[0]] = ""
		if t := b.Body.Attributes["type"]; t != nil {
			types[b.Labels[0]] = string(t.Expr.Range().SliceBytes(job))
		}
	}
	return types
}

// assigned returns the expression for a value that a person wrote in a shell.
func assigned(value, kind string) (string, error) {
	switch kind {
	case "", "any", "string", "number", "bool":
		return renderValue(value), nil
	}
	if _, diags := hclsyntax.ParseExpression([]byte(value), "", hcl.InitialPos); diags.HasErrors() {
		return "", fmt.Errorf("its type is %s, and the value is not an expression: write lists as [\"a\"], maps as {a=\"b\"}", kind)
	}
	return "(" + value + "\n)", nil
}

func readAssignments(f VariableFile, values map[string]string) error {
	s := newSource(f.Name, f.Text)
	if s.diags.HasErrors() {
		return newError([]*source{s}, s.diags)
	}
	if len(s.body.Blocks) > 0 {
		b := s.body.Blocks[0]
		return fmt.Errorf("%s:%d: a block %q in a file of variables, which holds lines of NAME = VALUE only", f.Name, b.TypeRange.Start.Line, b.Type)
	}
	for name, a := range s.body.Attributes {
		values[name] = strings.TrimSuffix(string(a.Expr.Range().SliceBytes(f.Text)), "\n")
	}
	return nil
}
