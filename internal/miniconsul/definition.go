// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

// A definition is a service as it is registered (Consul, service definition).
// What is registered is kept in the same form, with its defaults filled in.
type definition struct {
	Kind              string
	ID                string
	Name              string
	Tags              []string
	Meta              map[string]string
	Address           string
	Port              int
	SocketPath        string
	TaggedAddresses   map[string]address
	EnableTagOverride bool
	Weights           *weights
	Check             *checkDefinition
	Checks            []*checkDefinition
	Proxy             *proxy
	Connect           *connectBlock
	Namespace         string
	Partition         string
	Locality          *locality
}

type address struct {
	Address string
	Port    int
}

type weights struct{ Passing, Warning int }

type locality struct{ Region, Zone string }

type connectBlock struct {
	Native         bool        `json:",omitempty"`
	SidecarService *definition `json:",omitempty"`
}

// A proxy is the proxy block of a sidecar, in the shape that Consul shows.
type proxy struct {
	DestinationServiceName string            `json:",omitempty"`
	DestinationServiceID   string            `json:",omitempty"`
	LocalServiceAddress    string            `json:",omitempty"`
	LocalServicePort       int               `json:",omitempty"`
	LocalServiceSocketPath string            `json:",omitempty"`
	Mode                   string            `json:",omitempty"`
	TransparentProxy       *transparentProxy `json:",omitempty"`
	Config                 map[string]any    `json:",omitempty"`
	Upstreams              []upstream        `json:",omitempty"`
	MeshGateway            meshGateway
	Expose                 expose
	AccessLogs             *accessLogs `json:",omitempty"`
}

type transparentProxy struct {
	OutboundListenerPort int  `json:",omitempty"`
	DialedDirectly       bool `json:",omitempty"`
}

type meshGateway struct {
	Mode string `json:",omitempty"`
}

type expose struct {
	Checks bool         `json:",omitempty"`
	Paths  []exposePath `json:",omitempty"`
}

type exposePath struct {
	ListenerPort    int    `json:",omitempty"`
	Path            string `json:",omitempty"`
	LocalPathPort   int    `json:",omitempty"`
	Protocol        string `json:",omitempty"`
	ParsedFromCheck bool
}

type accessLogs struct {
	Enabled             bool   `json:",omitempty"`
	DisableListenerLogs bool   `json:",omitempty"`
	Type                string `json:",omitempty"`
	Path                string `json:",omitempty"`
	JSONFormat          string `json:",omitempty"`
	TextFormat          string `json:",omitempty"`
}

type upstream struct {
	DestinationType      string `json:",omitempty"`
	DestinationPartition string `json:",omitempty"`
	DestinationNamespace string `json:",omitempty"`
	DestinationPeer      string `json:",omitempty"`
	DestinationName      string
	Datacenter           string         `json:",omitempty"`
	LocalBindAddress     string         `json:",omitempty"`
	LocalBindPort        int            `json:",omitempty"`
	LocalBindSocketPath  string         `json:",omitempty"`
	LocalBindSocketMode  string         `json:",omitempty"`
	Config               map[string]any `json:",omitempty"`
	MeshGateway          meshGateway
}

// A checkDefinition is a health check as it is registered. The kinds that the
// server does not run are read too, to be refused by name.
type checkDefinition struct {
	CheckID                string
	Name                   string
	Notes                  string
	Status                 string
	ScriptArgs             []string
	Args                   []string
	DockerContainerID      string
	Shell                  string
	Interval               checkTime
	Timeout                checkTime
	TTL                    checkTime
	HTTP                   string
	Header                 map[string][]string
	Method                 string
	Body                   string
	TCP                    string
	TCPUseTLS              bool
	UDP                    string
	TLSServerName          string
	TLSSkipVerify          bool
	GRPC                   string
	GRPCUseTLS             bool
	H2PING                 string
	H2PingUseTLS           bool
	OSService              string
	AliasNode              string
	AliasService           string
	SuccessBeforePassing   int
	FailuresBeforeWarning  int
	FailuresBeforeCritical int

	// DeregisterCriticalServiceAfter is read and not acted on: whoever runs
	// this server looks at it.
	DeregisterCriticalServiceAfter checkTime
}

// A service is one registered instance.
type service struct {
	def            definition
	parent         string // of a sidecar: the ID of the service it came with
	create, modify uint64
}

const kindProxy = "connect-proxy"

// meshName is the service that the instance stands for in the mesh, "" for
// none: what health/connect finds it under.
func (s *service) meshName() string {
	switch {
	case s.def.Kind == kindProxy && s.def.Proxy != nil:
		return s.def.Proxy.DestinationServiceName
	case s.def.Connect != nil && s.def.Connect.Native:
		return s.def.Name
	}
	return ""
}

// A serviceView is a service as the agent's endpoints show it.
type serviceView struct {
	Kind              string `json:",omitempty"`
	ID                string
	Service           string
	Tags              []string
	Meta              map[string]string
	Port              int
	Address           string
	SocketPath        string             `json:",omitempty"`
	TaggedAddresses   map[string]address `json:",omitempty"`
	Weights           weights
	EnableTagOverride bool
	ContentHash       string        `json:",omitempty"`
	Proxy             *proxy        `json:",omitempty"`
	Connect           *connectBlock `json:",omitempty"`
	Datacenter        string        `json:",omitempty"`
	Locality          *locality     `json:",omitempty"`
}

// view shows a service merged with the defaults of the mesh.
func (st *state) view(s *service) serviceView {
	v := serviceView{
		Kind: s.def.Kind, ID: s.def.ID, Service: s.def.Name,
		Tags: s.def.Tags, Meta: s.def.Meta,
		Port: s.def.Port, Address: s.def.Address, SocketPath: s.def.SocketPath,
		TaggedAddresses: s.def.TaggedAddresses, Weights: *s.def.Weights,
		EnableTagOverride: s.def.EnableTagOverride, Proxy: st.merged(s.def.Proxy),
		Datacenter: st.opts.Datacenter, Locality: s.def.Locality,
	}
	if s.def.Connect != nil && s.def.Connect.Native {
		v.Connect = &connectBlock{Native: true}
	}
	return v
}
