// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"net/http"
	"net/textproto"
	"slices"
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
		"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
	}
}

// dropHop takes out of a header what concerns only the connection that it came
// over. Of a request that happens before anything is decided on it: a field that
// is judged but not sent on, because the client names it in Connection, would
// tell us one thing and the application another.
func dropHop(h http.Header) {
	trailers := hasToken(h["Te"], "trailers")
	for _, list := range h["Connection"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = textproto.TrimString(name); name != "" {
				delete(h, textproto.CanonicalMIMEHeaderKey(name))
			}
		}
	}
	for _, name := range hopFields() {
		delete(h, name)
	}
	if trailers {
		h["Te"] = []string{"trailers"}
	}
}

// endToEnd is a header with the names of trailers that are passed on, nil for
// none, and no values.
func endToEnd(trailer http.Header) http.Header {
	var out http.Header
	for name := range trailer {
		if mayTrail(name) {
			if out == nil {
				out = make(http.Header, len(trailer))
			}
			out[name] = nil
		}
	}
	return out
}

// mayTrail reports whether a field may come after the body. Whoever merges
// trailers into the header must not get one that frames, routes, authenticates
// or speaks for the mesh: those were judged, or set, before the body (RFC 9110,
// 6.5.1).
func mayTrail(name string) bool {
	for _, prefix := range []string{"Content-", "If-", "Proxy-", "X-Forwarded-", "X-Outrider-", "X-Envoy-"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	switch name {
	case "Host", "Authorization", "Cookie", "Set-Cookie", "Cache-Control", "Expect", "Max-Forwards", "Pragma", "Range",
		"Location", "Www-Authenticate", "Forwarded", "Grpc-Timeout":
		return false
	}
	return !slices.Contains(hopFields(), name)
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

// websocket is the one protocol that a connection may change to, as with Envoy
// in a Consul mesh. After a change to HTTP/2 ("h2c"), requests would go past the
// intentions that were asked about the first.
const websocket = "websocket"

// wantsWebSocket reports whether a request or response changes the protocol to
// WebSocket. A wish for anything else is ignored (RFC 9110, 7.8).
func wantsWebSocket(h http.Header) bool {
	return hasToken(h["Connection"], "upgrade") && len(h["Upgrade"]) == 1 && strings.EqualFold(h["Upgrade"][0], websocket)
}

// setWebSocket puts in what dropHop has taken out.
func setWebSocket(h http.Header) {
	h["Connection"], h["Upgrade"] = []string{"Upgrade"}, []string{websocket}
}

// copyInto adds the fields of a response to what is sent on. Their values are
// shared from then on, and must be replaced, not written to.
func copyInto(to, from http.Header) {
	for name, values := range from {
		if before := to[name]; len(before) > 0 {
			values = append(before, values...)
		}
		to[name] = values
	}
}
