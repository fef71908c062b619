// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"net/textproto"
	"strconv"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/request"
)

// alternatives compiles the arguments of REQ and RESP: "FIRST?SECOND", where the
// second field stands in for the first when that is missing. nil means that they
// are none.
func (p *parser) alternatives(c request.Command, field func(name string, query bool) ask) ask {
	name, other, alternative := strings.Cut(c.Args, "?")
	if name == "" || alternative && other == "" {
		return nil
	}
	query := c.Name != "REQ_WITHOUT_QUERY"
	first := field(name, query)
	if !alternative {
		return first
	}
	second := field(other, query)
	return func(dst []byte, r *flow.Record) ([]byte, bool) {
		if out, ok := first(dst, r); ok {
			return out, true
		}
		return second(dst, r)
	}
}

// requestField compiles a field of a request or one of its pseudo headers. The
// original path is what this proxy noted, never what a caller claims.
func (p *parser) requestField(name string, query bool) ask {
	switch canonical := textproto.CanonicalMIMEHeaderKey(name); strings.ToLower(name) {
	case ":method":
		return text(func(r *flow.Record) string { return r.Method })
	case ":authority", "host":
		return text(func(r *flow.Record) string { return r.Authority })
	case ":scheme":
		return text(func(r *flow.Record) string {
			if r.Kind != flow.Request {
				return ""
			}
			return "http"
		})
	case ":path":
		return p.targetOf(func(r *flow.Record) string { return r.Path }, query)
	case "x-envoy-original-path":
		return p.targetOf(func(r *flow.Record) string { return r.OriginalPath }, query)
	default:
		return p.header(canonical, query, func(r *flow.Record) connect.Header { return r.RequestHeader })
	}
}

// responseField compiles a field of a response. The time of the upstream is what
// this proxy measured.
func (p *parser) responseField(name string, query bool) ask {
	switch canonical := textproto.CanonicalMIMEHeaderKey(name); strings.ToLower(name) {
	case ":status":
		return text(func(r *flow.Record) string {
			if r.Status == 0 {
				return ""
			}
			return strconv.Itoa(r.Status)
		})
	case "x-envoy-upstream-service-time":
		return serviceTime
	default:
		return p.header(canonical, query, func(r *flow.Record) connect.Header { return r.ResponseHeader })
	}
}

// serviceTime appends the milliseconds until the last endpoint's response.
func serviceTime(dst []byte, r *flow.Record) ([]byte, bool) {
	n := len(r.Tries)
	if n == 0 || r.Tries[n-1].Status == 0 {
		return dst, false
	}
	return strconv.AppendInt(dst, r.Tries[n-1].Took.Milliseconds(), 10), true
}

func (p *parser) targetOf(of func(r *flow.Record) string, query bool) ask {
	return func(dst []byte, r *flow.Record) ([]byte, bool) {
		s := of(r)
		return p.target(dst, s, query), s != ""
	}
}

// header compiles a header field. What may be secret shows only that it is there.
func (p *parser) header(canonical string, query bool, of func(r *flow.Record) connect.Header) ask {
	p.ofHeader = true
	secret, url := p.secret(canonical), isTarget(canonical)
	return func(dst []byte, r *flow.Record) ([]byte, bool) {
		value, ok := of(r).Lookup(canonical)
		switch {
		case !ok:
			return dst, false
		case secret:
			return append(dst, redacted...), true
		case url:
			return p.target(dst, value, query), true
		}
		return append(dst, value...), true
	}
}

// parameter compiles QUERY_PARAM(NAME).
func (p *parser) parameter(c request.Command) ask {
	if c.Args == "" {
		return nil
	}
	secret := p.secretParameter(c.Args)
	return func(dst []byte, r *flow.Record) ([]byte, bool) {
		value, ok := parameter(r.Path, c.Args)
		if ok && secret {
			value = redacted
		}
		return append(dst, value...), ok
	}
}

// path compiles PATH(WQ|NQ:ORIG|PATH|ORIG_OR_PATH): with or without the query,
// and which path.
func (p *parser) path(c request.Command) ask {
	query, which, _ := strings.Cut(c.Args, ":")
	if query != "" && query != "WQ" && query != "NQ" {
		return nil
	}
	original := func(r *flow.Record) string { return r.OriginalPath }
	judged := func(r *flow.Record) string { return r.Path }
	switch which {
	case "ORIG":
		return p.targetOf(original, query != "NQ")
	case "PATH":
		return p.targetOf(judged, query != "NQ")
	case "", "ORIG_OR_PATH":
		return p.targetOf(func(r *flow.Record) string {
			if r.OriginalPath != "" {
				return r.OriginalPath
			}
			return r.Path
		}, query != "NQ")
	}
	return nil
}
