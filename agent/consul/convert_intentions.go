// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"errors"
	"fmt"
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
	Permissions         []wirePermission
	JWT                 *wireJWT
	Precedence          int
}

type wirePermission struct {
	Action string
	JWT    *wireJWT
}

type wireJWT struct {
	Providers []struct{ Name string }
}

// convertIntentions makes rules of what Consul says matches a destination.
//
// Anything that cannot be understood refuses the whole list. Leaving one rule
// out would not do: it may be the deny that stands before a broader allow, and
// an allow that is read as deny would hide that something is wrong. The rules
// in force stay in force; before the first good list there is no listener.
func convertIntentions(destination string, list []wireIntention) ([]connect.Intention, error) {
	rules := make([]connect.Intention, 0, len(list))
	for i, w := range list {
		rule, err := convertIntention(destination, w)
		if err != nil {
			return nil, fmt.Errorf("intention %d, %q → %q: %w", i+1, w.SourceName, w.DestinationName, err)
		}
		rules = append(rules, rule)
	}
	return connect.SortIntentions(rules), nil
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
	rule.JWT = convertJWT(w.JWT)
	if len(w.Permissions) == 0 {
		action, err := connect.ParseAction(w.Action)
		rule.Action = action
		return rule, err
	}
	if w.Action != "" {
		return rule, errors.New("it has an action and permissions, of which Consul allows only one")
	}
	for i, p := range w.Permissions {
		action, err := connect.ParseAction(p.Action)
		if err != nil {
			return rule, fmt.Errorf("permission %d: %w", i+1, err)
		}
		rule.Permissions = append(rule.Permissions, connect.Permission{Action: action, JWT: convertJWT(p.JWT)})
	}
	return rule, nil
}

// convertJWT keeps that a token is asked for even when no provider is named:
// such a requirement cannot be met, and whoever evaluates it denies.
func convertJWT(w *wireJWT) *connect.JWTRequirement {
	if w == nil {
		return nil
	}
	r := &connect.JWTRequirement{}
	for _, p := range w.Providers {
		r.Providers = append(r.Providers, connect.JWTClaims{Provider: p.Name})
	}
	return r
}

func orDefault(name string) string {
	if name == "" {
		return connect.DefaultName
	}
	return name
}
