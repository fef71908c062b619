// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwks

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

var (
	errNoKeys = errors.New("it holds no public key")
	errTooBig = fmt.Errorf("it is larger than %d bytes", maxKeys)
)

// secret reports whether a member of a JSON Web Key is not for everybody's eyes
// (RFC 7518, 6.2.2, 6.3.2 and 6.4.1; RFC 8037, 2).
func secret(member string) bool {
	switch strings.ToLower(member) {
	case "d", "p", "q", "dp", "dq", "qi", "oth", "k":
		return true
	}
	return false
}

// publicKeys reads a JSON Web Key Set (RFC 7517) and writes it again without
// symmetric keys and without the private part of others: what is published ends
// up in status and dumps, and neither is of use for checking a signature that
// only the issuer can make. An error means that no key is left, or that it is no
// key set; it quotes nothing of the content.
func publicKeys(body []byte) (string, error) {
	if len(body) > maxKeys {
		return "", errTooBig
	}
	var set struct {
		Keys []map[string]json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return "", fmt.Errorf("it is no JSON Web Key Set: %w", plain(err))
	}
	public := make([]map[string]json.RawMessage, 0, len(set.Keys))
	for i, key := range set.Keys {
		var kind string
		if json.Unmarshal(key["kty"], &kind) != nil || kind == "" {
			return "", fmt.Errorf("key %d of it has no type (kty)", i+1)
		}
		if kind == "oct" {
			continue
		}
		clean := make(map[string]json.RawMessage, len(key))
		for member, value := range key {
			if !secret(member) {
				clean[member] = value
			}
		}
		public = append(public, clean)
	}
	if len(public) == 0 {
		return "", errNoKeys
	}
	out, err := json.Marshal(map[string]any{"keys": public})
	if err != nil {
		return "", fmt.Errorf("write the key set again: %w", err)
	}
	return string(out), nil
}

// plain says what is wrong with JSON without what it says.
func plain(err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("JSON breaks off or goes wrong after %d bytes", syntax.Offset)
	}
	if typ, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("a %s stands where none belongs, at byte %d", typ.Value, typ.Offset)
	}
	return err
}
