// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// An object is a block or an object expression, which mean the same wherever
// Consul's and Nomad's files write one or the other.
type object struct {
	path   string // such as service[0].connect; "" is the whole configuration
	def    hcl.Range
	fields []field // in the order of the text
}

// A field is one name in an object: an argument or a block.
type field struct {
	name      string
	nameRange hcl.Range
	expr      hclsyntax.Expression // nil for a block
	block     *hclsyntax.Block     // nil for an argument
}

// value is the range of what the name is given.
func (f field) value() hcl.Range {
	if f.block != nil {
		return f.block.DefRange()
	}
	return f.expr.Range()
}

// A place is where something stands in the files.
type place struct {
	at  hcl.Range // of the value, or of the head of a block
	bad bool      // it could not be decoded, which has been reported
}

// positions is the place of everything that was written, by path.
type positions map[string]place

// bodyFields lists what a body holds, in the order of the text.
func bodyFields(body *hclsyntax.Body) []field {
	var fields []field
	for name, attr := range body.Attributes {
		fields = append(fields, field{name: name, nameRange: attr.NameRange, expr: attr.Expr})
	}
	for _, block := range body.Blocks {
		fields = append(fields, field{name: block.Type, nameRange: block.TypeRange, block: block})
	}
	slices.SortFunc(fields, func(a, b field) int { return a.nameRange.Start.Byte - b.nameRange.Start.Byte })
	return fields
}

// unwrap takes off parentheses.
func unwrap(expr hclsyntax.Expression) hclsyntax.Expression {
	for {
		p, ok := expr.(*hclsyntax.ParenthesesExpr)
		if !ok {
			return expr
		}
		expr = p.Expression
	}
}

// isNull reports whether an expression is the word null, which is as good as not
// being there.
func isNull(expr hclsyntax.Expression) bool {
	literal, ok := unwrap(expr).(*hclsyntax.LiteralValueExpr)
	return ok && literal.Val.IsNull()
}

// objects turns the fields of one name into objects: blocks, `= {…}`,
// `= [{…}, …]`, in any mixture. With a single path they all get that path, else
// a number is added.
func (d *decoder) objects(path string, fields []field, numbered bool) []*object {
	var found []*object
	next := func() string {
		if numbered {
			return path + "[" + strconv.Itoa(len(found)) + "]"
		}
		return path
	}
	add := func(o *object) {
		if _, ok := d.pos[o.path]; !ok {
			d.pos[o.path] = place{at: o.def}
		}
		found = append(found, o)
	}
	for _, f := range fields {
		if f.block != nil {
			add(&object{path: next(), def: f.block.DefRange(), fields: bodyFields(f.block.Body)})
			continue
		}
		if isNull(f.expr) {
			continue
		}
		exprs := []hclsyntax.Expression{unwrap(f.expr)}
		if list, ok := exprs[0].(*hclsyntax.TupleConsExpr); ok {
			exprs = list.Exprs
		}
		for _, expr := range exprs {
			if cons, ok := unwrap(expr).(*hclsyntax.ObjectConsExpr); ok {
				add(&object{path: next(), def: cons.OpenRange, fields: d.consFields(cons)})
				continue
			}
			d.bad(path, expr.Range(), fmt.Sprintf("%q must be a block", f.name), fmt.Sprintf(
				"Write it as a block, %s { … }, or as an object, %s = { … }, with the names spelt out.", f.name, f.name))
		}
	}
	return found
}

// consFields lists what an object expression holds. Its names must be plain.
func (d *decoder) consFields(cons *hclsyntax.ObjectConsExpr) []field {
	var fields []field
	for _, item := range cons.Items {
		key, diags := item.KeyExpr.Value(nil)
		name, ok := stringOf(key)
		if diags.HasErrors() || !ok {
			d.err(item.KeyExpr.Range(), "Name must be plain text", "Write the name as a word or as a quoted string.")
			continue
		}
		fields = append(fields, field{name: name, nameRange: item.KeyExpr.Range(), expr: item.ValueExpr})
	}
	return fields
}
