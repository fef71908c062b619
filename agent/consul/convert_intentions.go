// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

type wireIntention struct {
	SourcePeer          string
	SourcePartition     string
	SourceNS            string
	SourceName          string
	SourceSamenessGroup string
	SourceType          string
	DestinationNS       string
	DestinationName     string
	Action              string
	Permissions         []json.RawMessage // each a wirePermission, read strictly
	JWT                 json.RawMessage   // a wireJWT, read strictly
	Precedence          int
}

type wirePermission struct {
	Action string
	HTTP   *wirePermissionMatch
	JWT    *wireJWT
}

type wireJWT struct {
	Providers []struct {
		Name         string
		VerifyClaims []struct {
			Path  []string
			Value string
		}
	}
}

// convertIntentions makes rules of what Consul says matches a destination.
//
// Anything that cannot be understood refuses the whole list. Leaving one rule
// out would not do: it may be the deny that stands before a broader allow, and
// an allow that is read as deny would hide that something is wrong. The rules
// in force stay in force; before the first good list there is no listener. That
// holds for keys of a permission and of a JWT requirement that a later Consul
// may send, too: without a matcher it does not know, a permission would match
// more than was meant.
func convertIntentions(destination string, list []wireIntention) ([]connect.Intention, error) {
	rules, err := convertRules(destination, list)
	if err != nil {
		return nil, err
	}
	return connect.SortIntentions(rules), nil
}

// convertRules is convertIntentions with every rule, in the order of the list.
func convertRules(destination string, list []wireIntention) ([]connect.Intention, error) {
	if err := sizes("intentions", len(list), maxRules); err != nil {
		return nil, err
	}
	rules := make([]connect.Intention, 0, len(list))
	for i, w := range list {
		rule, err := convertIntention(destination, w)
		if err != nil {
			return nil, fmt.Errorf("intention %d, %q → %q: %w", i+1, w.SourceName, w.DestinationName, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

func convertIntention(destination string, w wireIntention) (connect.Intention, error) {
	rule := connect.Intention{
		Source: connect.Source{
			Peer:      w.SourcePeer,
			Partition: strings.ToLower(orDefault(w.SourcePartition)),
			Namespace: orDefault(w.SourceNS),
			Name:      w.SourceName,
		},
		Destination: w.DestinationName,
		Namespace:   orDefault(w.DestinationNS),
		Precedence:  w.Precedence,
	}
	switch {
	case w.SourceName == "":
		return rule, errors.New("it names no source")
	case w.SourceSamenessGroup != "":
		return rule, fmt.Errorf("sources of sameness group %q cannot be told apart by this proxy", w.SourceSamenessGroup)
	case w.SourceType != "" && w.SourceType != "consul":
		return rule, fmt.Errorf("source type %q is not known", w.SourceType)
	case w.DestinationName != destination && w.DestinationName != connect.Wildcard:
		return rule, fmt.Errorf("it is about another destination than %q", destination)
	case w.Precedence < 1 || w.Precedence > 9:
		return rule, fmt.Errorf("precedence is %d, want 1 to 9", w.Precedence)
	}
	var token *wireJWT
	err := decodeStrictly(w.JWT, &token)
	if err == nil {
		rule.JWT, err = convertJWT(token)
	}
	if err != nil {
		return rule, fmt.Errorf("JWT: %w", err)
	}
	if len(w.Permissions) == 0 {
		rule.Action, err = connect.ParseAction(w.Action)
		return rule, err
	}
	if w.Action != "" {
		return rule, errors.New("it has an action and permissions, of which Consul allows only one")
	}
	rule.Permissions, err = convertPermissions(w.Permissions)
	return rule, err
}

func convertPermissions(list []json.RawMessage) ([]connect.Permission, error) {
	if err := sizes("permissions", len(list), maxRules); err != nil {
		return nil, err
	}
	permissions := make([]connect.Permission, len(list))
	for i, text := range list {
		var w wirePermission
		err := decodeStrictly(text, &w)
		if err == nil {
			permissions[i], err = w.convert()
		}
		if err != nil {
			return nil, fmt.Errorf("permission %d: %w", i+1, err)
		}
	}
	return permissions, nil
}

func (w wirePermission) convert() (connect.Permission, error) {
	var p connect.Permission
	var err error
	if p.Action, err = connect.ParseAction(w.Action); err != nil {
		return p, err
	}
	if w.HTTP != nil {
		if p.HTTP, err = w.HTTP.convert(); err != nil {
			return p, fmt.Errorf("HTTP: %w", err)
		}
	}
	if p.JWT, err = convertJWT(w.JWT); err != nil {
		return p, fmt.Errorf("JWT: %w", err)
	}
	return p, nil
}

// convertJWT keeps that a token is asked for even when no provider is named:
// such a requirement cannot be met, and whoever evaluates it denies.
func convertJWT(w *wireJWT) (*connect.JWTRequirement, error) {
	if w == nil {
		return nil, nil
	}
	if err := sizes("providers", len(w.Providers), maxMatchers); err != nil {
		return nil, err
	}
	r := &connect.JWTRequirement{}
	for _, p := range w.Providers {
		if p.Name == "" {
			return nil, errors.New("a provider has no name")
		}
		if err := sizes("claims", len(p.VerifyClaims), maxMatchers, p.Name); err != nil {
			return nil, err
		}
		claims := connect.JWTClaims{Provider: p.Name}
		for _, c := range p.VerifyClaims {
			if len(c.Path) == 0 {
				return nil, fmt.Errorf("provider %q: a claim has no path", p.Name)
			}
			if err := sizes("parts of a claim's path", len(c.Path), maxMatchers, append(slices.Clip(c.Path), c.Value)...); err != nil {
				return nil, fmt.Errorf("provider %q: %w", p.Name, err)
			}
			claims.Claims = append(claims.Claims, connect.JWTClaim{Path: c.Path, Value: c.Value})
		}
		r.Providers = append(r.Providers, claims)
	}
	return r, nil
}

func orDefault(name string) string {
	if name == "" {
		return connect.DefaultName
	}
	return name
}
