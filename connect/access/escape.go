// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"encoding/binary"
	"unicode/utf8"
)

// maxValue bounds one value of a line, in bytes: callers choose how long their
// paths and header fields are.
const maxValue = 4 << 10

const hexDigits = "0123456789abcdef"

// escape cuts dst[at:] at limit bytes and escapes it in place: for JSON, or for
// text, where a backslash starts an escape. No control character is left, those
// of C1 and the separators of Unicode among them: neither a line nor a terminal
// can be made to show what was not logged.
func escape(dst []byte, at, limit int, inJSON bool) []byte {
	cut := false
	if len(dst)-at > limit {
		cut = limit == maxValue
		end := at + limit
		for end > at && end > at+limit-utf8.UTFMax && !utf8.RuneStart(dst[end]) {
			end--
		}
		dst = dst[:end]
	}
	if !clean(dst[at:]) {
		dst = rewrite(dst, at, inJSON)
	}
	if cut {
		dst = append(dst, "…"...)
	}
	return dst
}

// clean reports whether nothing has to be escaped.
func clean(text []byte) bool {
	rest := text
	for ; len(rest) >= 8; rest = rest[8:] {
		if odd(binary.LittleEndian.Uint64(rest)) {
			return cleanRunes(text)
		}
	}
	for _, c := range rest {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			return cleanRunes(text)
		}
	}
	return true
}

// odd reports whether any of eight bytes is a control character, a quote, a
// backslash or not of ASCII. A byte is zero exactly when taking one from it borrows
// although its highest bit was not set; below the first such byte nothing borrows.
func odd(eight uint64) bool {
	const each, high = 0x0101010101010101, 0x8080808080808080
	quote, backslash, del := eight^each*'"', eight^each*'\\', eight^each*0x7f
	return (eight|
		(eight-each*' ')&^eight|
		(quote-each)&^quote|
		(backslash-each)&^backslash|
		(del-each)&^del)&high != 0
}

// cleanRunes is clean for text of any characters.
func cleanRunes(text []byte) bool {
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		if r < ' ' || r == 0x7f || r == '"' || r == '\\' || r == utf8.RuneError && size == 1 || special(r) {
			return false
		}
		text = text[size:]
	}
	return true
}

// special are the characters beyond ASCII that move the cursor, end lines or turn
// the direction of what follows.
func special(r rune) bool {
	return 0x80 <= r && r < 0xa0 || r == 0x2028 || r == 0x2029 || 0x202a <= r && r <= 0x202e || 0x2066 <= r && r <= 0x2069
}

// rewrite escapes dst[at:], which need not be valid UTF-8.
func rewrite(dst []byte, at int, inJSON bool) []byte {
	var room [maxValue]byte
	text := append(room[:0], dst[at:]...)
	dst = dst[:at]
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(dst, "\ufffd"...)
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, '\\', 'n')
		case r == '\r':
			dst = append(dst, '\\', 'r')
		case r == '\t':
			dst = append(dst, '\\', 't')
		case (r < ' ' || r == 0x7f) && !inJSON:
			dst = append(dst, '\\', 'x', hexDigits[r>>4], hexDigits[r&15])
		case r < ' ' || r == 0x7f || special(r):
			dst = append(dst, '\\', 'u', hexDigits[r>>12], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
		default:
			dst = append(dst, text[:size]...)
		}
		text = text[size:]
	}
	return dst
}
