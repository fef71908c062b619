// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/outrider-mesh/outrider/connect"
)

// A Definition is a local service and its sidecar, as they are to be
// registered. The words are those of Consul's service definition.
type Definition struct {
	ID                string // empty: the name
	Token             string // ACL token to register with; empty: the client's
	Name              string
	Namespace         string
	Partition         string
	Address           string
	Port              int
	SocketPath        string
	Tags              []string
	Meta              map[string]string
	Weights           *Weights // nil: Consul's default, 1 and 1
	EnableTagOverride bool
	TaggedAddresses   map[string]TaggedAddress
	Checks            []Check
	Sidecar           Sidecar
}

// Weights is the share of an instance while it passes and while it warns.
type Weights struct{ Passing, Warning int }

// A TaggedAddress is another address of a service: "wan", "lan".
type TaggedAddress struct {
	Address string
	Port    int
}

// A Sidecar is the proxy of a service. What is empty, Consul fills in: a free
// port, the service's address, tags and meta, and two checks (Consul, sidecar
// service registration).
type Sidecar struct {
	Name              string // empty: the service's name with "-sidecar-proxy" behind it
	Address           string
	Port              int
	Tags              []string
	Meta              map[string]string
	Weights           *Weights
	TaggedAddresses   map[string]TaggedAddress
	EnableTagOverride bool
	Checks            []Check
	Proxy             Proxy
}

// Proxy is the proxy block of a sidecar.
type Proxy struct {
	LocalServiceAddress    string
	LocalServicePort       int
	LocalServiceSocketPath string
	Mode                   string // "", direct, transparent
	Config                 map[string]any
	MeshGateway            string // "", none, local, remote
	Upstreams              []Upstream
	ExposeChecks           bool
	ExposePaths            []ExposePath
	AccessLogs             *connect.AccessLogs // nil leaves them to proxy-defaults
}

// An Upstream is a destination of the sidecar.
type Upstream struct {
	DestinationType      string // "", service, prepared_query
	DestinationName      string
	DestinationNamespace string
	DestinationPartition string
	DestinationPeer      string
	Datacenter           string
	LocalBindAddress     string
	LocalBindPort        int
	LocalBindSocketPath  string
	LocalBindSocketMode  string // octal
	Config               map[string]any
	MeshGateway          string
}

// An ExposePath is a path that is served without mTLS.
type ExposePath struct {
	ListenerPort  int
	Path          string
	LocalPathPort int
	Protocol      string
}

// A Check is a health check that Consul's agent runs. Zero fields are left to
// Consul.
type Check struct {
	ID, Name, Notes, Status string
	Args                    []string // a script; the agent must allow them
	DockerContainerID       string   // runs Args inside a container, with Shell
	Shell                   string
	HTTP, Method, Body      string
	Header                  map[string][]string
	TCP                     string
	TCPUseTLS               bool
	UDP                     string
	GRPC                    string
	GRPCUseTLS              bool
	H2PING                  string
	H2PingUseTLS            bool
	TLSServerName           string
	TLSSkipVerify           bool
	AliasNode, AliasService string
	TTL, Interval, Timeout  time.Duration
	SuccessBeforePassing    int
	FailuresBeforeWarning   int
	FailuresBeforeCritical  int

	DeregisterCriticalServiceAfter time.Duration
}

// ServiceID is the ID under which Consul knows the service.
func (d Definition) ServiceID() string { return either(d.ID, d.Name) }

// ProxyID is the ID that Consul gives the sidecar.
func (d Definition) ProxyID() string { return d.ServiceID() + "-sidecar-proxy" }

// fingerprintKey is the meta key under which a registration carries the hash of
// the definition it was made of. Consul returns registrations merged with
// central defaults, so that what was taken out of a definition cannot be told
// from what the mesh adds; the hash can, even by the next process.
const fingerprintKey = "outrider-definition"

// registration returns what is sent to Consul, with the fingerprint.
func (d Definition) registration() (*api.AgentServiceRegistration, error) {
	r := &api.AgentServiceRegistration{
		ID:                d.ServiceID(),
		Name:              d.Name,
		Namespace:         d.Namespace,
		Partition:         d.Partition,
		Address:           d.Address,
		Port:              d.Port,
		SocketPath:        d.SocketPath,
		Tags:              d.Tags,
		EnableTagOverride: d.EnableTagOverride,
		TaggedAddresses:   addresses(d.TaggedAddresses),
		Weights:           weights(d.Weights),
		Meta:              maps.Clone(d.Meta),
		Checks:            checks(d.Checks),
		Connect:           &api.AgentServiceConnect{SidecarService: d.Sidecar.registration()},
	}
	content, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("service %q: its configuration cannot be written as JSON: %w", r.ID, err)
	}
	hash := sha256.Sum256(content)
	if r.Meta == nil {
		r.Meta = make(map[string]string, 1)
	}
	r.Meta[fingerprintKey] = hex.EncodeToString(hash[:8])
	return r, nil
}

func addresses(tagged map[string]TaggedAddress) map[string]api.ServiceAddress {
	all := make(map[string]api.ServiceAddress, len(tagged))
	for tag, a := range tagged {
		all[tag] = api.ServiceAddress{Address: a.Address, Port: a.Port}
	}
	return all
}

func weights(w *Weights) *api.AgentWeights {
	if w == nil {
		return nil
	}
	return &api.AgentWeights{Passing: w.Passing, Warning: w.Warning}
}

func (s Sidecar) registration() *api.AgentServiceRegistration {
	proxy := &api.AgentServiceConnectProxyConfig{
		LocalServiceAddress:    s.Proxy.LocalServiceAddress,
		LocalServicePort:       s.Proxy.LocalServicePort,
		LocalServiceSocketPath: s.Proxy.LocalServiceSocketPath,
		Mode:                   api.ProxyMode(s.Proxy.Mode),
		Config:                 s.Proxy.Config,
		MeshGateway:            api.MeshGatewayConfig{Mode: api.MeshGatewayMode(s.Proxy.MeshGateway)},
		Expose:                 api.ExposeConfig{Checks: s.Proxy.ExposeChecks},
	}
	if a := s.Proxy.AccessLogs; a != nil {
		proxy.AccessLogs = &api.AccessLogsConfig{
			Enabled: a.Enabled, DisableListenerLogs: a.NoListenerLogs, Type: api.LogSinkType(a.Type), Path: a.Path,
			JSONFormat: a.JSONFormat, TextFormat: a.TextFormat,
		}
	}
	for _, u := range s.Proxy.Upstreams {
		proxy.Upstreams = append(proxy.Upstreams, api.Upstream{
			DestinationType:      api.UpstreamDestType(u.DestinationType),
			DestinationName:      u.DestinationName,
			DestinationNamespace: u.DestinationNamespace,
			DestinationPartition: u.DestinationPartition,
			DestinationPeer:      u.DestinationPeer,
			Datacenter:           u.Datacenter,
			LocalBindAddress:     u.LocalBindAddress,
			LocalBindPort:        u.LocalBindPort,
			LocalBindSocketPath:  u.LocalBindSocketPath,
			LocalBindSocketMode:  u.LocalBindSocketMode,
			Config:               u.Config,
			MeshGateway:          api.MeshGatewayConfig{Mode: api.MeshGatewayMode(u.MeshGateway)},
		})
	}
	for _, p := range s.Proxy.ExposePaths {
		proxy.Expose.Paths = append(proxy.Expose.Paths, api.ExposePath{
			ListenerPort: p.ListenerPort, Path: p.Path, LocalPathPort: p.LocalPathPort, Protocol: p.Protocol,
		})
	}
	r := &api.AgentServiceRegistration{
		Name: s.Name, Address: s.Address, Port: s.Port, Tags: s.Tags, Meta: s.Meta, Weights: weights(s.Weights),
		EnableTagOverride: s.EnableTagOverride, Checks: checks(s.Checks), Proxy: proxy,
	}
	if s.TaggedAddresses != nil {
		r.TaggedAddresses = addresses(s.TaggedAddresses)
	}
	return r
}

func checks(list []Check) api.AgentServiceChecks {
	var all api.AgentServiceChecks
	for _, c := range list {
		all = append(all, &api.AgentServiceCheck{
			CheckID: c.ID, Name: c.Name, Notes: c.Notes, Status: c.Status,
			Args: c.Args, DockerContainerID: c.DockerContainerID, Shell: c.Shell,
			HTTP: c.HTTP, Method: c.Method, Body: c.Body, Header: c.Header,
			TCP: c.TCP, TCPUseTLS: c.TCPUseTLS, UDP: c.UDP,
			GRPC: c.GRPC, GRPCUseTLS: c.GRPCUseTLS,
			H2PING: c.H2PING, H2PingUseTLS: c.H2PingUseTLS,
			TLSServerName: c.TLSServerName, TLSSkipVerify: c.TLSSkipVerify,
			AliasNode: c.AliasNode, AliasService: c.AliasService,
			TTL: seconds(c.TTL), Interval: seconds(c.Interval), Timeout: seconds(c.Timeout),
			SuccessBeforePassing:           c.SuccessBeforePassing,
			FailuresBeforeWarning:          c.FailuresBeforeWarning,
			FailuresBeforeCritical:         c.FailuresBeforeCritical,
			DeregisterCriticalServiceAfter: seconds(c.DeregisterCriticalServiceAfter),
		})
	}
	return all
}

// seconds writes a duration as Consul reads it; zero is left out.
func seconds(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
