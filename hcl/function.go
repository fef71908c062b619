// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// evalContext holds what expressions of one file may call: env and file. There
// are no variables.
func evalContext(filename string) *hcl.EvalContext {
	return &hcl.EvalContext{Functions: map[string]function.Function{
		"env":  envFunction(),
		"file": fileFunction(filepath.Dir(filename)),
	}}
}

// templateContext adds ${service}, which stays as it is written.
func templateContext(parent *hcl.EvalContext) *hcl.EvalContext {
	child := parent.NewChild()
	child.Variables = map[string]cty.Value{"service": cty.StringVal(servicePlaceholder)}
	return child
}

// envFunction is env("NAME") and env("NAME", "default"). A variable that is not
// set is an error without a default; one that is empty is just empty.
func envFunction() function.Function {
	return function.New(&function.Spec{
		Params:   []function.Parameter{{Name: "name", Type: cty.String}},
		VarParam: &function.Parameter{Name: "default", Type: cty.String},
		Type:     function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			if len(args) > 2 {
				return cty.NilVal, errors.New("at most two arguments: a name and a default")
			}
			name := args[0].AsString()
			if !environmentName(name) {
				// Not quoted: whoever mistakes env for quotes has put a secret there.
				return cty.NilVal, errors.New("the name of an environment variable has letters, digits and underscores only")
			}
			value, ok := os.LookupEnv(name)
			switch {
			case ok && !utf8.ValidString(value):
				return cty.NilVal, fmt.Errorf("environment variable %s is not UTF-8 text", name)
			case ok:
				return cty.StringVal(value), nil
			case len(args) == 2:
				return args[1], nil
			}
			return cty.NilVal, fmt.Errorf(`environment variable %s is not set; set it, or give a default: env(%q, "…")`, name, name)
		},
	})
}

// environmentName reports whether a text can be the name of a variable.
func environmentName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}

// fileFunction is file("path"): the text of a file without the newline at its
// end. A relative path starts at the directory of the configuration file, so the
// meaning does not depend on where the agent was started.
func fileFunction(dir string) function.Function {
	return function.New(&function.Spec{
		Params: []function.Parameter{{Name: "path", Type: cty.String}},
		Type:   function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			path := args[0].AsString()
			name := path
			if !filepath.IsAbs(name) {
				name = filepath.Join(dir, name)
			}
			text, err := readLimited(name)
			if err != nil {
				return cty.NilVal, fmt.Errorf("%s cannot be read: %w", path, reason(err))
			}
			if !utf8.Valid(text) {
				return cty.NilVal, fmt.Errorf("%s is not UTF-8 text", path)
			}
			return cty.StringVal(strings.TrimRight(string(text), "\r\n")), nil
		},
	})
}

// reason takes the operation and the path from an error of package os; the
// message around it names the path already.
func reason(err error) error {
	if pathError, ok := errors.AsType[*os.PathError](err); ok {
		return pathError.Err
	}
	return err
}
