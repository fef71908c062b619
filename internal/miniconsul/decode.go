// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
)

// An unknownKey is a key of a JSON object that nobody asked for. Consul
// refuses them too: a misspelt key is a setting that does not hold.
type unknownKey struct{ name, path string }

func (k *unknownKey) Error() string { return fmt.Sprintf("json: unknown field %q", k.name) }

// below says that an error was found below a place: "Routes" or "[0]".
func below(place string, err error) error {
	k, ok := errors.AsType[*unknownKey](err)
	switch {
	case !ok:
		return err
	case strings.HasPrefix(k.path, "["):
		return &unknownKey{k.name, place + k.path}
	}
	return &unknownKey{k.name, place + "." + k.path}
}

// decode reads one JSON value into a struct. Keys may be written as Consul
// takes them: in any case, with or without underscores ("DefaultSubset",
// "default_subset"). A key that the struct does not have is an unknownKey.
func decode(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var raw any
	if err := d.Decode(&raw); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("there is something after the value")
	}
	raw, err := rename(raw, reflect.TypeOf(into).Elem())
	if err != nil {
		return err
	}
	named, err := json.Marshal(raw)
	if err != nil {
		return err
	}
	return json.Unmarshal(named, into)
}

// rename gives the keys of objects the names of the fields of t.
func rename(v any, t reflect.Type) (any, error) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return v, nil
	}
	switch value := v.(type) {
	case []any:
		if t.Kind() != reflect.Slice {
			return v, nil // json.Unmarshal says what is wrong
		}
		for i := range value {
			var err error
			if value[i], err = rename(value[i], t.Elem()); err != nil {
				return nil, below(fmt.Sprintf("[%d]", i), err)
			}
		}
	case map[string]any:
		switch t.Kind() {
		case reflect.Struct:
			return renameFields(value, t)
		case reflect.Map:
			for key := range value {
				var err error
				if value[key], err = rename(value[key], t.Elem()); err != nil {
					return nil, err
				}
			}
		}
	}
	return v, nil
}

func renameFields(object map[string]any, t reflect.Type) (any, error) {
	fields := make(map[string]reflect.StructField)
	for _, f := range reflect.VisibleFields(t) {
		if !f.Anonymous {
			fields[fold(fieldName(f))] = f
		}
	}
	out := make(map[string]any, len(object))
	for key, value := range object {
		f, ok := fields[fold(key)]
		if !ok {
			return nil, &unknownKey{key, key}
		}
		name := fieldName(f)
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("json: field %q is there twice, in different spellings", name)
		}
		var err error
		if out[name], err = rename(value, f.Type); err != nil {
			return nil, below(name, err)
		}
	}
	return out, nil
}

func fieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "" {
		return f.Name
	}
	return name
}

func fold(key string) string { return strings.ToLower(strings.ReplaceAll(key, "_", "")) }

// A duration is written "5s" and read from that or from nanoseconds.
type duration time.Duration

// MarshalJSON writes "5s".
func (d duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads "5s", "" or nanoseconds.
func (d *duration) UnmarshalJSON(text []byte) error {
	parsed, err := parseDuration(text)
	*d = duration(parsed)
	return err
}

// A span is a duration that Consul writes in nanoseconds, and reads as it reads
// any other.
type span time.Duration

// UnmarshalJSON reads "5s", "" or nanoseconds.
func (s *span) UnmarshalJSON(text []byte) error {
	parsed, err := parseDuration(text)
	*s = span(parsed)
	return err
}

func parseDuration(text []byte) (time.Duration, error) {
	var word string
	if json.Unmarshal(text, &word) == nil {
		if word == "" {
			return 0, nil
		}
		return time.ParseDuration(word)
	}
	var number int64
	err := json.Unmarshal(text, &number)
	return time.Duration(number), err
}
