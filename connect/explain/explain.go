// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

// Package explain holds the answer to "what becomes of this call, and why": the
// chain of decisions in values, its verdict, and its text. It must not decide
// anything about traffic itself: whoever runs the traffic says what it does.
package explain

import (
	"time"

	"github.com/outrider-mesh/outrider/connect"
)

// Whole is the share of all requests: shares are in hundredths of a percent.
const Whole = 10_000

// An Explanation is the chain of decisions for one question. It holds no value
// of a header and no query of a path.
type Explanation struct {
	Source      string
	Destination string
	Method      string `json:",omitempty"` // "" for a connection
	Path        string `json:",omitempty"` // without its query

	// Outbound is what the sidecar of the source does; nil when it is not known here.
	Outbound *Outbound `json:",omitempty"`
	// Inbound is what the sidecars of the services do that it may come to.
	Inbound []Inbound `json:",omitempty"`
	Verdict Verdict
}

// A Verdict is what becomes of it in the end.
type Verdict struct {
	// Served is the share that nothing known here stands in the way of, Unknown the
	// share of which nobody here can tell. The rest is refused.
	Served, Unknown int
	// Reason is why, for the largest share that is refused, or why the latest one
	// was not served, see Observed. "" when nothing is in the way.
	Reason connect.Reason `json:",omitempty"`
	Why    string
	// Observed says that nothing in the configuration refuses it, and that Reason is
	// what happened to the latest one.
	Observed bool `json:",omitempty"`
	Outcomes []Outcome
}

// An Outcome is that of a share of the requests.
type Outcome struct {
	Share   int
	Target  connect.TargetID `json:",omitempty"`
	Service string           `json:",omitempty"` // of Inbound
	Reason  connect.Reason   `json:",omitempty"` // "" when it is served or Unknown
	Why     string           `json:",omitempty"`
	Unknown bool             `json:",omitempty"`
}

// An Outbound is what the sidecar of the source does with a call.
type Outbound struct {
	Service  string
	ProxyID  string
	Snapshot uint64
	Identity string // SPIFFE ID that is presented
	// Caller is Identity in its parts.
	Caller   connect.Identity    `json:"-"`
	Upstream connect.UpstreamID  `json:",omitempty"` // "" when there is none
	Listener string              `json:",omitempty"` // where the application calls it
	Protocol connect.Protocol    `json:",omitempty"`
	Calls    connect.ServiceName `json:"-"` // whom the upstream stands for
	// Reason and Why say why it goes no further than here; "" when it does.
	Reason   connect.Reason `json:",omitempty"`
	Why      string         `json:",omitempty"`
	Rule     *Rule          `json:",omitempty"` // nil without a router
	Ways     []Way          `json:",omitempty"`
	Settings []Setting      `json:",omitempty"`
	Lately   *Lately        `json:",omitempty"`
	Notes    []string       `json:",omitempty"`
}

// A Rule is that of a router which matches.
type Rule struct {
	Number, Of int    // Number is from 1
	Match      string // what it matches, in words
	Path       string `json:",omitempty"` // what the path becomes, without its query; "" when it stays
}

// A Way is where a share of the requests goes.
type Way struct {
	Share    int
	Node     string // the resolver, in Consul's words
	Splitter string `json:",omitempty"` // that chose it; "" without one
	// Target is the one that is called, "" with a Reason.
	Target  connect.TargetID `json:",omitempty"`
	Targets []Target         // in failover order
	Balance Setting
	Reason  connect.Reason `json:",omitempty"`
	Why     string         `json:",omitempty"`
	// Arrives is the request as the destination gets it; nil for a connection.
	Arrives *connect.Head `json:"-"`
	// Called is the target that is called, or with a Reason would be.
	Called connect.Target `json:"-"`
}

// A Target is one that requests of a way may be sent to.
type Target struct {
	ID         connect.TargetID
	Service    string
	Subset     string `json:",omitempty"`
	Filter     string `json:",omitempty"` // of the subset
	Datacenter string `json:",omitempty"`
	Peer       string `json:",omitempty"`
	Failover   int    `json:",omitempty"` // position from 1; 0 is the first target
	Called     bool
	SNI        string
	Expects    []string // SPIFFE IDs of which an endpoint must present one
	Through    string   `json:",omitempty"` // what Endpoints are, if not instances
	Connect    Setting  // timeout
	Endpoints  []Endpoint
}

// An Endpoint is one of a target.
type Endpoint struct {
	ID          string
	Node        string `json:",omitempty"`
	Address     string
	Weight      int
	NotUsed     string `json:",omitempty"` // why it gets nothing; "" when it may
	LastFailure string `json:",omitempty"`
	// Chosen says that the request may go here at its first try.
	Chosen bool
}

// A Setting is a value in force and where it comes from.
type Setting struct {
	Name, Value, Origin string
}

// An Inbound is what the sidecar of a destination does with what comes to it.
type Inbound struct {
	Service string
	// From says where the decision was made: by the sidecar on this host, or from
	// the intentions in Consul.
	From     string
	ProxyID  string           `json:",omitempty"`
	Snapshot uint64           `json:",omitempty"`
	Protocol connect.Protocol `json:",omitempty"`
	Caller   string           `json:",omitempty"` // SPIFFE ID that is judged
	Path     string           `json:",omitempty"` // that is judged, without its query
	// Unknown says why nobody here can tell; the rest is empty then. "" when it was
	// judged.
	Unknown string         `json:",omitempty"`
	Allowed bool           // also false where it did not come to a decision
	Reason  connect.Reason `json:",omitempty"`
	Why     string         `json:",omitempty"`

	Intention   string       `json:",omitempty"` // "web → api", "default policy", "trust domain"
	Precedence  int          `json:",omitempty"`
	Permission  int          `json:",omitempty"` // that decided, from 1; 0 for none
	Permissions []Permission `json:",omitempty"` // of the intention, in order
	Tokens      []string     `json:",omitempty"` // providers of which one must have issued a token, each in words
	Written     *Written     `json:",omitempty"`
	// Rule is the intention; nil when none decided.
	Rule *connect.Intention `json:"-"`

	Application string    `json:",omitempty"`
	Settings    []Setting `json:",omitempty"`
	Lately      *Lately   `json:",omitempty"`
	Notes       []string  `json:",omitempty"`
}

// A Permission is one of an intention.
type Permission struct {
	Number int // from 1
	Match  string
	Action string
	Tokens []string `json:",omitempty"`
	// Decides says that it is the first that matches; those before it do not match,
	// those after it were not asked.
	Decides bool `json:",omitempty"`
}

// A Written says who wrote an intention, as far as Consul tells.
type Written struct {
	Entry       string // kind and name of the config entry
	Description string `json:",omitempty"`
	// By is the system that the entry says it comes from (Consul, external-source).
	By       string            `json:",omitempty"`
	Meta     map[string]string `json:",omitempty"`
	Created  uint64            `json:",omitempty"` // index
	Modified uint64            `json:",omitempty"` // index
	// CreatedAt and UpdatedAt are told of intentions only that were written through
	// Consul's older API of intentions.
	CreatedAt time.Time `json:",omitzero"`
	UpdatedAt time.Time `json:",omitzero"`
	// Problem says why nothing more is known; "" when it is.
	Problem string `json:",omitempty"`
}

// A Lately is the latest failure of this source and destination.
type Lately struct {
	At       time.Time
	Reason   connect.Reason
	Why      string
	Endpoint string `json:",omitempty"`
	// Remote says that the sidecar of the other side gave the reason.
	Remote bool `json:",omitempty"`
	// Since is how many have been served after it.
	Since int64 `json:",omitempty"`
}
