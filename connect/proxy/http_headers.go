// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"maps"
	"net/http"
	"net/textproto"
	"strings"
)

// xfcc carries whom mTLS has proved the caller to be. What an application sends
// in it must never leave its host: the next hop believes it.
const xfcc = "X-Forwarded-Client-Cert"

// hopFields are about one connection and are not passed on (RFC 9110, 7.6.1).
// Te is handled apart: "trailers" says something about the whole way.
func hopFields() []string {
	return []string{
		"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Te", "Trailer", "Transfer-Encoding", "Upgrade",
	}
}

// passOn returns a copy of a header without what concerns only the connection
// that it came over. Values are shared, and must be replaced, not written to.
func passOn(h http.Header) http.Header {
	out := maps.Clone(h)
	if out == nil {
		out = make(http.Header)
	}
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = textproto.TrimString(name); name != "" {
				delete(out, textproto.CanonicalMIMEHeaderKey(name))
			}
		}
	}
	for _, name := range hopFields() {
		delete(out, name)
	}
	if hasToken(h["Te"], "trailers") {
		out["Te"] = []string{"trailers"}
	}
	return out
}

// hasToken reports whether one of the comma-separated lists has a token.
func hasToken(lists []string, token string) bool {
	for _, list := range lists {
		for t := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(textproto.TrimString(t), token) {
				return true
			}
		}
	}
	return false
}

// upgradeOf is the protocol that a request or response asks to change to, ""
// for none.
func upgradeOf(h http.Header) string {
	if !hasToken(h["Connection"], "upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// copyInto adds the fields of a response to what is sent on.
func copyInto(to, from http.Header) {
	for name, values := range from {
		to[name] = append(to[name], values...)
	}
}
