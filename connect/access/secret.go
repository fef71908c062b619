// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"net/url"
	"strings"
)

// redacted stands for a value that must not be in a log.
const redacted = "[redacted]"

// secretsOf are names in the form in which Secret compares them.
func secretsOf(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, n := range names {
		out[strings.ToLower(n)] = true
	}
	return out
}

// Secret reports whether header fields and query parameters of a name hold
// tokens, passwords or cookies, by what names commonly mean. It would rather say
// so too often.
func Secret(name string) bool {
	name = strings.ToLower(name)
	for _, word := range [...]string{
		"authorization", "cookie", "token", "secret", "passw", "api-key", "apikey", "api_key", "credential", "session", "signature", "jwt", "client-cert", "x-auth", "access-key", "private-key",
	} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

func (p *parser) secret(name string) bool { return Secret(name) || p.secrets[strings.ToLower(name)] }

// secretParameter knows words besides that are ordinary in names of header
// fields.
func (p *parser) secretParameter(name string) bool {
	if strings.ContainsAny(name, "%+") {
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
	}
	switch strings.ToLower(name) {
	case "key", "sig", "code", "auth", "pwd", "pass", "assertion":
		return true
	}
	return p.secret(name)
}

// target appends a path or URL without the values of parameters that are secret,
// or without its query.
func (p *parser) target(dst []byte, text string, query bool) []byte {
	path, rest, found := strings.Cut(text, "?")
	dst = append(dst, path...)
	if !found || !query {
		return dst
	}
	dst = append(dst, '?')
	for {
		// Some applications take a semicolon for a separator as well.
		end := strings.IndexAny(rest, "&;")
		pair := rest
		if end >= 0 {
			pair = rest[:end]
		}
		if name, _, hasValue := strings.Cut(pair, "="); hasValue && p.secretParameter(name) {
			dst = append(append(append(dst, name...), '='), redacted...)
		} else {
			dst = append(dst, pair...)
		}
		if end < 0 {
			return dst
		}
		dst = append(dst, rest[end])
		rest = rest[end+1:]
	}
}

// parameter finds the first value of a query parameter.
func parameter(path, name string) (string, bool) {
	_, query, _ := strings.Cut(path, "?")
	for pair := range strings.SplitSeq(query, "&") {
		if key, value, _ := strings.Cut(pair, "="); key == name {
			return value, true
		}
	}
	return "", false
}

// isTarget reports whether a header field holds a URL.
func isTarget(canonical string) bool {
	return canonical == "Referer" || canonical == "Location" || canonical == "Content-Location" || canonical == "X-Original-Url"
}
