// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package request

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/outrider-mesh/outrider/connect"
)

// maxValue bounds what a format makes, in bytes: commands repeat what the
// request brings.
const maxValue = 64 << 10

// startTime is how Envoy writes %START_TIME%.
const startTime = "2006-01-02T15:04:05.000Z"

// A format is a value with commands in it. Parts are joined.
type format []part

// A part is literal text, or a command when ask is not nil.
type part struct {
	literal string
	ask     func(*Facts) string
	limit   int // bytes of what the command yields; 0 means all
}

// value computes the text. Bytes that would end a field or start another one are
// left out, wherever they come from. Text that grows too long is no text.
func (f format) value(facts *Facts) string {
	if len(f) == 1 && f[0].ask == nil {
		return f[0].literal
	}
	var b strings.Builder
	for i := range f {
		text := f[i].literal
		if f[i].ask != nil {
			text = clean(f[i].ask(facts))
		}
		if f[i].limit > 0 && len(text) > f[i].limit {
			text = text[:f[i].limit]
		}
		if b.Len()+len(text) > maxValue {
			return ""
		}
		b.WriteString(text)
	}
	return b.String()
}

// parseFormat reads a value in Envoy's format language: commands between percent
// signs, "%%" for one percent sign. What is not understood stays as it is and is
// named in the second result.
func parseFormat(s string) (format, []string) {
	var f format
	var problems []string
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			f = append(f, part{literal: clean(literal.String())})
			literal.Reset()
		}
	}
	for s != "" {
		before, rest, found := strings.Cut(s, "%")
		literal.WriteString(before)
		if !found {
			break
		}
		if after, doubled := strings.CutPrefix(rest, "%"); doubled {
			literal.WriteByte('%')
			s = after
			continue
		}
		c, after, ok := CutCommand(rest)
		if !ok {
			problems = append(problems, "a percent sign starts no command and stays; write %% for a percent sign")
			literal.WriteByte('%')
			s = rest
			continue
		}
		s = after
		if ask := c.compile(); ask != nil {
			flush()
			f = append(f, part{ask: ask, limit: c.Limit})
			continue
		}
		problems = append(problems, fmt.Sprintf("format command %%%s%% is not known and stays as it is", c.Text))
		literal.WriteString("%" + c.Text + "%")
	}
	flush()
	return f, problems
}

// compile returns what the command yields, nil when it is not known.
func (c Command) compile() func(*Facts) string {
	switch c.Name {
	case "REQ":
		return c.field(func(f *Facts) *connect.Head { return f.Request })
	case "RESP":
		return c.field(func(f *Facts) *connect.Head { return &connect.Head{Header: f.Response} })
	case "DYNAMIC_METADATA":
		return c.metadata()
	}
	if c.Parens || c.Limit > 0 {
		return nil
	}
	return plainCommand(c.Name)
}

func plainCommand(name string) func(*Facts) string {
	switch name {
	case "DOWNSTREAM_REMOTE_ADDRESS", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS":
		return func(f *Facts) string { return address(f.Downstream) }
	case "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT":
		return func(f *Facts) string { return host(f.Downstream) }
	case "DOWNSTREAM_REMOTE_PORT":
		return func(f *Facts) string { return port(f.Downstream) }
	case "DOWNSTREAM_LOCAL_ADDRESS":
		return func(f *Facts) string { return address(f.DownstreamLocal) }
	case "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT":
		return func(f *Facts) string { return host(f.DownstreamLocal) }
	case "DOWNSTREAM_LOCAL_PORT":
		return func(f *Facts) string { return port(f.DownstreamLocal) }
	case "PROTOCOL":
		return func(f *Facts) string { return f.Protocol }
	case "HOSTNAME":
		return func(f *Facts) string { return f.Hostname }
	case "UPSTREAM_HOST", "UPSTREAM_REMOTE_ADDRESS":
		return func(f *Facts) string { return f.Upstream }
	case "RESPONSE_CODE":
		return func(f *Facts) string { return strconv.Itoa(f.Status) }
	case "START_TIME":
		return func(f *Facts) string {
			if f.Start.IsZero() {
				return ""
			}
			return f.Start.UTC().Format(startTime)
		}
	case "DOWNSTREAM_PEER_URI_SAN":
		return func(f *Facts) string {
			if f.Peer == (connect.Identity{}) {
				return ""
			}
			return f.Peer.String()
		}
	}
	return nil
}

// field compiles the arguments of REQ and RESP: "FIRST?SECOND", where the second
// field stands in for the first when that is missing.
func (c Command) field(of func(*Facts) *connect.Head) func(*Facts) string {
	first, second, alternative := strings.Cut(c.Args, "?")
	if first == "" || alternative && second == "" {
		return nil
	}
	first, second = canonical(first), canonical(second)
	return func(f *Facts) string {
		head := of(f)
		if head == nil {
			return ""
		}
		value, ok := lookup(head, first)
		if !ok && alternative {
			value, _ = lookup(head, second)
		}
		return value
	}
}

// metadata compiles the one kind of metadata that Consul fills: who is calling
// (Consul, service-router: request_headers, dynamic metadata of the caller).
func (c Command) metadata() func(*Facts) string {
	key, ok := strings.CutPrefix(c.Args, "consul:")
	if !ok {
		return nil
	}
	switch key {
	case "trust-domain":
		return func(f *Facts) string { return f.Peer.TrustDomain }
	case "partition":
		return func(f *Facts) string { return f.Peer.Partition }
	case "namespace":
		return func(f *Facts) string { return f.Peer.Namespace }
	case "datacenter":
		return func(f *Facts) string { return f.Peer.Datacenter }
	case "service":
		return func(f *Facts) string { return f.Peer.Service }
	}
	return nil
}

func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
}

func host(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.Addr().Unmap().String()
}

func port(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return strconv.Itoa(int(a.Port()))
}

// clean drops control characters, of which CR, LF and NUL would end the field;
// a tab is allowed (RFC 9110, 5.5).
func clean(s string) string {
	isControl := func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
	if !strings.ContainsFunc(s, isControl) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		if !isControl(rune(s[i])) {
			b = append(b, s[i])
		}
	}
	return string(b)
}
