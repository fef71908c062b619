// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package flow says what became of one connection or request, in one value:
// metrics, access logs, traces, the ledger, tap and the flight recorder are all
// made from it, so that they cannot contradict each other. It must not decide
// anything, nor keep anything.
package flow

import (
	"crypto/tls"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// A Kind tells connections from requests.
type Kind uint8

// The two kinds. A connection of HTTP has a record of its own besides those of
// its requests.
const (
	Connection Kind = iota
	Request
)

// A Direction is where a connection came from and went.
type Direction uint8

// Every Direction.
const (
	Inbound  Direction = iota // from a peer to the local application
	Outbound                  // from the local application to an upstream
	Exposed                   // from anybody to an exposed path of the application
	Passed                    // from the local application to outside the mesh
)

// String is the word for logs, metrics and JSON.
func (d Direction) String() string {
	return [...]string{"inbound", "outbound", "exposed", "passed"}[min(d, Passed)]
}

// A Record is one connection or request at its end. Whoever is given one may
// read it during the call only: it is used again, and headers are still in use.
// [Record.Keep] makes a copy to keep.
type Record struct {
	Kind      Kind
	Direction Direction
	Snapshot  uint64 // version of the one it began with; 0 before the first
	Service   string // the local service
	ProxyID   string // of the sidecar

	// Source is who calls: for Inbound whoever the certificate proved, the zero
	// Identity when nobody was; for Outbound and Passed the local service.
	Source connect.Identity
	// Gateway is the mesh gateway that carried an inbound request, in words; "" for
	// none.
	Gateway string

	// Of Outbound; "" where it did not come that far.
	Upstream connect.UpstreamID
	Target   connect.TargetID
	Node     string // the resolver, in Consul's words: "resolver:api.default.default"
	Rule     int    // of the router, from 1; 0 when there is none
	Endpoint string // host:port of whom it went to: endpoint, application, or outside; a path for a unix socket

	Downstream      netip.AddrPort // who connected to us; zero for a unix socket
	DownstreamLocal netip.AddrPort // our end of that connection
	UpstreamLocal   netip.AddrPort // our end of the connection that we made; zero when not known
	// TLS is nil for a connection without, and before the handshake's end. It must
	// not be written to.
	TLS *tls.ConnectionState

	// Of a Request. Headers are nil in what Keep returns.
	Method, Authority, Path string // Path with its query, as it was judged
	OriginalPath            string // as it came, when routing or normalisation changed it; else ""
	Protocol                string // HTTP/1.0, HTTP/1.1 or HTTP/2
	GRPC                    bool
	GRPCStatus              string // "" when there is none
	Status                  int    // of the response; 0 when none was sent
	RequestHeader           connect.Header
	ResponseHeader          connect.Header // nil without a response
	TraceID, SpanID         string         // hex; "" when no trace goes through us

	// Of what intentions decided, for Inbound; Judged is false when it did not come
	// that far.
	Judged     bool
	Allowed    bool
	Intention  string // "web → api", "default policy", "trust domain"
	Precedence int
	Permission int // from 1; 0 when none decided
	// RuleIndex is the position of the intention in the snapshot's, -1 for none.
	RuleIndex int

	// Reason is why it was not served, or not to its end; "" when it was.
	Reason connect.Reason
	// Remote says that Reason is what the sidecar of the other side has given.
	Remote bool
	Why    string // the reason in words, with what led to it; at most 1 KiB; "" without a reason
	// Gone says that the caller left before the end, which is nobody's failure.
	Gone bool

	Start     time.Time
	Handshake time.Duration // of TLS with who connected to us
	FirstByte time.Duration // from Start to the response's header; 0 without one
	Duration  time.Duration // from Start to the end
	Sent      int64         // bytes by the side that connected: the request's body
	Received  int64         // bytes to the side that connected: the response's body
	Requests  int64         // of a Connection of HTTP: how many it carried
	HTTP      bool          // of a Connection: it carries requests, each with a record of its own

	// Tries are those at endpoints, in order; at most MaxTries are kept.
	Tries []Try
	// Retries is how many there were after the first.
	Retries int
}

// MaxTries bounds the tries that a record holds.
const MaxTries = 16

// A Try is one attempt at one endpoint.
type Try struct {
	Target   connect.TargetID
	Endpoint string
	// Peer is whom TLS has proved the endpoint to be, the zero Identity for the
	// application and without TLS.
	Peer   connect.Identity
	Start  time.Duration // since the record's Start
	Took   time.Duration // to the response's header, or to the failure
	Status int           // 0 without a response
	Reason connect.Reason
	Error  string // in words; "" when it did not fail
}

// Failed reports whether somebody was not served, who still wanted to be.
func (r *Record) Failed() bool { return r.Reason != "" && !r.Gone }

// PathOnly is Path without its query.
func (r *Record) PathOnly() string {
	path, _, _ := strings.Cut(r.Path, "?")
	return path
}

// Keep returns a copy that may be kept. It has no headers and no TLS state: both
// can hold secrets, and are large.
func (r *Record) Keep() Record {
	out := *r
	out.RequestHeader, out.ResponseHeader, out.TLS = nil, nil, nil
	out.Tries = slices.Clone(r.Tries)
	return out
}

// A Sink is told of every connection and request at its end, in the goroutine
// that served it: it must not block, and must not panic.
type Sink interface{ Done(r *Record) }

// A Tracer follows requests from service to service.
type Tracer interface {
	// Begin begins the span of a request whose header is h. What the record says of
	// its end is not known yet. It returns nil when there is nothing to follow:
	// headers then go on as they came.
	Begin(r *Record, h connect.Header) Span
}

// A Span is that of one request. It is used by one goroutine at a time.
type Span interface {
	// IDs are those for logs, in hex.
	IDs() (trace, span string)
	// Try begins the span of one attempt, the application's among them, and writes
	// into h what the next one needs to know. end is called once, when the header of
	// the response is there or the attempt has failed.
	Try(h connect.Header) (end func(t *Try))
	// End ends the span. The record is complete.
	End(r *Record)
}
