// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Bounds of what one rule, route or provider may hold. Consul itself takes no
// entry of more than some hundred KiB.
const (
	maxText     = 8 << 10 // bytes of one name, value, path or regular expression
	maxMatchers = 256     // headers, parameters or methods of one match
	maxRules    = 4096    // intentions, permissions of one, routes or splits of a node, providers
)

// decodeStrictly reads one JSON value and refuses every key it does not know:
// where a key narrows what is meant, such as a matcher of a permission, one that
// is passed over would make a rule mean more than was asked for. No text at all
// counts as null.
func decodeStrictly(text []byte, out any) error {
	if len(text) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(out); err != nil {
		return fmt.Errorf("it cannot be read whole: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows after its end")
	}
	return nil
}

// decodeSpelled is decodeStrictly for text that people write: path_prefix and
// PathPrefix are the same key.
func decodeSpelled(text string, out any) error {
	var v any
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil {
		return fmt.Errorf("it is not JSON: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows after its end")
	}
	v, err := plainKeys(v)
	if err != nil {
		return err
	}
	content, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("it cannot be written as JSON: %w", err)
	}
	return decodeStrictly(content, out)
}

func plainKeys(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case []any:
		for i := range v {
			if v[i], err = plainKeys(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		plained := make(map[string]any, len(v))
		for key, value := range v {
			name := plain(key)
			if _, twice := plained[name]; twice {
				return nil, fmt.Errorf("%s is there twice", key)
			}
			if plained[name], err = plainKeys(value); err != nil {
				return nil, err
			}
		}
		return plained, nil
	}
	return v, nil
}

// sizes checks that a list and the texts in it are within bounds.
func sizes(what string, count, most int, texts ...string) error {
	if count > most {
		return fmt.Errorf("there are %d %s, at most %d are read", count, what, most)
	}
	for _, text := range texts {
		if len(text) > maxText {
			return fmt.Errorf("%s: a text of %d bytes, at most %d are read", what, len(text), maxText)
		}
	}
	return nil
}

// isToken reports whether text can be a field name or a method of HTTP (RFC
// 9110, 5.6.2).
func isToken(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

// isFieldValue reports whether text can be the value of a field: a line break
// in it would begin another field.
func isFieldValue(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return (r < ' ' && r != '\t') || r == 0x7f })
}
