// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

// nomadOnly introduces names of a Nomad job that nobody outside Nomad can obey.
const nomadOnly = "%q has a meaning inside Nomad only"

// service decodes one service, from Consul's spelling or from Nomad's.
func (d *decoder) service(o *object) Service {
	var svc Service
	s := d.scope(o)
	s.str("name", &svc.Name)
	s.str("id", &svc.ID)
	if svc.ID == "" {
		svc.ID = svc.Name
	}
	s.address("address", &svc.Address)
	s.port("port", &svc.Port)
	s.str("socket_path", &svc.SocketPath)
	s.secret("token", &svc.Token)
	s.list("tags", &svc.Tags)
	s.strMap("meta", &svc.Meta)
	s.addresses("tagged_addresses", &svc.TaggedAddresses)
	svc.Weights = d.weights(s)
	s.boolean("enable_tag_override", &svc.EnableTagOverride)
	svc.Checks = d.checks(s, svc.Address, svc.Port)
	if connect, given := s.block("connect"); given {
		d.connect(connect, &svc)
	}
	s.refuse(nomadOnly, serviceOfNomad())
	s.refuse("%q is not accepted in a service", serviceRefused())
	s.end()
	return svc
}

func serviceOfNomad() []refusal {
	return []refusal{
		{"provider", "Outrider always registers in Consul. Remove the line."},
		{"task", "Outside Nomad there is no task. Remove the line."},
		{"address_mode", "Write the address itself: address = \"10.0.0.5\", or leave it out for the address of the node."},
		{"canary_tags", "Outside Nomad there are no canaries. Remove the line, or use tags."},
		{"canary_meta", "Outside Nomad there are no canaries. Remove it, or use meta."},
		{"check_restart", "Outrider does not restart the application. Remove it, and let systemd do that."},
		{"on_update", "Outside Nomad there are no deployments. Remove the line."},
		{"identity", "A workload identity comes from Nomad. Remove it, and give a Consul token: token_file in the consul block."},
		{"cluster", "Nomad chooses between Consul clusters. Remove the line; the consul block names the one that is used."},
	}
}

func serviceRefused() []refusal {
	return []refusal{
		{"kind", "Outrider registers the sidecar of a service by itself. Describe the application, and put the sidecar into connect { sidecar_service { … } }."},
		{"proxy", "The proxy belongs to the sidecar: connect { sidecar_service { proxy { … } } }."},
		{"ports", "Consul refuses services with several ports in the mesh. Write one port, and one service for each further port."},
		{"locality", "Routing by locality needs Consul Enterprise and is not supported. Remove it."},
		{"namespace", "One agent serves one namespace. Write it in the consul block."},
		{"partition", "One agent serves one partition. Write it in the consul block."},
	}
}

// weights decodes the weights of a scope; nil when they are absent.
func (d *decoder) weights(outer *scope) *Weights {
	o, given := outer.block("weights")
	if !given {
		return nil
	}
	weights := &Weights{}
	s := d.scope(o)
	s.integer("passing", &weights.Passing)
	s.integer("warning", &weights.Warning)
	s.end()
	return weights
}

func (d *decoder) connect(o *object, svc *Service) {
	s := d.scope(o)
	if sidecar, given := s.block("sidecar_service"); given {
		svc.Connect.SidecarService = d.sidecar(sidecar, svc)
	}
	s.refuse("%q is not supported", []refusal{
		{"native", "A native service terminates mTLS itself and needs no sidecar, so there is nothing for Outrider to do. Write sidecar_service { } instead, or leave the service to Consul's agent."},
		{"gateway", "Outrider is a sidecar, not a gateway. Run the gateway with Nomad or Consul, and remove the service from this file."},
	})
	s.refuse(nomadOnly, []refusal{
		{"sidecar_task", "It describes the task that runs the proxy, which Outrider is. Remove it."},
	})
	s.end()
}

func (d *decoder) sidecar(o *object, svc *Service) *SidecarService {
	sidecar := &SidecarService{}
	s := d.scope(o)
	s.str("name", &sidecar.Name)
	s.address("address", &sidecar.Address)
	s.port("port", &sidecar.Port)
	s.list("tags", &sidecar.Tags)
	s.strMap("meta", &sidecar.Meta)
	s.addresses("tagged_addresses", &sidecar.TaggedAddresses)
	sidecar.Weights = d.weights(s)
	s.boolean("enable_tag_override", &sidecar.EnableTagOverride)
	address := sidecar.Address
	if address == "" {
		address = svc.Address
	}
	sidecar.Checks = d.checks(s, address, sidecar.Port)
	s.boolean("disable_default_tcp_check", &sidecar.DisableDefaultTCPCheck)
	proxy, _ := s.block("proxy")
	sidecar.Proxy = d.proxy(proxy, svc)
	s.refuse("%q is not accepted in a sidecar_service", []refusal{
		{"id", "Consul fixes the ID of a sidecar: the ID of the service and -sidecar-proxy. Remove the line."},
		{"connect", "A sidecar has no sidecar. Remove it."},
		{"kind", "A sidecar_service always is a connect-proxy. Remove the line."},
		{"token", "The sidecar is registered with the token of its service. Move the line there."},
		{"socket_path", "The inbound listener of a sidecar has an address and a port, because peers come over the network. Use port."},
	})
	s.end()
	return sidecar
}

func (d *decoder) proxy(o *object, svc *Service) Proxy {
	var p Proxy
	s := d.scope(o)
	s.address("local_service_address", &p.LocalServiceAddress)
	s.port("local_service_port", &p.LocalServicePort)
	s.str("local_service_socket_path", &p.LocalServiceSocketPath)
	if p.LocalServiceSocketPath == "" && p.LocalServicePort == 0 {
		p.LocalServicePort, p.LocalServiceSocketPath = svc.Port, svc.SocketPath
	}
	s.str("mode", &p.Mode)
	s.free("config", &p.Config)
	for _, upstream := range s.blocks("upstreams", "upstream") {
		p.Upstreams = append(p.Upstreams, d.upstream(upstream))
	}
	p.MeshGateway = d.meshGateway(s)
	expose, _ := s.block("expose")
	p.Expose = d.expose(expose)
	const derived = "The sidecar stands before the service it is written in. Remove the line."
	s.refuse("%q is not accepted here", []refusal{
		{"destination_service_name", derived}, {"destination_service_id", derived}, {"local_service_ports", serviceRefused()[2].why},
	})
	s.refuse("%q is not supported by this version", []refusal{
		{"transparent_proxy", "Name each upstream with a local_bind_port instead."},
		{"envoy_extensions", "Extensions are code for Envoy, which does not run here. Remove it."},
	})
	p.AccessLogs = d.proxyAccessLogs(s)
	s.end()
	return p
}

// meshGateway decodes mesh_gateway { mode = … }.
func (d *decoder) meshGateway(outer *scope) (mode string) {
	o, _ := outer.block("mesh_gateway")
	s := d.scope(o)
	s.str("mode", &mode)
	s.end()
	return mode
}

func (d *decoder) expose(o *object) Expose {
	var e Expose
	s := d.scope(o)
	s.boolean("checks", &e.Checks)
	for _, path := range s.blocks("paths", "path") {
		var p ExposePath
		ps := d.scope(path)
		ps.str("path", &p.Path)
		ps.port("local_path_port", &p.LocalPathPort)
		ps.port("listener_port", &p.ListenerPort)
		ps.str("protocol", &p.Protocol)
		ps.end()
		e.Paths = append(e.Paths, p)
	}
	s.end()
	return e
}

func (d *decoder) upstream(o *object) Upstream {
	var u Upstream
	s := d.scope(o)
	s.str("destination_name", &u.DestinationName)
	s.str("destination_type", &u.DestinationType)
	s.str("destination_namespace", &u.DestinationNamespace)
	s.str("destination_partition", &u.DestinationPartition)
	s.str("destination_peer", &u.DestinationPeer)
	s.str("datacenter", &u.Datacenter)
	s.address("local_bind_address", &u.LocalBindAddress)
	s.port("local_bind_port", &u.LocalBindPort)
	s.str("local_bind_socket_path", &u.LocalBindSocketPath)
	s.str("local_bind_socket_mode", &u.LocalBindSocketMode)
	if _, given := d.pos[s.path("local_bind_address")]; u.LocalBindSocketPath != "" && !given {
		u.LocalBindAddress = ""
	}
	u.MeshGatewayMode = d.meshGateway(s)
	s.free("config", &u.Config)
	s.refuse("%q is not accepted here", []refusal{
		{"destination_port", "Consul refuses services with several ports in the mesh. Name the service only."},
	})
	s.ignore([]refusal{{"centrally_configured", "Consul sets it by itself. Remove the line."}})
	s.end()
	return u
}
