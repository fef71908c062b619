// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package ledger

import "strings"

// Bounds of the form of one path.
const (
	maxSegments = 12
	maxForm     = 160 // bytes
	maxName     = 48  // bytes of a segment that is taken for a name
)

const idForm = "{id}"

// appendForm appends the form of a path: segments that stand for one thing of
// many (numbers, UUIDs, hexadecimal, long and random ones, addresses of people)
// become {id}, and what is too deep or too long becomes /**. It allocates
// nothing while dst has room.
func appendForm(dst []byte, path string) []byte {
	if path == "" || path[0] != '/' {
		return append(dst, path[:min(len(path), 1)]...) // "*" of OPTIONS, or nothing
	}
	length, copied := 0, 0
	for n, at := 0, 0; at < len(path); n++ {
		end, id := segment(path, at+1)
		size := end - at
		if id {
			size = 1 + len(idForm)
		}
		if n == maxSegments || length+size > maxForm {
			return append(append(dst, path[copied:at]...), anyPath...)
		}
		if id {
			dst = append(append(dst, path[copied:at+1]...), idForm...)
			copied = end
		}
		length += size
		at = end
	}
	return append(dst, path[copied:]...)
}

// segment returns where the segment that begins at from ends, and whether it
// stands for one thing of many. In doubt it does: what stays is kept on disk and
// shown, and may not be a secret.
func segment(path string, from int) (end int, id bool) {
	end = from
	for end < len(path) && path[end]-'a' < 26 {
		end++
	}
	if end == len(path) || path[end] == '/' {
		return end, end-from > maxName // a word, or nothing
	}
	for end < len(path) && path[end] != '/' {
		end++
	}
	return end, end-from > maxName || isOdd(path[from:end])
}

// isOdd is for segments that are no word.
func isOdd(s string) bool {
	number := 0
	for number < len(s) && s[number]-'0' < 10 {
		number++
	}
	if number == len(s) || s == idForm || s == "**" {
		return true
	}
	var digits, lower, upper, hex, marks int
	for i := range len(s) {
		switch b := s[i]; {
		case b >= '0' && b <= '9':
			digits++
			hex++
		case b >= 'a' && b <= 'z':
			lower++
			if b <= 'f' {
				hex++
			}
		case b >= 'A' && b <= 'Z':
			upper++
			if b <= 'F' {
				hex++
			}
		case b == '@':
			return true
		case b == '-':
			hex++ // UUIDs
			marks++
		case b == '%', b == '=':
			marks += 2
		case b >= 0x80 || b < ' ':
			return true
		}
	}
	letters := lower + upper
	return digits >= 6 || // one with something around it
		(hex == len(s) && len(s) >= 8 && digits > 0) || // hexadecimal, a UUID
		(digits >= 2 && letters+digits >= 20) || // random
		(digits > 0 && lower > 0 && upper > 2 && len(s) >= 12) || // random in base64
		(len(s) >= 16 && marks < 2 && lower > 0 && upper > 4) || // random without a digit
		marks >= 6
}

// sample makes up a path of the form of path, which has {id}: each letter and
// digit of those segments is replaced.
func sample(path, form string) string {
	stem, open := strings.CutSuffix(form, anyPath)
	segments, parts := strings.Split(path, "/"), strings.Split(stem, "/")
	for i, part := range parts {
		if part == idForm && i < len(segments) {
			parts[i] = masked(segments[i])
		}
	}
	if open {
		parts = append(parts, "x")
	}
	return strings.Join(parts, "/")
}

// masked keeps the shape of a segment and nothing else. A long one is cut.
func masked(segment string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9':
			return '1'
		case r >= 'a' && r <= 'z':
			return 'a'
		case r >= 'A' && r <= 'Z':
			return 'A'
		case strings.ContainsRune("-_.~@", r):
			return r
		}
		return 'x'
	}, segment[:min(len(segment), maxName)])
}
