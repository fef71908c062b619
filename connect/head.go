// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import "strings"

// A Head is what is known of a request before its body: all that intentions,
// routes and rate limits decide on. Whatever speaks HTTP on the wire makes one
// for each request; decisions know nothing of the wire.
type Head struct {
	Method    string // upper case as sent: GET, POST …
	Scheme    string // http or https, as the client sees it
	Authority string // Host of HTTP/1, :authority of HTTP/2
	Path      string // with its query, as on the wire: "/a/b?c=d", or "*"
	Header    Header
}

// PathOnly is the path without its query.
func (h *Head) PathOnly() string {
	path, _, _ := strings.Cut(h.Path, "?")
	return path
}

// Query is the query without its question mark, "" when there is none.
func (h *Head) Query() string {
	_, query, _ := strings.Cut(h.Path, "?")
	return query
}

// A Header holds the fields of a request or response. Keys are in the canonical
// form of net/textproto ("X-Request-Id"), so that the header of net/http is one
// without a copy; it is read and written through CanonicalName keys only.
type Header map[string][]string

// Lookup returns the field's values joined with a comma, as proxies match them
// (RFC 9110, 5.3), and whether the field is there. name must be canonical.
func (h Header) Lookup(name string) (string, bool) {
	values := h[name]
	switch len(values) {
	case 0:
		return "", false
	case 1:
		return values[0], true
	}
	return strings.Join(values, ","), true
}

// A MatchKind says how text is compared.
type MatchKind string

// Every MatchKind. Regular expressions are RE2 and must match the whole text.
const (
	MatchPresent  MatchKind = "present"
	MatchExact    MatchKind = "exact"
	MatchPrefix   MatchKind = "prefix"
	MatchSuffix   MatchKind = "suffix"
	MatchContains MatchKind = "contains"
	MatchRegex    MatchKind = "regex"
)

// A RequestMatch says which requests are meant: those that meet all that is
// set. The zero value means every request (Consul, service-router: match;
// service intentions: permissions).
type RequestMatch struct {
	Path    PathMatch
	Headers []HeaderMatch
	Query   []QueryMatch
	Methods []string // any of them, upper case; nil means every method
}

// A PathMatch compares the path without its query. Kind is "", which matches
// every path, exact, prefix or regex. A prefix is plain text and may end within
// a segment.
type PathMatch struct {
	Kind       MatchKind
	Value      string
	IgnoreCase bool // exact and prefix only
}

// A HeaderMatch compares one field. Repeated fields are joined with a comma. A
// missing field meets only {Kind: present, Invert: true}; every other matcher,
// inverted or not, is false for it: Envoy's rule, without which an inverted
// match would open what it was to close.
type HeaderMatch struct {
	Name       string // any case; ":authority", ":method" and ":path" too
	Kind       MatchKind
	Value      string
	Invert     bool
	IgnoreCase bool // exact, prefix, suffix and contains
}

// A QueryMatch compares one parameter of the query: present, exact or regex. Of
// a repeated parameter the first value counts.
type QueryMatch struct {
	Name  string
	Kind  MatchKind
	Value string
}

// HeaderEdits change a header: first Remove, then Set, which replaces the values
// that are there, then Add, which keeps them. Values may hold Envoy's format
// commands such as %DOWNSTREAM_REMOTE_ADDRESS% (Consul, service-router:
// request_headers).
type HeaderEdits struct {
	Add, Set map[string]string
	Remove   []string
}

// Empty reports whether nothing is changed.
func (e HeaderEdits) Empty() bool { return len(e.Add)+len(e.Set)+len(e.Remove) == 0 }
