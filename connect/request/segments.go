// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"bytes"
	"strings"
)

// canonicalBytes gives every character of a path, all of whose escapes are
// valid, the one spelling it has: unreserved ones are not escaped, those that no
// path may hold are, and a backslash is a slash.
func canonicalBytes(path string) string {
	if isCanonical(path) {
		return path
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(path) + 8)
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '%':
			// What is decoded is never a percent sign, so nothing that comes out
			// of here is an escape that was not one before.
			if plain, ok := unhex(path[i:]); ok && unreserved(plain) {
				b.WriteByte(plain)
			} else {
				b.WriteString(path[i : i+3])
			}
			i += 2
		case c == '\\':
			b.WriteByte('/')
		case mustEscape(c):
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

func isCanonical(path string) bool {
	for i := range len(path) {
		if c := path[i]; c == '%' || c == '\\' || mustEscape(c) {
			return false
		}
	}
	return true
}

// unreserved are the characters whose escapes mean the same as themselves (RFC
// 3986, 2.3).
func unreserved(c byte) bool {
	return 'a' <= lower(c) && lower(c) <= 'z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// mustEscape are the characters that a path may hold only escaped (RFC 3986,
// 3.3).
func mustEscape(c byte) bool {
	return c >= 0x7f || strings.IndexByte("\"<>^`{|}", c) >= 0
}

// hasDotSegment reports whether a segment of the path is "." or "..".
func hasDotSegment(path string) bool {
	if !strings.Contains(path, "/.") {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

// removeDotSegments resolves "." and ".." of a path that starts with a slash
// (RFC 3986, 5.2.4). Empty segments count: ".." goes up over one.
func removeDotSegments(path string) string {
	if !hasDotSegment(path) {
		return path
	}
	out := make([]byte, 0, len(path))
	rest := path
	for rest != "" {
		// rest starts with the slash of the next segment.
		segment, next := rest, ""
		if i := strings.IndexByte(rest[1:], '/'); i >= 0 {
			segment, next = rest[:i+1], rest[i+1:]
		}
		switch segment {
		case "/.":
		case "/..":
			out = out[:max(0, bytes.LastIndexByte(out, '/'))]
		default:
			out = append(out, segment...)
		}
		// A dot segment at the end leaves its slash: "/a/.." is "/".
		if next == "" && (segment == "/." || segment == "/..") {
			out = append(out, '/')
		}
		rest = next
	}
	return string(out)
}

func mergeSlashes(path string) string {
	if !strings.Contains(path, "//") {
		return path
	}
	out := make([]byte, 0, len(path))
	for i := range len(path) {
		if path[i] == '/' && i > 0 && path[i-1] == '/' {
			continue
		}
		out = append(out, path[i])
	}
	return string(out)
}
