// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// A machine is what a configuration may ask about the machine that runs the
// agent. An image is built on another one: there the values are left open.
type machine struct {
	metadata func(name string) (string, error) // nil: this is another machine
	known    map[string]cty.Value              // by word, so that each is asked for once
	open     map[string]string                 // what stands for address templates, by template
}

// facts are the names of metadata, beside tags.
func facts() []string {
	return []string{"account", "cloud", "instance_id", "instance_type", "private_ip", "public_ip", "region", "zone"}
}

// words adds to a context what an expression asks about the machine, and reports
// words that do not exist. Nothing is asked that is not named.
func (d *decoder) words(path string, expr hclsyntax.Expression, ctx *hcl.EvalContext) (_ *hcl.EvalContext, ofMachine, ok bool) {
	variables, metadata, tags := map[string]cty.Value{}, map[string]cty.Value{}, map[string]cty.Value{}
	for _, traversal := range expr.Variables() {
		root := traversal.RootName()
		if _, ok := ctx.Variables[root]; ok {
			continue
		}
		word, ok := d.word(path, traversal)
		if !ok {
			return ctx, false, false
		}
		value, ok := d.fact(path, traversal.SourceRange(), word)
		if !ok {
			return ctx, false, false
		}
		ofMachine = true
		name := strings.TrimPrefix(word, "metadata.")
		if tag, ok := strings.CutPrefix(name, "tags."); ok {
			tags[tag] = value
		} else if name != word {
			metadata[name] = value
		} else {
			variables[word] = value
		}
	}
	if !ofMachine {
		return ctx, false, true
	}
	if len(tags) > 0 {
		metadata["tags"] = cty.ObjectVal(tags)
	}
	if len(metadata) > 0 {
		variables["metadata"] = cty.ObjectVal(metadata)
	}
	child := ctx.NewChild()
	child.Variables = variables
	return child, true, true
}

// word returns hostname, metadata.region or metadata.tags.Name for a traversal
// that is one of those.
func (d *decoder) word(path string, traversal hcl.Traversal) (string, bool) {
	root := traversal.RootName()
	names := []string{root}
	for _, step := range traversal[1:] {
		switch step := step.(type) {
		case hcl.TraverseAttr:
			names = append(names, step.Name)
		case hcl.TraverseIndex:
			key, ok := stringOf(step.Key)
			if !ok {
				key = "a number"
			}
			names = append(names, key)
		}
	}
	word := strings.Join(names, ".")
	switch {
	case word == "hostname":
		return word, true
	case root != "metadata":
		d.bad(path, traversal[0].SourceRange(), fmt.Sprintf("Unknown word %q", root),
			`Write text in quotes, or use env("NAME") or file("path"). The words are hostname and metadata; ${service} is known in vault.pki only.`)
	case len(names) == 2 && slices.Contains(facts(), names[1]), len(names) == 3 && names[1] == "tags" && names[2] != "":
		return word, true
	case len(names) > 1 && names[1] == "tags":
		d.bad(path, traversal.SourceRange(), "Which tag?", `Name one tag by its key: metadata.tags["Name"].`)
	default:
		near := ""
		if len(names) == 2 {
			near = suggest(names[1], append(facts(), "tags"))
		}
		detail := "It is one of " + strings.Join(facts(), ", ") + `, or tags["key"].`
		if near != "" {
			detail = fmt.Sprintf("Did you mean %q? %s", "metadata."+near, detail)
		}
		d.bad(path, traversal.SourceRange(), fmt.Sprintf("Unknown word %q", word), detail)
	}
	return "", false
}

// fact returns what a word stands for, asked for once.
func (d *decoder) fact(path string, at hcl.Range, word string) (cty.Value, bool) {
	if value, ok := d.machine.known[word]; ok {
		if value == cty.NilVal {
			d.pos[path] = place{at: at, bad: true} // It was reported where it was asked for first.
		}
		d.left(path, at, word, value)
		return value, value != cty.NilVal
	}
	value, err := d.machine.ask(word)
	if err != nil {
		d.bad(path, at, fmt.Sprintf("%q is not known", word), sentence(err))
		value = cty.NilVal
	}
	d.machine.known[word] = value
	d.left(path, at, word, value)
	return value, err == nil
}

func (m machine) ask(word string) (cty.Value, error) {
	name, ofCloud := strings.CutPrefix(word, "metadata.")
	switch {
	case m.metadata == nil && strings.HasSuffix(word, "_ip"):
		return cty.StringVal(m.stand(word)), nil
	case m.metadata == nil:
		return cty.UnknownVal(cty.String), nil
	case ofCloud:
		text, err := m.metadata(name)
		return cty.StringVal(text), err
	}
	text, err := os.Hostname()
	if err != nil {
		return cty.NilVal, fmt.Errorf("ask for the name of this machine: %w; set it, or write the name", err)
	}
	return cty.StringVal(text), nil
}

// maxOpen keeps the addresses that stand for others within their network.
const maxOpen = 254

// stand returns an address that stands for one that is not known here, so that
// what is written around it can be checked. It is of a network that exists in
// documentation only (RFC 5737), and two words that differ get different ones:
// listeners at different addresses are not in each other's way.
func (m machine) stand(word string) string {
	if _, ok := m.open[word]; !ok {
		m.open[word] = fmt.Sprintf("192.0.2.%d", len(m.open)%maxOpen+1)
	}
	return m.open[word]
}

// left notes that a value is left open.
func (d *decoder) left(path string, at hcl.Range, word string, value cty.Value) {
	if d.machine.metadata != nil || value == cty.NilVal {
		return
	}
	d.pos[path] = place{at: at}
	d.diags = append(d.diags, &hcl.Diagnostic{Severity: hcl.DiagWarning, Subject: &at, Summary: "Completed at first boot",
		Detail: fmt.Sprintf(`%s is asked of the machine that runs the agent. To ask this machine, run "outrider validate -machine".`, word)})
}
