// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/mtls"
)

// A mesh gateway of our own cluster ends TLS for callers of peers, since it
// routes their requests, and says in x-forwarded-client-cert whose certificate it
// has verified (Consul, cluster peering: L7 traffic). This file is where that is
// believed: from such a gateway only, and only for callers of peers.

var errNotVouched = errors.New("a mesh gateway vouches for a caller of a peer in x-forwarded-client-cert, which has to be there once")

// vouchedBy returns the caller of a peer that a gateway names. The gateway
// replaces what the caller sent, so that anything but one element, made by that
// gateway, was not made by it alone and is refused. So is a caller of our own
// trust domain: those prove themselves.
func vouchedBy(g connect.Gateway, callers mtls.Callers, h connect.Header) (connect.Identity, error) {
	values := h[xfcc]
	if len(values) != 1 {
		return connect.Identity{}, errNotVouched
	}
	element, err := parseVouch(values[0])
	if err != nil {
		return connect.Identity{}, fmt.Errorf("x-forwarded-client-cert of the mesh gateway: %w", err)
	}
	by, err := parseURI(element.by, connect.ParseGateway)
	if err != nil {
		return connect.Identity{}, fmt.Errorf("x-forwarded-client-cert of the mesh gateway: By: %w", err)
	}
	if by != g {
		return connect.Identity{}, fmt.Errorf("x-forwarded-client-cert was made by %q and not by the gateway that sends it, %q", by, g)
	}
	id, err := parseURI(element.uri, connect.ParseIdentity)
	if err != nil {
		return connect.Identity{}, fmt.Errorf("x-forwarded-client-cert of the mesh gateway: URI: %w", err)
	}
	return ofPeer(id, callers)
}

// ofPeer finds the one peer that an identity can be of. There is no chain to
// tell two of one trust domain apart.
func ofPeer(id connect.Identity, callers mtls.Callers) (connect.Identity, error) {
	if id.TrustDomain == callers.Own.TrustDomain {
		return connect.Identity{}, fmt.Errorf("the mesh gateway vouches for %q, which is of our own trust domain and has to prove itself", id)
	}
	for _, p := range callers.Peers {
		if !p.Proves() || p.Bundle.TrustDomain != id.TrustDomain || p.Partition != id.Partition {
			continue
		}
		if id.Peer != "" {
			return connect.Identity{}, fmt.Errorf("%q may be of peer %q or of peer %q, which have one trust domain", id, id.Peer, p.Name)
		}
		id.Peer = p.Name
	}
	if id.Peer == "" {
		return connect.Identity{}, fmt.Errorf("the mesh gateway vouches for %q, which is of no peer whose roots are known", id)
	}
	return id, nil
}

func parseURI[T any](text string, parse func(*url.URL) (T, error)) (T, error) {
	u, err := url.Parse(text)
	if err != nil {
		var none T
		return none, fmt.Errorf("it is not a URI: %w", errors.Unwrap(err)) // without the text
	}
	return parse(u)
}

// vouch is what one element of x-forwarded-client-cert says that counts here.
type vouch struct{ by, uri string }

// parseVouch reads a header that must hold exactly one element (Envoy,
// x-forwarded-client-cert: pairs KEY=VALUE, separated by semicolons; a value
// that holds a comma, a semicolon or an equals sign is in double quotes, in
// which a backslash escapes). By and URI must be there once each. What may be
// read in two ways is refused.
func parseVouch(text string) (vouch, error) {
	var v vouch
	for rest := text; ; {
		key, value, more, after, err := nextPair(rest)
		if err != nil {
			return vouch{}, err
		}
		var into *string
		switch strings.ToLower(key) {
		case "by":
			into = &v.by
		case "uri":
			into = &v.uri
		case "hash", "cert", "chain", "subject", "dns":
		default:
			return vouch{}, fmt.Errorf("key %.40q is not known", key)
		}
		if into != nil {
			if *into != "" || value == "" {
				return vouch{}, fmt.Errorf("%s is empty or there twice", strings.ToLower(key))
			}
			*into = value
		}
		if !more {
			break
		}
		rest = after
	}
	if v.by == "" || v.uri == "" {
		return vouch{}, errors.New("it names no caller, or not who has verified it")
	}
	return v, nil
}

var (
	errTwoElements = errors.New("it has more than one element")
	errMalformed   = errors.New("it is malformed")
)

// nextPair cuts one pair off, and says whether another follows.
func nextPair(text string) (key, value string, more bool, after string, err error) {
	key, rest, ok := strings.Cut(text, "=")
	if !ok || key == "" || strings.ContainsAny(key, `,;" `) {
		return "", "", false, "", errMalformed
	}
	var end int
	if strings.HasPrefix(rest, `"`) {
		if value, end, ok = unquote(rest); !ok {
			return "", "", false, "", errMalformed
		}
	} else {
		if end = strings.IndexAny(rest, ",;"); end < 0 {
			end = len(rest)
		}
		if value = rest[:end]; strings.ContainsAny(value, `="\ `) {
			return "", "", false, "", errMalformed
		}
	}
	switch {
	case end == len(rest):
		return key, value, false, "", nil
	case rest[end] == ',':
		return "", "", false, "", errTwoElements
	case rest[end] != ';':
		return "", "", false, "", errMalformed
	}
	return key, value, true, rest[end+1:], nil
}

// unquote reads the quoted string that text begins with and returns where it
// ends.
func unquote(text string) (value string, end int, ok bool) {
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			return b.String(), i + 1, true
		case '\\':
			if i++; i == len(text) {
				return "", 0, false
			}
		}
		b.WriteByte(text[i])
	}
	return "", 0, false
}
