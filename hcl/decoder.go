// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// A decoder turns parsed sources into a Config. It collects what is wrong and
// where things stand, and never stops at the first mistake.
type decoder struct {
	fields   []field // of all files
	contexts map[string]*hcl.EvalContext
	defaults map[string]string
	pos      positions
	literal  map[string]bool // paths whose value stands in the file itself
	diags    hcl.Diagnostics

	machine    machine
	templates  bool // ${service} is allowed in what is being evaluated
	incomplete bool // a file could not be parsed, so absence means nothing
}

func newDecoder(sources []*source, opts Options) *decoder {
	d := &decoder{
		contexts: map[string]*hcl.EvalContext{},
		defaults: defaultValues(),
		pos:      positions{},
		literal:  map[string]bool{},
		machine:  machine{metadata: opts.Metadata, known: map[string]cty.Value{}, open: map[string]string{}},
	}
	for _, s := range sources {
		d.diags = append(d.diags, s.diags...)
		if s.body == nil {
			d.incomplete = true
			continue
		}
		d.contexts[s.name] = evalContext(s.name)
		d.fields = append(d.fields, bodyFields(s.body)...)
	}
	return d
}

// err adds an error at a range.
func (d *decoder) err(at hcl.Range, summary, detail string) {
	d.diags = append(d.diags, problem(at, summary, detail)...)
}

// bad adds an error about a value, and remembers that the value at the path is
// not what was meant, so that validation does not report it again.
func (d *decoder) bad(path string, at hcl.Range, summary, detail string) {
	d.pos[path] = place{at: at, bad: true}
	d.err(at, summary, detail)
}

// near returns the place of a path or of the nearest thing around it that was
// written.
func (p positions) near(path string) hcl.Range {
	for path != "" {
		if found, ok := p[path]; ok {
			return found.at
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return hcl.Range{}
}

// places records where the elements of an object expression stand.
func (d *decoder) places(path string, expr hclsyntax.Expression) {
	cons, ok := unwrap(expr).(*hclsyntax.ObjectConsExpr)
	if !ok {
		return
	}
	for _, f := range d.consFields(cons) {
		at := path + "." + f.name
		if first, ok := d.pos[at]; ok {
			d.err(f.nameRange, fmt.Sprintf("%q is given twice", f.name), fmt.Sprintf(
				"It stands at %s already. Keep one of the two.", where(first.at)))
			continue
		}
		d.pos[at] = place{at: f.expr.Range()}
		d.places(at, f.expr)
	}
}

// bodyValues evaluates the arguments of a block that stands for a map. Blocks
// inside become maps, repeated ones lists of maps.
func (d *decoder) bodyValues(path string, fields []field) map[string]cty.Value {
	values := map[string]cty.Value{}
	repeated := map[string][]cty.Value{}
	for _, f := range fields {
		at := path + "." + f.name
		if f.block == nil {
			d.pos[at] = place{at: f.expr.Range()}
			d.places(at, f.expr)
			if value, ok := d.eval(at, f.expr); ok {
				values[f.name] = value
			}
			continue
		}
		if len(f.block.Labels) > 0 {
			d.err(f.block.LabelRanges[0], fmt.Sprintf("%q has no label", f.name), "Remove the label; a name belongs inside the block.")
		}
		if _, ok := d.pos[at]; !ok {
			d.pos[at] = place{at: f.block.DefRange()}
		}
		inner := d.bodyValues(at, bodyFields(f.block.Body))
		repeated[f.name] = append(repeated[f.name], cty.ObjectVal(inner))
	}
	for name, list := range repeated {
		if _, ok := values[name]; ok {
			d.err(d.pos.near(path+"."+name), fmt.Sprintf("%q is given twice", name), "It is a block and an argument. Keep one of the two.")
		}
		values[name] = list[0]
		if len(list) > 1 {
			values[name] = cty.TupleVal(list)
		}
	}
	return values
}
