// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package outline is what may be shown of a connection or request to whoever
// runs the sidecar: bounded, without headers and without the query of its path.
// It must not decide what is shown to whom, nor keep anything.
package outline

import (
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// What an outline holds of text that peers and applications write, in bytes, and
// how many tries. Together they bound an outline to about 6 KiB.
const (
	maxPath      = 512
	maxWord      = 256
	maxWhy       = 1024
	maxTryError  = 256
	maxTries     = 8
	maxAuthority = 256
)

// An Outline is one connection or request at its end. It shares no memory with
// the record it was made of, apart from names of the configuration. Times in
// milliseconds have three decimals.
type Outline struct {
	Time      time.Time // of the end
	Kind      string    // connection or request
	Direction string    // inbound, outbound, exposed, passed
	Service   string    // the local service
	ProxyID   string    `json:",omitempty"`
	Snapshot  uint64    `json:",omitempty"` // version of the one it began with

	Source     string `json:",omitempty"` // who calls, "web" or "east/web"; "" when nobody has proved it
	Gateway    string `json:",omitempty"`
	Upstream   string `json:",omitempty"`
	Target     string `json:",omitempty"`
	Node       string `json:",omitempty"` // the resolver
	Rule       int    `json:",omitempty"` // of the router, from 1
	Endpoint   string `json:",omitempty"`
	Downstream string `json:",omitempty"` // host:port of whoever connected to us

	Method       string `json:",omitempty"`
	Authority    string `json:",omitempty"`
	Path         string `json:",omitempty"` // without its query
	OriginalPath string `json:",omitempty"` // the same, as it came
	Protocol     string `json:",omitempty"`
	Status       int    `json:",omitempty"`
	GRPCStatus   string `json:",omitempty"`
	TraceID      string `json:",omitempty"`

	Reason connect.Reason `json:",omitempty"` // "" when it was served
	Remote bool           `json:",omitempty"` // the sidecar of the other side gave the reason
	Why    string         `json:",omitempty"`
	Gone   bool           `json:",omitempty"` // the caller left before the end

	Intention  string `json:",omitempty"` // that decided
	Precedence int    `json:",omitempty"`
	Permission int    `json:",omitempty"` // from 1

	HandshakeMS float64 `json:",omitempty"`
	FirstByteMS float64 `json:",omitempty"`
	TookMS      float64
	Sent        int64 `json:",omitempty"` // bytes from who connected
	Received    int64 `json:",omitempty"` // bytes to who connected
	Requests    int64 `json:",omitempty"` // that a connection carried

	Tries   []Try `json:",omitempty"` // the first ones and the last one
	Retries int   `json:",omitempty"`
}

// A Try is one attempt at one endpoint.
type Try struct {
	Target   string `json:",omitempty"`
	Endpoint string
	StartMS  float64 // since the beginning
	TookMS   float64
	Status   int            `json:",omitempty"`
	Reason   connect.Reason `json:",omitempty"`
	Error    string         `json:",omitempty"`
}

// Of returns the outline of a record, which is not kept.
func Of(r *flow.Record) Outline {
	o := Outline{
		Time: r.Start.Add(r.Duration), Kind: kind(r.Kind), Direction: r.Direction.String(),
		Service: r.Service, ProxyID: r.ProxyID, Snapshot: r.Snapshot,
		Source: r.Source.Label(), Gateway: r.Gateway, Upstream: string(r.Upstream), Target: string(r.Target),
		Node: r.Node, Rule: r.Rule, Endpoint: cut(r.Endpoint, maxWord), Downstream: address(r.Downstream),
		Method: cut(r.Method, maxWord), Authority: authority(r.Authority), Path: Path(r.Path), OriginalPath: Path(r.OriginalPath),
		Protocol: r.Protocol, Status: r.Status, GRPCStatus: cut(r.GRPCStatus, maxWord), TraceID: r.TraceID,
		Reason: r.Reason, Remote: r.Remote, Why: cut(r.Why, maxWhy), Gone: r.Gone,
		HandshakeMS: milliseconds(r.Handshake), FirstByteMS: milliseconds(r.FirstByte), TookMS: milliseconds(r.Duration),
		Sent: r.Sent, Received: r.Received, Requests: r.Requests,
		Tries: tries(r.Tries), Retries: r.Retries,
	}
	if r.Judged {
		o.Intention, o.Precedence, o.Permission = r.Intention, r.Precedence, r.Permission
	}
	return o
}

// Failed reports whether somebody was not served, who still wanted to be.
func (o *Outline) Failed() bool { return o.Reason != "" && !o.Gone }

// Size is about how many bytes the outline takes.
func (o *Outline) Size() int {
	const fixed, each = 640, 120
	n := fixed + len(o.Path) + len(o.OriginalPath) + len(o.Authority) + len(o.Method) + len(o.Why) + len(o.Endpoint)
	for i := range o.Tries {
		n += each + len(o.Tries[i].Error) + len(o.Tries[i].Endpoint)
	}
	return n
}

func kind(k flow.Kind) string {
	if k == flow.Request {
		return "request"
	}
	return "connection"
}

// tries keeps the first ones and the last one, which say how it began and ended.
func tries(all []flow.Try) []Try {
	if len(all) == 0 {
		return nil
	}
	out := make([]Try, 0, min(len(all), maxTries))
	for i := range all {
		if i >= maxTries-1 && i < len(all)-1 {
			continue
		}
		t := &all[i]
		out = append(out, Try{
			Target: string(t.Target), Endpoint: cut(t.Endpoint, maxWord), StartMS: milliseconds(t.Start), TookMS: milliseconds(t.Took),
			Status: t.Status, Reason: t.Reason, Error: cut(t.Error, maxTryError),
		})
	}
	return out
}

// Path is a path as it may be shown: without its query, and bounded. A query
// holds what applications take for secrets: tokens, names, signatures.
func Path(path string) string {
	if i := strings.IndexAny(path, "?#"); i >= 0 {
		path = path[:i]
	}
	return cut(path, maxPath)
}

// authority leaves out the user and password that a URL may carry.
func authority(host string) string {
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	return cut(host, maxAuthority)
}

// cut returns a copy of text of at most n bytes and its mark. A copy, because the
// text may be a small part of a large header.
func cut(text string, n int) string {
	if len(text) <= n {
		return strings.Clone(text)
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}

func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}
