// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package access turns records of connections and requests into the lines of an
// access log, in the formats that Consul configures. It must not write anywhere,
// and what callers send can neither forge a line nor a field of JSON.
package access

import (
	"cmp"
	"fmt"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// Facts are what lines say that is not in a record.
type Facts struct {
	Hostname string // of this machine; "" is not known
	Identity string // SPIFFE ID of the local service; "" is not known
	// Secrets are the names of header fields and query parameters that hold tokens
	// here, besides those that do everywhere; in any case.
	Secrets []string
}

// A Format makes lines. It never changes; safe for concurrent use.
type Format struct {
	parts    []part
	early    []int // the parts that need the header
	listener bool  // connections that came to nothing are logged too
}

// Compile prepares a format. It returns nil when no lines are asked for. What
// cannot be done is in the warnings: a command that is not known yields nothing,
// and instead of a format that cannot be read there is Consul's default one, so
// that a mistake in proxy-defaults stops no proxy.
func Compile(c connect.AccessLogs, facts Facts) (*Format, []string) {
	if !c.Enabled {
		return nil, nil
	}
	p := parser{facts: facts, secrets: secretsOf(facts.Secrets)}
	var parts []part
	var err error
	switch {
	case c.JSONFormat != "":
		parts, err = p.object(c.JSONFormat)
	case c.TextFormat != "":
		parts, err = p.line(c.TextFormat)
	default:
		parts, err = p.object(defaultFormat)
	}
	if err != nil {
		p.warnings = append(p.warnings, fmt.Sprintf("%v; lines have the default format", err))
		parts, err = p.object(defaultFormat)
	}
	if err != nil { // never: a test compiles it
		return nil, append(p.warnings, err.Error())
	}
	f := &Format{parts: parts, listener: !c.NoListenerLogs}
	for i := range parts {
		if parts[i].header {
			f.early = append(f.early, i)
		}
	}
	return f, p.warnings
}

// Wants reports whether the record makes a line: every request does and every
// connection that carries no requests. A connection of HTTP does when it was
// refused before its first request, which nothing else would tell; those lines
// and those of connections that had no route are the listener's, which
// NoListenerLogs leaves out.
func (f *Format) Wants(r *flow.Record) bool {
	switch {
	case r.Kind == flow.Request:
		return true
	case r.HTTP || r.Requests > 0:
		return f.listener && r.Requests == 0 && r.Failed()
	}
	return f.listener || r.Reason != connect.NoRoute
}

// A part is literal text, then what an operator yields if ask is not nil.
type part struct {
	literal string
	operator
	typed bool // the value is a whole one of JSON: a number, a string or null
	json  bool // the value stands in JSON
}

// An operator is a format command made ready. ask appends what it yields, as it
// is, and reports whether there is anything.
type operator struct {
	ask    func(dst []byte, r *flow.Record) ([]byte, bool)
	number bool
	header bool // asks for fields of headers, which must be done early
	limit  int  // bytes; 0 means all
}

// append appends the part. early is what was taken early of it and of the parts
// after it; the rest of that is returned.
func (p *part) append(dst []byte, r *flow.Record, early []byte) (_, rest []byte) {
	dst = append(dst, p.literal...)
	if p.ask == nil {
		return dst, early
	}
	start := len(dst)
	quote := p.typed && !p.number
	if quote {
		dst = append(dst, '"')
	}
	at, known := len(dst), false
	if p.header {
		dst, early, known = next(dst, early)
	} else {
		dst, known = p.ask(dst, r)
	}
	switch {
	case !known && p.typed:
		return append(dst[:start], "null"...), early
	case !known:
		return append(dst[:start], '-'), early
	case p.number:
		return dst, early
	}
	dst = escape(dst, at, min(cmp.Or(p.limit, maxValue), maxValue), p.json)
	if quote {
		dst = append(dst, '"')
	}
	return dst, early
}

// defaultFormat is Consul's default line, as its documentation of access logs
// shows it, and five keys of ours. Its path has no query: nobody asked for what
// is secret there.
const defaultFormat = `{
	"start_time": "%START_TIME%",
	"route_name": "%ROUTE_NAME%",
	"method": "%REQ(:METHOD)%",
	"path": "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%",
	"protocol": "%PROTOCOL%",
	"response_code": "%RESPONSE_CODE%",
	"response_flags": "%RESPONSE_FLAGS%",
	"response_code_details": "%RESPONSE_CODE_DETAILS%",
	"connection_termination_details": "%CONNECTION_TERMINATION_DETAILS%",
	"bytes_received": "%BYTES_RECEIVED%",
	"bytes_sent": "%BYTES_SENT%",
	"duration": "%DURATION%",
	"upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
	"x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
	"user_agent": "%REQ(USER-AGENT)%",
	"request_id": "%REQ(X-REQUEST-ID)%",
	"authority": "%REQ(:AUTHORITY)%",
	"upstream_host": "%UPSTREAM_HOST%",
	"upstream_cluster": "%UPSTREAM_CLUSTER%",
	"upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%",
	"downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
	"downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
	"requested_server_name": "%REQUESTED_SERVER_NAME%",
	"upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",

	"direction": "%DYNAMIC_METADATA(outrider:direction)%",
	"service": "%DYNAMIC_METADATA(outrider:service)%",
	"source": "%DYNAMIC_METADATA(outrider:source)%",
	"intention": "%DYNAMIC_METADATA(outrider:intention)%",
	"reason": "%DYNAMIC_METADATA(outrider:reason)%"
}`
