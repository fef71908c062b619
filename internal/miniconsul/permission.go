// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import "reflect"

// A permission is one L7 part of an intention, in the order of evaluation.
type permission struct {
	Action string
	HTTP   *httpPermission `json:",omitempty"`
	JWT    *jwtRequirement `json:",omitempty"`
}

type httpPermission struct {
	PathExact  string             `json:",omitempty"`
	PathPrefix string             `json:",omitempty"`
	PathRegex  string             `json:",omitempty"`
	Header     []headerPermission `json:",omitempty"`
	Methods    []string           `json:",omitempty"`
}

type headerPermission struct {
	Name       string
	Present    bool   `json:",omitempty"`
	Exact      string `json:",omitempty"`
	Prefix     string `json:",omitempty"`
	Suffix     string `json:",omitempty"`
	Contains   string `json:",omitempty"`
	Regex      string `json:",omitempty"`
	Invert     bool   `json:",omitempty"`
	IgnoreCase bool   `json:",omitempty"`
}

// validate returns the end of a sentence that begins with the permission.
func (p *permission) validate() error {
	if p.Action != "allow" && p.Action != "deny" {
		return refuse(".Action must be set to 'allow' or 'deny'")
	}
	if p.HTTP == nil {
		return refuse(".HTTP is required")
	}
	if reflect.ValueOf(*p.HTTP).IsZero() {
		return refuse(".HTTP should not be empty")
	}
	return p.HTTP.validate()
}

func (m *httpPermission) validate() error {
	if count(m.PathExact, m.PathPrefix, m.PathRegex) > 1 {
		return refuse(".HTTP should only contain at most one of PathExact, PathPrefix, or PathRegex")
	}
	for name, path := range map[string]string{"PathExact": m.PathExact, "PathPrefix": m.PathPrefix} {
		if err := checkPath(".HTTP."+name, path); err != nil {
			return err
		}
	}
	for i, h := range m.Header {
		if h.Name == "" {
			return refuse(".HTTP.Header[%d] missing required Name field", i)
		}
		if count(word(h.Present), h.Exact, h.Prefix, h.Suffix, h.Contains, h.Regex) != 1 {
			return refuse(".HTTP.Header[%d] should only contain one of Present, Exact, Prefix, Suffix, Contains, or Regex", i)
		}
		if h.IgnoreCase && (h.Present || h.Regex != "") {
			return refuse(".HTTP.Header[%d] should set one of Exact, Prefix, Suffix, or Contains when using IgnoreCase", i)
		}
	}
	return checkMethods(".HTTP.", m.Methods)
}
