// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"cmp"
	"fmt"
	"slices"
)

// Wildcard matches any name in an intention.
const Wildcard = "*"

// An Action is what an intention does. The zero Action denies.
type Action uint8

// The two actions.
const (
	Deny Action = iota
	Allow
)

// ParseAction reads "allow" or "deny".
func ParseAction(s string) (Action, error) {
	switch s {
	case "allow":
		return Allow, nil
	case "deny":
		return Deny, nil
	}
	return Deny, fmt.Errorf("action is %q, want allow or deny", s)
}

// String returns "allow" or "deny".
func (a Action) String() string {
	if a == Allow {
		return "allow"
	}
	return "deny"
}

// MarshalText makes an Action readable in dumps.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what MarshalText has written.
func (a *Action) UnmarshalText(text []byte) (err error) {
	*a, err = ParseAction(string(text))
	return err
}

// A Source is who an intention speaks of. Name and Namespace may be [Wildcard];
// a wildcard never reaches into another peer or partition (Consul, service
// intentions: precedence and match order).
type Source struct {
	Peer      string // "" means local
	Partition string
	Namespace string
	Name      string
}

// Covers reports whether an identity is meant by s. A source of a peer says
// nothing of a partition: a peer exports the services of one, and who proves
// identities of the peer knows which.
func (s Source) Covers(id Identity) bool {
	return s.Peer == id.Peer && (s.Peer != "" || s.Partition == id.Partition) &&
		(s.Namespace == Wildcard || s.Namespace == id.Namespace) &&
		(s.Name == Wildcard || s.Name == id.Service)
}

// An Intention is one rule on who may call a destination.
type Intention struct {
	Source      Source
	Destination string // service name or "*", for people
	Namespace   string // of the destination
	Precedence  int    // 9 most specific … 1; Consul's numbers
	Action      Action // meaningless when Permissions are present
	Permissions []Permission
	JWT         *JWTRequirement // nil when the intention asks for no token
}

// A Permission is one L7 part of an intention, in listed order. The first whose
// HTTP part matches decides; when its JWT is not met, the default policy does.
type Permission struct {
	Action Action
	HTTP   RequestMatch    // zero means every request; it has no Query
	JWT    *JWTRequirement // nil when no token is asked for
}

// String returns the rule as a person would name it: "web → api".
func (i Intention) String() string {
	src := i.Source.Name
	if i.Source.Peer != "" {
		src = i.Source.Peer + "/" + src
	}
	return src + " → " + i.Destination
}

// SortIntentions orders intentions as they are evaluated, highest precedence
// first, and drops the later ones of an equal source: only the most specific
// destination counts for one source. The slice is sorted in place; the result
// shares its memory.
func SortIntentions(intentions []Intention) []Intention {
	slices.SortStableFunc(intentions, func(a, b Intention) int {
		return cmp.Or(
			cmp.Compare(b.Precedence, a.Precedence),
			cmp.Compare(a.Source.Peer, b.Source.Peer),
			cmp.Compare(a.Source.Partition, b.Source.Partition),
			cmp.Compare(a.Source.Namespace, b.Source.Namespace),
			cmp.Compare(a.Source.Name, b.Source.Name),
			cmp.Compare(a.Namespace, b.Namespace),
			cmp.Compare(a.Destination, b.Destination),
		)
	})
	seen := make(map[Source]bool, len(intentions))
	return slices.DeleteFunc(intentions, func(i Intention) bool {
		if seen[i.Source] {
			return true
		}
		seen[i.Source] = true
		return false
	})
}
