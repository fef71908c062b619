// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"github.com/outrider-mesh/outrider/agent/consul"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/hcl"
)

// definitions says in the words of Consul's API what the configuration says in
// those of its language.
func definitions(services []hcl.Service) []consul.Definition {
	out := make([]consul.Definition, len(services))
	for i, s := range services {
		out[i] = definition(s)
	}
	return out
}

func proxyID(s hcl.Service) string { return definition(s).ProxyID() }

func definition(s hcl.Service) consul.Definition {
	return consul.Definition{
		ID: s.ID, Name: s.Name, Token: string(s.Token), Address: s.Address, Port: s.Port, SocketPath: s.SocketPath,
		Tags: s.Tags, Meta: s.Meta, EnableTagOverride: s.EnableTagOverride,
		Weights: weights(s.Weights), TaggedAddresses: taggedAddresses(s.TaggedAddresses), Checks: checks(s.Checks),
		Sidecar: sidecarDefinition(s),
	}
}

func sidecarDefinition(s hcl.Service) consul.Sidecar {
	sc := s.Connect.SidecarService
	out := consul.Sidecar{
		Name: sc.Name, Address: sc.Address, Port: sc.Port, Tags: sc.Tags, Meta: sc.Meta, Checks: checks(sc.Checks),
		Weights: weights(sc.Weights), TaggedAddresses: taggedAddresses(sc.TaggedAddresses), EnableTagOverride: sc.EnableTagOverride,
		Proxy: consul.Proxy{
			LocalServiceAddress: sc.Proxy.LocalServiceAddress, LocalServicePort: sc.Proxy.LocalServicePort,
			LocalServiceSocketPath: sc.Proxy.LocalServiceSocketPath,
			Mode:                   sc.Proxy.Mode, Config: sc.Proxy.Config, MeshGateway: sc.Proxy.MeshGateway,
			ExposeChecks: sc.Proxy.Expose.Checks,
		},
	}
	if logs := sc.Proxy.AccessLogs; logs != nil {
		a := accessLogs(*logs)
		out.Proxy.AccessLogs = &a
	}
	// Own checks replace both defaults of Consul; without the TCP check the
	// alias of the service is what is left of them.
	if sc.DisableDefaultTCPCheck && len(out.Checks) == 0 {
		out.Checks = []consul.Check{{Name: "Connect Sidecar Aliasing " + s.ID, AliasService: s.ID}}
	}
	for _, p := range sc.Proxy.Expose.Paths {
		out.Proxy.ExposePaths = append(out.Proxy.ExposePaths, consul.ExposePath{
			ListenerPort: p.ListenerPort, Path: p.Path, LocalPathPort: p.LocalPathPort, Protocol: p.Protocol,
		})
	}
	for _, u := range sc.Proxy.Upstreams {
		out.Proxy.Upstreams = append(out.Proxy.Upstreams, upstream(u))
	}
	return out
}

// accessLogs are those of a configuration in the words of the mesh.
func accessLogs(a hcl.AccessLogs) connect.AccessLogs {
	return connect.AccessLogs{
		Enabled: a.Enabled, NoListenerLogs: a.DisableListenerLogs, Type: connect.AccessLogType(a.Type), Path: a.Path,
		JSONFormat: a.JSONFormat, TextFormat: a.TextFormat,
	}
}

func upstream(u hcl.Upstream) consul.Upstream {
	return consul.Upstream{
		DestinationType: u.DestinationType, DestinationName: u.DestinationName, DestinationNamespace: u.DestinationNamespace,
		DestinationPartition: u.DestinationPartition, DestinationPeer: u.DestinationPeer, Datacenter: u.Datacenter,
		LocalBindAddress: u.LocalBindAddress, LocalBindPort: u.LocalBindPort,
		LocalBindSocketPath: u.LocalBindSocketPath, LocalBindSocketMode: u.LocalBindSocketMode,
		MeshGateway: u.MeshGatewayMode, Config: u.Config,
	}
}

func weights(w *hcl.Weights) *consul.Weights {
	if w == nil {
		return nil
	}
	return &consul.Weights{Passing: w.Passing, Warning: w.Warning}
}

func taggedAddresses(addresses map[string]hcl.TaggedAddress) map[string]consul.TaggedAddress {
	if addresses == nil {
		return nil
	}
	out := make(map[string]consul.TaggedAddress, len(addresses))
	for tag, a := range addresses {
		out[tag] = consul.TaggedAddress{Address: a.Address, Port: a.Port}
	}
	return out
}

func checks(list []hcl.Check) []consul.Check {
	var out []consul.Check
	for _, c := range list {
		out = append(out, consul.Check{
			ID: c.ID, Name: c.Name, Notes: c.Notes, Status: c.Status, Args: c.Args, DockerContainerID: c.DockerContainerID, Shell: c.Shell,
			HTTP: c.HTTP, Method: c.Method, Body: c.Body, Header: c.Header,
			TCP: c.TCP, TCPUseTLS: c.TCPUseTLS, UDP: c.UDP, GRPC: c.GRPC, GRPCUseTLS: c.GRPCUseTLS,
			H2PING: c.H2Ping, H2PingUseTLS: c.H2PingUseTLS, TLSServerName: c.TLSServerName, TLSSkipVerify: c.TLSSkipVerify,
			AliasNode: c.AliasNode, AliasService: c.AliasService, TTL: c.TTL, Interval: c.Interval, Timeout: c.Timeout,
			SuccessBeforePassing: c.SuccessBeforePassing, FailuresBeforeWarning: c.FailuresBeforeWarning,
			FailuresBeforeCritical: c.FailuresBeforeCritical, DeregisterCriticalServiceAfter: c.DeregisterCriticalServiceAfter,
		})
	}
	return out
}
