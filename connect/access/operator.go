// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package access

import (
	"fmt"
	"time"

	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/connect/request"
)

// ask appends what a command yields, as it is, and reports whether there is
// anything.
type ask = func(dst []byte, r *flow.Record) ([]byte, bool)

// nothing is what is asked of a command that cannot be answered.
func nothing(dst []byte, _ *flow.Record) ([]byte, bool) { return dst, false }

// compile makes a command ready. One that is not known, or that no record
// answers, yields nothing and leaves a warning.
func (p *parser) compile(c request.Command) operator {
	o := p.operator(c)
	if o.ask == nil {
		p.warn(fmt.Sprintf("command %%%s%% is not known, or asks for what is not recorded: it yields nothing", c.Text))
		o.ask = nothing
	}
	return o
}

func (p *parser) operator(c request.Command) operator {
	p.ofHeader = false
	o := operator{limit: c.Limit}
	switch c.Name {
	case "REQ", "REQ_WITHOUT_QUERY":
		o.ask = p.alternatives(c, p.requestField)
	case "RESP":
		o.ask = p.alternatives(c, p.responseField)
	case "DYNAMIC_METADATA":
		o = p.metadata(c)
	case "START_TIME":
		o.ask = p.clock(c, func(r *flow.Record) time.Time { return r.Start })
	case "EMIT_TIME":
		o.ask = p.clock(c, func(r *flow.Record) time.Time { return r.Start.Add(r.Duration) })
	case "QUERY_PARAM":
		o.ask = p.parameter(c)
	case "PATH":
		o.ask = p.path(c)
	case "GRPC_STATUS":
		o = grpcStatus(c)
	case "COMMON_DURATION":
		o = common(c)
	case "ENVIRONMENT":
		p.warn(fmt.Sprintf("command %%%s%% yields nothing: what is in the environment of the process may be secret", c.Text))
		o.ask = nothing
	default:
		o = p.plain(c)
	}
	o.header = p.ofHeader
	return o
}

// plain are the commands without arguments.
func (p *parser) plain(c request.Command) operator {
	if c.Parens {
		return operator{}
	}
	if n := numbers(c.Name); n != nil && c.Limit == 0 {
		return operator{ask: n, number: true}
	}
	o := operator{ask: texts(c.Name), limit: c.Limit}
	switch c.Name {
	case "HOSTNAME":
		o.ask = constant(p.facts.Hostname)
	case "DOWNSTREAM_LOCAL_URI_SAN":
		identity := constant(p.facts.Identity)
		o.ask = func(dst []byte, r *flow.Record) ([]byte, bool) {
			if r.TLS == nil {
				return dst, false
			}
			return identity(dst, r)
		}
	}
	return o
}

func constant(text string) ask {
	return func(dst []byte, _ *flow.Record) ([]byte, bool) { return append(dst, text...), text != "" }
}
