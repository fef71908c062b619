// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"strings"

	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/request"
)

// metadata compiles DYNAMIC_METADATA. "consul:…" is who calls, as in Consul's
// own proxies; "outrider:…" is what only we know. An Envoy in the same mesh takes
// both and finds nothing, where a command of ours would stop it.
func (p *parser) metadata(c request.Command) operator {
	o := operator{limit: c.Limit}
	if key, ok := strings.CutPrefix(c.Args, "consul:"); ok {
		o.ask = caller(key)
		return o
	}
	key, ok := strings.CutPrefix(c.Args, "outrider:")
	if !ok {
		return operator{}
	}
	if n := ourNumbers(key); n != nil && c.Limit == 0 {
		return operator{ask: n, number: true}
	}
	o.ask = ours(key)
	return o
}

// caller appends a part of the identity that an inbound connection has proved.
func caller(key string) ask {
	of := func(part func(r *flow.Record) string) ask {
		return text(func(r *flow.Record) string {
			if r.Direction != flow.Inbound {
				return ""
			}
			return part(r)
		})
	}
	switch key {
	case "trust-domain":
		return of(func(r *flow.Record) string { return r.Source.TrustDomain })
	case "partition":
		return of(func(r *flow.Record) string { return r.Source.Partition })
	case "namespace":
		return of(func(r *flow.Record) string { return r.Source.Namespace })
	case "datacenter":
		return of(func(r *flow.Record) string { return r.Source.Datacenter })
	case "service":
		return of(func(r *flow.Record) string { return r.Source.Service })
	}
	return nil
}

func ours(key string) ask {
	switch key {
	case "reason":
		return text(func(r *flow.Record) string { return string(r.Reason) })
	case "why":
		return text(func(r *flow.Record) string { return r.Why })
	case "remote":
		return text(func(r *flow.Record) string {
			if r.Remote {
				return "true"
			}
			return ""
		})
	case "direction":
		return text(func(r *flow.Record) string { return r.Direction.String() })
	case "service":
		return text(func(r *flow.Record) string { return r.Service })
	case "proxy":
		return text(func(r *flow.Record) string { return r.ProxyID })
	case "source":
		return source
	case "gateway":
		return text(func(r *flow.Record) string { return r.Gateway })
	case "intention":
		return text(func(r *flow.Record) string { return r.Intention })
	case "upstream":
		return text(func(r *flow.Record) string { return string(r.Upstream) })
	case "target":
		return text(func(r *flow.Record) string { return string(r.Target) })
	case "node":
		return text(func(r *flow.Record) string { return r.Node })
	case "trace":
		return text(func(r *flow.Record) string { return r.TraceID })
	case "span":
		return text(func(r *flow.Record) string { return r.SpanID })
	}
	return nil
}

// source appends who calls, as connect.Identity.Label writes it.
func source(dst []byte, r *flow.Record) ([]byte, bool) {
	if r.Source.Peer != "" {
		dst = append(append(dst, r.Source.Peer...), '/')
	}
	return append(dst, r.Source.Service...), r.Source.Service != ""
}

func ourNumbers(key string) ask {
	switch key {
	case "precedence":
		return number(func(r *flow.Record) (int64, bool) { return int64(r.Precedence), r.Judged && r.RuleIndex >= 0 })
	case "permission":
		return number(func(r *flow.Record) (int64, bool) { return int64(r.Permission), r.Permission > 0 })
	case "snapshot":
		return number(func(r *flow.Record) (int64, bool) { return int64(r.Snapshot), true }) //nolint:gosec // it counts from 1
	case "retries":
		return number(func(r *flow.Record) (int64, bool) { return int64(r.Retries), true })
	case "requests":
		return number(func(r *flow.Record) (int64, bool) { return r.Requests, r.Kind == flow.Connection })
	case "handshake_us":
		return number(func(r *flow.Record) (int64, bool) { return r.Handshake.Microseconds(), r.Handshake > 0 })
	}
	return nil
}
