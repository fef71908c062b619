// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jwt

import (
	"errors"
	"fmt"
	"net/textproto"
	"net/url"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// A location is one place where a token may be. Header is canonical.
type location struct{ connect.TokenLocation }

// compileLocations returns the places to search, in order; none given means
// the places that Consul documents.
func compileLocations(list []connect.TokenLocation) ([]location, error) {
	if len(list) == 0 {
		list = []connect.TokenLocation{
			{Header: "Authorization", ValuePrefix: "Bearer "},
			{Query: "access_token"},
		}
	}
	out := make([]location, len(list))
	for i, l := range list {
		named := 0
		for _, name := range []string{l.Header, l.Query, l.Cookie} {
			if name != "" {
				named++
			}
		}
		if named != 1 {
			return nil, fmt.Errorf("token location %d: want exactly one of header, query parameter and cookie", i+1)
		}
		l.Header = textproto.CanonicalMIMEHeaderKey(l.Header)
		out[i] = location{l}
	}
	return out, nil
}

// String names the location for errors.
func (l *location) String() string {
	switch {
	case l.Header != "":
		return "header " + l.Header
	case l.Query != "":
		return "query parameter " + l.Query
	}
	return "cookie " + l.Cookie
}

// find returns the token of the first location that holds one. It refuses a
// location that may be read in several ways.
func (v *Verifier) find(h *connect.Head) (string, *location, error) {
	for i := range v.locations {
		at := &v.locations[i]
		token, count := at.read(h)
		switch {
		case count > 1:
			return "", nil, fmt.Errorf("%s has %d values, want one token", at, count)
		case token != "":
			return token, at, nil
		}
	}
	return "", nil, errors.New("no token found")
}

// read returns the token at l, "" for none, and how many values there are when
// any of them looks like a token.
func (l *location) read(h *connect.Head) (token string, count int) {
	switch {
	case l.Header != "":
		return l.readHeader(h.Header[l.Header])
	case l.Query != "":
		return l.readQuery(h.Query())
	}
	return l.readCookies(h.Header["Cookie"])
}

// readHeader takes a value as a token when it starts with the prefix, letter by
// letter, as Envoy does.
func (l *location) readHeader(values []string) (token string, count int) {
	for _, value := range values {
		rest, ok := strings.CutPrefix(value, l.ValuePrefix)
		if rest = strings.Trim(rest, " \t"); ok && rest != "" {
			token = rest
		}
	}
	if token == "" {
		return "", 0
	}
	return token, len(values)
}

func (l *location) readQuery(query string) (token string, count int) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if value, ok := l.parameter(pair); ok {
			count++
			token = value
		}
	}
	return token, count
}

// parameter returns the value of one pair of a query when it is this one. What
// cannot be unescaped stays as it is, and is no token then.
func (l *location) parameter(pair string) (string, bool) {
	name, value, _ := strings.Cut(pair, "=")
	if name != l.Query {
		plain, err := url.QueryUnescape(name)
		if err != nil || plain != l.Query {
			return "", false
		}
	}
	if plain, err := url.QueryUnescape(value); err == nil {
		value = plain
	}
	return value, true
}

func (l *location) readCookies(fields []string) (token string, count int) {
	for _, field := range fields {
		for field != "" {
			var pair string
			pair, field, _ = strings.Cut(field, ";")
			name, value, _ := strings.Cut(pair, "=")
			if strings.Trim(name, " \t") != l.Cookie {
				continue
			}
			count++
			token = strings.Trim(value, " \t")
			if n := len(token); n >= 2 && token[0] == '"' && token[n-1] == '"' {
				token = token[1 : n-1]
			}
		}
	}
	return token, count
}

// remove takes the token out of h, unless it is to be kept. A cookie stays, as
// with Envoy.
func (l *location) remove(h *connect.Head) {
	switch {
	case l.Keep:
	case l.Header != "":
		delete(h.Header, l.Header)
	case l.Query != "":
		h.Path = l.strip(h.Path)
	}
}

// strip returns a path without the parameter; all else keeps its spelling.
func (l *location) strip(path string) string {
	path, query, ok := strings.Cut(path, "?")
	if !ok {
		return path
	}
	var kept []string
	for pair := range strings.SplitSeq(query, "&") {
		if _, ours := l.parameter(pair); !ours {
			kept = append(kept, pair)
		}
	}
	if len(kept) == 0 {
		return path
	}
	return path + "?" + strings.Join(kept, "&")
}
