// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"net/http"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// An Outcome says what becomes of a request after [Normalize].
type Outcome struct {
	Status   int    // 0 to go on, 400 to refuse it, 307 to redirect it
	Location string // where to, with 307: a path with its query
	Why      string // for people, with 400 and 307; it quotes nothing of the request
}

// Normalize brings a request into the one form that it is authorised, routed and
// forwarded in, and refuses what has none. It changes h in place: the path and,
// where fields with an underscore are dropped, the header. Doing it twice
// changes nothing more (Consul, mesh config entry: request_normalization).
//
// Whatever n says, a request is refused whose path does not start with a slash
// (but for "*" of OPTIONS), holds a blank or a control character, an escape that
// is none or an escaped NUL. A fragment is refused too: no request has one (RFC
// 9112, 3.2), proxies and applications disagree on whether it belongs to the
// path, and Envoy refuses it as well. Engines split the absolute form
// ("http://host/path") into authority and path before.
//
// Unless n keeps the path as it is, escapes of unreserved characters are decoded,
// backslashes become slashes, dot segments are resolved (RFC 3986, 5.2.4; "%2e"
// is a dot) and characters that must be escaped are. Then "..;" is a name like
// any other: path parameters are left to the application. The query is never
// touched.
func Normalize(n connect.Normalization, h *connect.Head) Outcome {
	if why := underscores(n.Underscores, h.Header); why != "" {
		return Outcome{Status: http.StatusBadRequest, Why: why}
	}
	if h.Path == "*" && h.Method == http.MethodOptions {
		return Outcome{}
	}
	if why := invalidPath(h.Path); why != "" {
		return Outcome{Status: http.StatusBadRequest, Why: why}
	}
	path, query := h.Path, ""
	if i := strings.IndexByte(path, '?'); i >= 0 {
		path, query = path[:i], path[i:]
	}
	escaped := hasEscapedSlash(path)
	if escaped && n.EscapedSlashes == connect.SlashReject {
		return Outcome{Status: http.StatusBadRequest, Why: "the path has an escaped slash, which the mesh config entry rejects"}
	}
	unescape := escaped && (n.EscapedSlashes == connect.SlashForward || n.EscapedSlashes == connect.SlashRedirect)
	if unescape {
		path = unescapeSlashes(path)
	}
	if !n.KeepPath {
		path = removeDotSegments(canonicalBytes(path))
	}
	// After the dots: "/a//../b" is "/a/b" either way then.
	if n.MergeSlashes {
		path = mergeSlashes(path)
	}
	if path != h.Path[:len(h.Path)-len(query)] {
		h.Path = path + query
	}
	if unescape && n.EscapedSlashes == connect.SlashRedirect {
		return Outcome{
			Status: http.StatusTemporaryRedirect, Location: location(h.Path),
			Why: "the path has an escaped slash, which the mesh config entry redirects",
		}
	}
	return Outcome{}
}

// location keeps a path that starts with two slashes from being read as another
// host (RFC 3986, 4.2).
func location(path string) string {
	if strings.HasPrefix(path, "//") {
		return "/." + path
	}
	return path
}

// invalidPath says why a path, with its query, has no normal form; "" for none.
func invalidPath(path string) string {
	if path == "" || path[0] != '/' {
		return "the path does not start with a slash"
	}
	if badByte(path) >= 0 {
		return "the path holds a blank or a control character"
	}
	if strings.IndexByte(path, '#') >= 0 {
		return "the path holds a fragment"
	}
	path, _, _ = strings.Cut(path, "?")
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			continue
		}
		switch c, ok := unhex(path[i:]); {
		case !ok:
			return "the path holds a percent sign that starts no escape"
		case c == 0:
			return "the path holds an escaped NUL"
		}
		i += 2
	}
	return ""
}

// badByte returns the position of the first blank or control character, -1 for
// none. They are what splits lines and tokens of HTTP/1.
func badByte(s string) int {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return i
		}
	}
	return -1
}

// underscores drops fields with an underscore in their name or says why the
// request is refused. Applications that turn field names into variables cannot
// tell "a_b" from "a-b".
func underscores(action connect.UnderscoreAction, header connect.Header) string {
	if action != connect.UnderscoreReject && action != connect.UnderscoreDrop {
		return ""
	}
	for name := range header {
		if !strings.Contains(name, "_") {
			continue
		}
		if action == connect.UnderscoreReject {
			return "a header field has an underscore in its name, which the mesh config entry rejects"
		}
		delete(header, name)
	}
	return ""
}

// unhex decodes the escape that s starts with.
func unhex(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	hi, ok1 := nibble(s[1])
	lo, ok2 := nibble(s[2])
	return hi<<4 | lo, ok1 && ok2
}

func nibble(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func isSlash(c byte) bool { return c == '/' || c == '\\' }

func hasEscapedSlash(path string) bool {
	for i := range len(path) {
		if path[i] == '%' {
			if c, ok := unhex(path[i:]); ok && isSlash(c) {
				return true
			}
		}
	}
	return false
}

// unescapeSlashes decodes slashes and backslashes of a path whose escapes are all
// valid.
func unescapeSlashes(path string) string {
	var b strings.Builder
	b.Grow(len(path))
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			b.WriteByte(path[i])
			continue
		}
		if c, ok := unhex(path[i:]); ok && isSlash(c) {
			b.WriteByte(c)
		} else {
			b.WriteString(path[i : i+3])
		}
		i += 2
	}
	return b.String()
}
