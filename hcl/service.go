// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import "time"

// A Service is one service of this host, with the fields of a service
// definition in Consul's agent configuration.
type Service struct {
	ID         string // unique on the host; the name unless set
	Name       string
	Address    string // "" means the address of the Consul agent's node
	Port       int    // 0 with a SocketPath
	SocketPath string
	Token      Secret // for registering this service; "" means consul.token

	Tags              []string
	Meta              map[string]string
	TaggedAddresses   map[string]TaggedAddress // lan, wan, …
	Weights           *Weights                 // nil means Consul's default
	EnableTagOverride bool
	Checks            []Check

	Connect Connect
}

// A TaggedAddress is another address of a service (Consul, service definition:
// tagged_addresses).
type TaggedAddress struct {
	Address string
	Port    int // 0 means the port of the service
}

// Weights are the DNS and balancing weights of a service by its health (Consul,
// service definition: weights).
type Weights struct {
	Passing int // at least 1
	Warning int
}

// A Check is a health check with the fields of Consul's check definition.
// Exactly one kind is set: HTTP, H2Ping, TCP, UDP, GRPC, Args, TTL, or
// an alias (AliasService, AliasNode). The short form of a Nomad job (type, path,
// port) has been converted.
type Check struct {
	ID     string // "" lets Consul number it
	Name   string // "" lets Consul name it
	Notes  string
	Status string // initial: passing, warning, critical; "" means critical

	HTTP   string // URL
	Method string // "" means GET
	Header map[string][]string
	Body   string

	H2Ping       string // host:port
	H2PingUseTLS bool
	TCP          string // host:port
	TCPUseTLS    bool
	UDP          string // host:port
	GRPC         string // host:port, optionally /service
	GRPCUseTLS   bool

	Args              []string // a script; Consul must allow script checks
	DockerContainerID string   // runs Args inside a container
	Shell             string   // of the container
	TTL               time.Duration
	AliasService      string // a service ID
	AliasNode         string

	Interval      time.Duration // between two runs; zero only for TTL and alias
	Timeout       time.Duration // 0 means Consul's default
	TLSServerName string
	TLSSkipVerify bool

	SuccessBeforePassing           int
	FailuresBeforeWarning          int
	FailuresBeforeCritical         int
	DeregisterCriticalServiceAfter time.Duration // 0 means never
}

// Connect is the mesh part of a service.
type Connect struct {
	SidecarService *SidecarService // never nil in a valid Config
}

// A SidecarService is the registration of the sidecar itself. Its ID in Consul
// is always the service's ID with "-sidecar-proxy" behind it.
type SidecarService struct {
	Name    string // "" means the service's name with "-sidecar-proxy" behind it
	Address string // "" means the service's
	Port    int    // of the inbound listener; 0 means a free one of 21000-21255

	Tags              []string                 // nil means the service's
	Meta              map[string]string        // nil means the service's
	TaggedAddresses   map[string]TaggedAddress // nil means the service's
	Weights           *Weights                 // nil means Consul's default
	EnableTagOverride bool
	Checks            []Check // replace the default checks

	// DisableDefaultTCPCheck leaves out the TCP check of the inbound listener
	// (Nomad, sidecar_service: disable_default_tcp_check).
	DisableDefaultTCPCheck bool

	Proxy Proxy
}

// A Proxy is how the sidecar serves (Consul, proxy configuration).
type Proxy struct {
	LocalServiceAddress    string // host of the application
	LocalServicePort       int    // the service's unless set; 0 with a socket path
	LocalServiceSocketPath string // the service's unless set
	Mode                   string // "" or direct

	// Config is Consul's opaque proxy configuration. Values are nil, bool,
	// string, int64, float64, []any and map[string]any.
	Config map[string]any

	Upstreams   []Upstream
	MeshGateway string // "", none, local, remote; for all upstreams
	Expose      Expose
	AccessLogs  *AccessLogs `json:",omitempty"` // nil: those of proxy-defaults
}

// Expose names what is reachable through the inbound side without mTLS.
type Expose struct {
	Checks bool
	Paths  []ExposePath
}

// An ExposePath is one HTTP path that is reachable without mTLS.
type ExposePath struct {
	Path          string
	LocalPathPort int
	ListenerPort  int
	Protocol      string // http, http2
}

// An Upstream is a service that the application calls through a local listener:
// LocalBindAddress and LocalBindPort, or LocalBindSocketPath.
type Upstream struct {
	DestinationName      string
	DestinationType      string // service, prepared_query
	DestinationNamespace string
	DestinationPartition string
	DestinationPeer      string
	Datacenter           string // "" means our own

	LocalBindAddress    string // "" with a socket path
	LocalBindPort       int
	LocalBindSocketPath string
	LocalBindSocketMode string // octal; "" leaves it to the umask

	MeshGatewayMode string // "", none, local, remote; "" means the proxy's

	// Config is Consul's opaque upstream configuration, with the types of
	// Proxy.Config.
	Config map[string]any
}
