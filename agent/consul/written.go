// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// decodeWritten reads a config entry as people write it into out. Names may be
// spelt PathPrefix, path_prefix or pathPrefix; a block may stand for a list of
// one and a list of one for a block, since files in HCL make no difference
// between them (Consul, consul config write). A name that out does not have is
// an error that says where it stands, unless passed has it.
func decodeWritten(text []byte, out any, passed ...string) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("it is not JSON: %w", err)
	}
	f := fitter{passed: passed}
	v, err := f.fit(v, reflect.TypeOf(out).Elem(), "")
	if err != nil {
		return err
	}
	fitted, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("it cannot be written as JSON: %w", err)
	}
	return decodeStrictly(fitted, out)
}

// A fitter gives values the shape of types.
type fitter struct {
	passed []string // plain names that are dropped wherever no field has them
}

func (f fitter) fit(v any, t reflect.Type, at string) (any, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	list, isList := v.([]any)
	switch {
	case v == nil, t == reflect.TypeFor[json.RawMessage](), t.Kind() == reflect.Interface:
		return v, nil
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		if !isList {
			list = []any{v}
		}
		out := make([]any, len(list))
		for i, one := range list {
			var err error
			if out[i], err = f.fit(one, t.Elem(), fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return nil, err
			}
		}
		return out, nil
	case t.Kind() == reflect.Struct || t.Kind() == reflect.Map:
		if isList && len(list) == 1 {
			v = list[0]
		}
		if object, ok := v.(map[string]any); ok && t.Kind() == reflect.Struct {
			return f.object(object, t, at)
		}
		if _, ok := v.(map[string]any); !ok {
			return nil, fmt.Errorf("%s must be a block", at)
		}
	}
	return v, nil
}

func (f fitter) object(object map[string]any, t reflect.Type, at string) (any, error) {
	fields := map[string]reflect.StructField{}
	var names []string
	for _, field := range reflect.VisibleFields(t) {
		if !field.Anonymous {
			fields[plain(field.Name)] = field
			names = append(names, field.Name)
		}
	}
	out := make(map[string]any, len(object))
	for _, key := range slices.Sorted(maps.Keys(object)) {
		place := strings.TrimPrefix(at+"."+key, ".")
		field, known := fields[plain(key)]
		if !known && slices.Contains(f.passed, plain(key)) {
			continue
		}
		if !known {
			slices.Sort(names)
			return nil, fmt.Errorf("%s is not known: there are %s", place, strings.Join(names, ", "))
		}
		if _, twice := out[field.Name]; twice {
			return nil, fmt.Errorf("%s is there twice, in two spellings", place)
		}
		value, err := f.fit(object[key], field.Type, place)
		if err != nil {
			return nil, err
		}
		out[field.Name] = value
	}
	return out, nil
}
