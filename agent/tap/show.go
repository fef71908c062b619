// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package tap

import (
	"net/textproto"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/agent/outline"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/access"
	"github.com/outrider-mesh/outrider/connect/flow"
)

const (
	// maxHeader bounds the names and values of one header that are shown, in bytes,
	// and maxValue one of its values.
	maxHeader = 8 << 10
	maxValue  = 512

	hidden = "(hidden)"
)

// show is what of a record a watcher is shown.
type show struct {
	headers bool // every name, and values that hold no secret
	unsafe  bool // everything
}

func (s show) event(r *flow.Record) *Event {
	e := &Event{Outline: outline.Of(r), RequestHeader: s.header(r.RequestHeader), ResponseHeader: s.header(r.ResponseHeader)}
	if s.unsafe {
		if _, query, ok := strings.Cut(r.Path, "?"); ok {
			e.Query = clip(query)
		}
	}
	return e
}

// header returns a copy of what is shown of a header; the fields in the order of
// their names, as far as the bound lets them.
func (s show) header(h connect.Header) map[string][]string {
	if len(h) == 0 {
		return nil
	}
	names := make([]string, 0, len(h))
	for name := range h {
		if s.headers || s.unsafe || harmless(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	out, left := make(map[string][]string, len(names)), maxHeader
	for _, name := range names {
		for _, value := range h[name] {
			shown := s.value(name, value)
			if left -= len(name) + len(shown); left < 0 {
				return out
			}
			out[name] = append(out[name], shown)
		}
	}
	return out
}

func (s show) value(name, value string) string {
	switch {
	case s.unsafe:
		return clip(value)
	case !harmless(name) && secretName(name) || secretValue(value):
		return hidden
	case name == "Referer" || name == "Location" || name == "Content-Location":
		return outline.Path(value)
	}
	return clip(value)
}

func clip(value string) string {
	if len(value) <= maxValue {
		return strings.Clone(value)
	}
	return strings.ToValidUTF8(value[:maxValue], "") + "…"
}

// harmless reports whether a field never holds a secret, nor who a user is: those
// that are shown to whoever watches.
func harmless(name string) bool {
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "Accept", "Accept-Encoding", "Allow", "Cache-Control", "Connection", "Content-Encoding", "Content-Length", "Content-Type",
		"Date", "Expect", "Grpc-Encoding", "Grpc-Status", "Grpc-Timeout", "Retry-After", "Server", "Te", "Transfer-Encoding", "Upgrade",
		"User-Agent", "Vary", "Via", "X-Outrider-Reason", "X-Request-Id", "X-Envoy-Attempt-Count", "X-Forwarded-Proto":
		return true
	}
	return false
}

// secretName reports whether the values of a field are not to be seen by its name:
// credentials, and all that begins with X-, where everybody puts what they like.
func secretName(name string) bool {
	name = strings.ToLower(name)
	if strings.HasPrefix(name, "x-") || access.Secret(name) {
		return true
	}
	// What access logs would show: a line there is asked for field by field, here all
	// are shown.
	for _, part := range []string{"auth", "key", "cert", "bearer", "assertion", "csrf", "nonce", "otp"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// secretValue reports whether a value looks like a credential, whatever its field
// is called: schemes of HTTP authentication, JSON web tokens, and PEM.
func secretValue(value string) bool {
	lower := strings.ToLower(strings.TrimSpace(value))
	for _, scheme := range []string{"bearer ", "basic ", "digest ", "negotiate ", "aws4-hmac-sha256 "} {
		if strings.HasPrefix(lower, scheme) {
			return true
		}
	}
	return strings.Contains(value, "eyJ") || strings.Contains(lower, "-----begin") || strings.Contains(lower, "hvs.") || strings.Contains(lower, "access_token=")
}
