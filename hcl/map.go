// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"errors"
	"fmt"
	"math"

	"github.com/zclconf/go-cty/cty"
)

// values returns what a map holds, by key: the arguments of a block or the
// elements of an object. It returns nil when the name is absent.
func (s *scope) values(name string) map[string]cty.Value {
	fields := s.take(name)
	s.noLabels(fields)
	var given *field
	for _, f := range fields {
		if given != nil {
			s.d.err(f.nameRange, fmt.Sprintf("%q is given twice", name), fmt.Sprintf(
				"It stands at %s already. Merge the two.", where(given.nameRange)))
			continue
		}
		given = &f
	}
	if given == nil || given.block == nil && isNull(given.expr) {
		return nil
	}
	path := s.path(name)
	s.d.pos[path] = place{at: given.value()}
	if given.block != nil {
		return s.d.bodyValues(path, bodyFields(given.block.Body))
	}
	value, ok := s.d.eval(path, given.expr)
	if !ok || value.IsNull() {
		return nil
	}
	if !value.Type().IsObjectType() && !value.Type().IsMapType() {
		s.d.bad(path, given.expr.Range(), fmt.Sprintf("Wrong value of %q", name), fmt.Sprintf(
			"It must be a map: %s = { key = value }.", name))
		return nil
	}
	s.d.places(path, given.expr)
	return value.AsValueMap()
}

// strMap decodes a map of strings; numbers and booleans become text.
func (s *scope) strMap(name string, into *map[string]string) {
	*into = convertMap(s, name, s.values(name), notNull(asString))
}

// headers decodes HTTP headers. A single value may be written without its list.
func (s *scope) headers(name string, into *map[string][]string) {
	*into = convertMap(s, name, s.values(name), notNull(func(v cty.Value) ([]string, error) {
		if text, ok := stringOf(v); ok {
			return []string{text}, nil
		}
		return asList(v)
	}))
}

// addresses decodes tagged addresses: an address with a port as Consul writes
// it, or a bare address as Nomad does.
func (s *scope) addresses(name string, into *map[string]TaggedAddress) {
	*into = convertMap(s, name, s.values(name), notNull(asAddress))
	for key, tagged := range *into {
		tagged.Address = s.d.expand(s.path(name)+"."+key, tagged.Address)
		(*into)[key] = tagged
	}
}

func asAddress(v cty.Value) (TaggedAddress, error) {
	if text, ok := stringOf(v); ok {
		return TaggedAddress{Address: text}, nil
	}
	if !v.Type().IsObjectType() && !v.Type().IsMapType() {
		return TaggedAddress{}, errors.New(`it must be an address: { address = "…", port = … }`)
	}
	var result TaggedAddress
	address, port := notNull(asString), notNull(asPort)
	for key, element := range v.AsValueMap() {
		var err error
		switch key {
		case "address":
			result.Address, err = address(element)
		case "port":
			result.Port, err = port(element)
		default:
			err = fmt.Errorf("unknown name %q; an address has address and port", key)
		}
		if err != nil {
			return TaggedAddress{}, err
		}
	}
	return result, nil
}

// notNull adds a check for null to a conversion.
func notNull[T any](conv func(cty.Value) (T, error)) func(cty.Value) (T, error) {
	return func(v cty.Value) (T, error) {
		if v.IsNull() {
			var zero T
			return zero, errors.New("it must not be null; leave it out")
		}
		return conv(v)
	}
}

// free decodes Consul's opaque configuration.
func (s *scope) free(name string, into *map[string]any) {
	*into = convertMap(s, name, s.values(name), asAny)
	const bind = "bind_address"
	if address, ok := (*into)[bind].(string); ok {
		(*into)[bind] = s.d.expand(s.path(name)+"."+bind, address)
	}
}

// convertMap converts the values of a map and reports those that do not fit.
func convertMap[T any](s *scope, name string, values map[string]cty.Value, conv func(cty.Value) (T, error)) map[string]T {
	if values == nil {
		return nil
	}
	result := make(map[string]T, len(values))
	for key, value := range values {
		converted, err := conv(value)
		if err != nil {
			path := s.path(name) + "." + key
			s.d.bad(path, s.d.pos.near(path), fmt.Sprintf("Wrong value of %q in %q", key, name), sentence(err))
			continue
		}
		result[key] = converted
	}
	return result
}

// asAny converts a value to plain Go values: nil, bool, string, int64, float64,
// []any, map[string]any.
func asAny(v cty.Value) (any, error) {
	if v.IsNull() {
		return nil, nil
	}
	switch t := v.Type(); {
	case t == cty.Bool:
		return v.True(), nil
	case t == cty.String:
		return v.AsString(), nil
	case t == cty.Number:
		return asNumber(v)
	case t.IsTupleType() || t.IsListType():
		list := []any{}
		for _, element := range v.AsValueSlice() {
			converted, err := asAny(element)
			if err != nil {
				return nil, err
			}
			list = append(list, converted)
		}
		return list, nil
	case t.IsObjectType() || t.IsMapType():
		m := map[string]any{}
		for key, element := range v.AsValueMap() {
			converted, err := asAny(element)
			if err != nil {
				return nil, err
			}
			m[key] = converted
		}
		return m, nil
	}
	return nil, errors.New("it must be text, a number, true, false, a list or a map")
}

// asNumber keeps whole numbers whole: Consul's opaque configuration holds ports
// and counts, and 8080 must not become 8080.0 on the way.
func asNumber(v cty.Value) (any, error) {
	number := v.AsBigFloat()
	if whole, accuracy := number.Int64(); accuracy == 0 && number.IsInt() {
		return whole, nil
	}
	float, _ := number.Float64()
	if math.IsInf(float, 0) {
		return nil, errors.New("the number is too large")
	}
	return float, nil
}
