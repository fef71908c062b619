// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package connect

import (
	"io/fs"
	"time"
)

// A Protocol is how a service is spoken to. L4 handling treats all alike.
type Protocol string

// The protocols of Consul's mesh. Anything else counts as TCP.
const (
	TCP   Protocol = "tcp"
	HTTP  Protocol = "http"
	HTTP2 Protocol = "http2"
	GRPC  Protocol = "grpc"
)

// A Service is the local service and how its sidecar is reached and reaches it.
type Service struct {
	ID         string // Consul's ID of the local service, unique on its agent
	ProxyID    string // Consul's ID of the sidecar
	Name       string
	Namespace  string
	Partition  string
	Datacenter string
	Protocol   Protocol

	BindAddress string // of the inbound listener: an IP address
	BindPort    int    // of the inbound listener; 0 lets the system choose

	// The application: a unix socket when LocalSocketPath is set, else TCP.
	LocalAddress    string
	LocalPort       int
	LocalSocketPath string

	Transparent *Transparent // nil: only upstreams with a listener of their own are served

	LocalConnectTimeout   time.Duration // to the application; 5 s unless configured
	MaxInboundConnections int           // 0 means the proxy's own limit
	// MaxMemory is how many bytes connections and requests of the service may
	// hold (our own proxy config key, outrider_memory_mb); 0 means the proxy's share.
	MaxMemory  int64
	AccessLogs AccessLogs
	Telemetry  Telemetry

	// The rest is for HTTP only.

	LocalRequestTimeout time.Duration // the whole response; 0 means 15 s, negative none
	LocalIdleTimeout    time.Duration // a stream without a byte either way; 0 means 5 min, negative none
	MaxRequestHeaders   int           // bytes; 0 means 60 KiB
	Expose              []ExposedPath
	RateLimits          RateLimits
	Faults              []Fault
}

// Speaks reports whether the protocol is one of HTTP, so that requests are
// told apart.
func (p Protocol) Speaks() bool { return p == HTTP || p == HTTP2 || p == GRPC }

// An ExposedPath is one path of the application that anybody may call without
// TLS and without intentions, for health checks and metrics (Consul, expose
// paths).
type ExposedPath struct {
	ListenerPort  int // on the inbound listener's address
	Path          string
	LocalPathPort int
	Protocol      Protocol // http or http2
	// LocalOnly admits loopback and the addresses of AllowFrom only: for checks
	// that the Consul agent makes.
	LocalOnly bool
	AllowFrom []string // IP addresses, besides loopback
}

// RateLimits bound the requests that this instance takes, whoever sends them
// (Consul, service-defaults: rate_limits.instance_level). Zero means no limit.
type RateLimits struct {
	Rate   int // requests per second
	Burst  int // 0 means Rate
	Routes []RouteLimit
	// MaxBody bounds the body of one request, in bytes. Consul has no field for
	// it: it comes from Meta.
	MaxBody int64
}

// A RouteLimit takes the place of the general limit for the paths it matches;
// the first match counts.
type RouteLimit struct {
	Path  PathMatch
	Rate  int
	Burst int
}

// A Fault spoils a share of the requests that this instance takes, to try out
// what callers do then. A zero Match means every
// request.
type Fault struct {
	Match           RequestMatch
	Delay           time.Duration
	DelayMillionths int // share of matching requests that are delayed, in millionths
	AbortStatus     int // HTTP status; 0 means none
	AbortMillionths int // share of matching requests that are aborted, in millionths
}

// Identity is the SPIFFE ID of the service in a trust domain.
func (s Service) Identity(trustDomain string) Identity {
	return Identity{TrustDomain: trustDomain, Partition: s.Partition, Namespace: s.Namespace, Datacenter: s.Datacenter, Service: s.Name}
}

// An UpstreamID names an upstream within one sidecar: "api", "api?dc=dc2",
// "api?peer=east", "query:geo-db". It is what people see in logs and status.
type UpstreamID string

// An Upstream is a service that the local application calls through a local
// listener: BindAddress and BindPort, or BindSocketPath; an implicit one only by
// a virtual IP.
type Upstream struct {
	ID         UpstreamID
	Name       string
	Namespace  string
	Partition  string
	Datacenter string // "" means our own
	Peer       string
	Query      bool // Name is that of a prepared query

	BindAddress    string
	BindPort       int
	BindSocketPath string
	BindSocketMode fs.FileMode // 0 leaves the mode to the umask
	// Implicit says that the upstream is there because intentions let us call it
	// and we are in transparent mode: it has no listener of its own.
	Implicit bool

	Protocol       Protocol      // "" means the chain's
	ConnectTimeout time.Duration // 0 means the chain's
	MeshGateway    string        // "", none, local, remote
	MaxConnections int           // limits.max_connections; negative means not set
	MaxPending     int           // limits.max_pending_requests; negative means not set
	MaxRequests    int           // limits.max_concurrent_requests; negative means not set
	// Balance is the policy where Consul's resolver names none: "" or peak_ewma,
	// or round_robin (our own proxy config key, outrider_lb).
	Balance       string
	PassiveHealth PassiveHealth

	// Problem says why connections to this upstream must be closed; "" when it
	// can be served.
	Problem string
}

// PassiveHealth says when an endpoint that fails is left out, and for how long
// (Consul, service-defaults: passive_health_check). Zero fields take Envoy's
// defaults, which Consul documents as its own.
type PassiveHealth struct {
	MaxFailures        int           // consecutive failures before ejection; 5
	Enforcing          int           // percent of ejections carried out; negative means 0, 0 means 100
	MaxEjectionPercent int           // of a target's endpoints, at least one; 10
	BaseEjectionTime   time.Duration // × number of ejections, at most 300 s; 30 s
	Interval           time.Duration // of the success-rate window; 10 s
}
