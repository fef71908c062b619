// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// str decodes a string; an absent one takes its default from the table.
func (s *scope) str(name string, into *string, aliases ...string) {
	scalar(s, name, aliases, into, asString, func(text string) (string, error) { return text, nil })
}

// secret decodes a string that must not be shown, and notes whether it was
// written literally.
func (s *scope) secret(name string, into *Secret) {
	var text string
	s.str(name, &text)
	*into = Secret(text)
}

// template decodes a string in which ${service} stays as it is.
func (s *scope) template(name string, into *string) {
	s.d.templates = true
	defer func() { s.d.templates = false }()
	s.str(name, into)
}

// boolean decodes true or false.
func (s *scope) boolean(name string, into *bool) {
	scalar(s, name, nil, into, asBool, strconv.ParseBool)
}

// integer decodes a whole number that is not negative.
func (s *scope) integer(name string, into *int) {
	scalar(s, name, nil, into, asInteger, strconv.Atoi)
}

// fraction decodes a number from 0 to 1; nil when it is absent.
func (s *scope) fraction(name string, into **float64) {
	scalar(s, name, nil, into, asFraction, func(string) (*float64, error) {
		return nil, errors.New("a fraction has no default")
	})
}

// port decodes a TCP port: a number, or a string holding one as Nomad writes it.
func (s *scope) port(name string, into *int) {
	scalar(s, name, nil, into, asPort, strconv.Atoi)
}

// duration decodes a duration such as "10s"; it may not be negative.
func (s *scope) duration(name string, into *time.Duration) {
	scalar(s, name, nil, into, asDuration, time.ParseDuration)
}

// list decodes a list of strings; nil when it is absent.
func (s *scope) list(name string, into *[]string, aliases ...string) {
	scalar(s, name, aliases, into, asList, func(text string) ([]string, error) { return []string{text}, nil })
}

// scalar decodes one argument with the given conversion, or parses its default.
func scalar[T any](s *scope, name string, aliases []string, into *T, conv func(cty.Value) (T, error), parse func(string) (T, error)) {
	path := s.path(name)
	expr := s.argument(name, aliases...)
	if expr == nil {
		if text, ok := s.d.defaults[tablePath(path)]; ok && !s.d.pos[path].bad {
			value, err := parse(text)
			if err != nil {
				panic(fmt.Sprintf("default of %s: %v", path, err)) // a mistake in defaults.go
			}
			*into = value
		}
		return
	}
	value, ok := s.d.eval(path, expr)
	if !ok || value.IsNull() {
		return
	}
	result, err := conv(value)
	if err != nil {
		s.d.bad(path, expr.Range(), fmt.Sprintf("Wrong value of %q", name), sentence(err))
		return
	}
	*into = result
}

// eval computes an expression, and reports when that fails.
func (d *decoder) eval(path string, expr hclsyntax.Expression) (cty.Value, bool) {
	ctx := d.contexts[expr.Range().Filename]
	if d.templates {
		ctx = templateContext(ctx)
	}
	ctx, ofMachine, ok := d.words(path, expr, ctx)
	if !ok {
		return cty.NilVal, false
	}
	called, ok := d.onlyKnownCalls(path, expr)
	if !ok {
		return cty.NilVal, false
	}
	value, diags := expr.Value(ctx)
	if diags.HasErrors() {
		d.pos[path] = place{at: expr.Range(), bad: true}
		d.diags = append(d.diags, diags...)
		return cty.NilVal, false
	}
	d.literal[path] = !called && !ofMachine
	if !value.IsWhollyKnown() {
		// Nothing is wrong with it, and nothing can be said of it.
		d.pos[path] = place{at: expr.Range(), bad: true}
		return cty.NilVal, false
	}
	return value, true
}

// onlyKnownCalls reports loops, which grow without bounds from a small text, and
// functions that do not exist. It tells whether any function is called: the value
// comes from elsewhere then.
func (d *decoder) onlyKnownCalls(path string, expr hclsyntax.Expression) (called, ok bool) {
	ok = true
	_ = hclsyntax.VisitAll(expr, func(n hclsyntax.Node) hcl.Diagnostics {
		const remedy = `The functions are env("NAME"), env("NAME", "default") and file("path").`
		switch n := n.(type) {
		case *hclsyntax.ForExpr, *hclsyntax.SplatExpr:
			d.bad(path, n.Range(), "Loops are not supported", "Spell the values out. "+remedy)
			ok = false
		case *hclsyntax.FunctionCallExpr:
			called = true
			if n.Name != "env" && n.Name != "file" {
				d.bad(path, n.NameRange, fmt.Sprintf("Unknown function %q", n.Name), remedy)
				ok = false
			}
		}
		return nil
	})
	return called, ok
}

// sentence makes the detail of a diagnostic from an error.
func sentence(err error) string {
	text := err.Error()
	return strings.ToUpper(text[:1]) + text[1:] + "."
}

// stringOf returns a value that is a known string.
func stringOf(v cty.Value) (string, bool) {
	if v == cty.NilVal || !v.IsKnown() || v.IsNull() || v.Type() != cty.String {
		return "", false
	}
	return v.AsString(), true
}

func asString(v cty.Value) (string, error) {
	if !v.Type().IsPrimitiveType() {
		return "", errors.New("it must be a string; write it in quotes")
	}
	text, err := convert.Convert(v, cty.String)
	if err != nil {
		return "", fmt.Errorf("it must be a string: %w", err)
	}
	return text.AsString(), nil
}

func asBool(v cty.Value) (bool, error) {
	flag, err := convert.Convert(v, cty.Bool)
	if err != nil {
		return false, errors.New("it must be true or false")
	}
	return flag.True(), nil
}

func asFraction(v cty.Value) (*float64, error) {
	wrong := errors.New("write a number from 0 to 1: 0.01 is one of a hundred")
	if !v.IsWhollyKnown() || v.Type() != cty.Number {
		return nil, wrong
	}
	n, _ := v.AsBigFloat().Float64()
	if !(n >= 0 && n <= 1) {
		return nil, wrong
	}
	return &n, nil
}

func asInteger(v cty.Value) (int, error) {
	number := math.NaN()
	switch v.Type() {
	case cty.Number:
		number, _ = v.AsBigFloat().Float64()
	case cty.String:
		if n, err := strconv.ParseInt(v.AsString(), 10, 32); err == nil {
			number = float64(n)
		}
	}
	if number != math.Trunc(number) || number < 0 || number > math.MaxInt32 || math.IsNaN(number) {
		return 0, fmt.Errorf("it must be a whole number from 0 to %d", math.MaxInt32)
	}
	return int(number), nil
}

func asPort(v cty.Value) (int, error) {
	if text, ok := stringOf(v); ok {
		if _, err := strconv.Atoi(text); err != nil {
			return 0, errors.New("it must be a number; a port label of a Nomad job has no meaning outside Nomad, so write the port itself")
		}
	}
	port, err := asInteger(v)
	if err != nil || port > math.MaxUint16 {
		return 0, fmt.Errorf("a port is a whole number from 0 to %d", math.MaxUint16)
	}
	return port, nil
}

func asDuration(v cty.Value) (time.Duration, error) {
	text, ok := stringOf(v)
	if !ok {
		return 0, errors.New(`it must be a duration in quotes, with its unit: "500ms", "10s", "1h30m"`)
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		return 0, errors.New(`it must be a duration with its unit, such as "500ms", "10s" or "1h30m"`)
	case d < 0:
		return 0, errors.New("a duration cannot be negative")
	}
	return d, nil
}

func asList(v cty.Value) ([]string, error) {
	if !v.Type().IsTupleType() && !v.Type().IsListType() {
		return nil, errors.New(`it must be a list of strings: ["…", "…"]`)
	}
	list := []string{}
	for _, element := range v.AsValueSlice() {
		if element.IsNull() {
			return nil, errors.New("an element of the list is null; leave it out")
		}
		text, err := asString(element)
		if err != nil {
			return nil, fmt.Errorf("an element of the list is wrong: %w", err)
		}
		list = append(list, text)
	}
	return list, nil
}
