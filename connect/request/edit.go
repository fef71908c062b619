// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// maxEdits bounds the fields that one set of edits names.
const maxEdits = 1000

// Edits are connect.HeaderEdits made ready. They never change; safe for
// concurrent use. The zero value edits nothing.
type Edits struct {
	remove   []string
	set, add []edit
}

type edit struct {
	name   string // canonical
	format format
}

// CompileEdits prepares edits. Fields that belong to the connection or to the
// framing of messages (pseudo headers, Host, Content-Length, Transfer-Encoding,
// Connection and what goes with it) are not edited, nor are names that are no
// field names: each is left out with a warning, so that one bad line of a config
// entry does not stop the routes beside it. Format commands that are not known
// stay in the value as they are written, with a warning. More than 1000 fields
// are an error.
func CompileEdits(e connect.HeaderEdits) (Edits, []string, error) {
	if n := len(e.Add) + len(e.Set) + len(e.Remove); n > maxEdits {
		return Edits{}, nil, fmt.Errorf("edit %d header fields: more than %d, which every request would pay for", n, maxEdits)
	}
	var out Edits
	var warnings []string
	for _, name := range e.Remove {
		if why := uneditable(name); why != "" {
			warnings = append(warnings, fmt.Sprintf("header field %q is not removed: %s", name, why))
			continue
		}
		out.remove = append(out.remove, textproto.CanonicalMIMEHeaderKey(name))
	}
	compile := func(values map[string]string) []edit {
		var edits []edit
		// Sorted: names that differ in case only must give the same result each
		// time.
		for _, name := range slices.Sorted(maps.Keys(values)) {
			if why := uneditable(name); why != "" {
				warnings = append(warnings, fmt.Sprintf("header field %q is not edited: %s", name, why))
				continue
			}
			f, problems := parseFormat(values[name])
			for _, p := range problems {
				warnings = append(warnings, fmt.Sprintf("header field %q: %s", name, p))
			}
			edits = append(edits, edit{name: textproto.CanonicalMIMEHeaderKey(name), format: f})
		}
		return edits
	}
	out.set, out.add = compile(e.Set), compile(e.Add)
	return out, warnings, nil
}

// Apply edits h, which is the header of a request or of a response and must not
// be nil where anything is added. A value that comes out empty, because nothing
// is known of what it asks for, changes nothing: Envoy's rule. Values are
// computed after fields are removed and before any is set.
func (e Edits) Apply(h connect.Header, f *Facts) {
	for _, name := range e.remove {
		delete(h, name)
	}
	if len(e.set)+len(e.add) == 0 {
		return
	}
	if f == nil {
		f = &Facts{}
	}
	// All values first, so that one edit does not see what another has made.
	values := make([]string, 0, len(e.set)+len(e.add))
	for _, edits := range [2][]edit{e.set, e.add} {
		for i := range edits {
			values = append(values, edits[i].format.value(f))
		}
	}
	for i, s := range e.set {
		if values[i] != "" {
			h[s.name] = []string{values[i]}
		}
	}
	for i, a := range e.add {
		if v := values[len(e.set)+i]; v != "" {
			// Never into the array of the old values: somebody else may hold it.
			h[a.name] = append(slices.Clip(h[a.name]), v)
		}
	}
}

// Empty reports whether nothing is edited.
func (e Edits) Empty() bool { return len(e.remove)+len(e.set)+len(e.add) == 0 }

// uneditable says why edits must not touch a field, "" when they may.
func uneditable(name string) string {
	if strings.HasPrefix(name, ":") {
		return "pseudo headers are not header fields; use prefix_rewrite for the path"
	}
	if name == "" || strings.ContainsFunc(name, notToken) {
		return "it is not the name of a field"
	}
	switch textproto.CanonicalMIMEHeaderKey(name) {
	case "Host":
		return "it decides where the request goes"
	case "Content-Length", "Transfer-Encoding", "Trailer":
		return "it frames the body, and a wrong one makes one request two"
	case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Upgrade", "Http2-Settings":
		return "it belongs to one connection"
	}
	return ""
}

// notToken reports whether a field name may not hold the character (RFC 9110,
// 5.6.2).
func notToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
}
