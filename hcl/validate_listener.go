// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// A bind is a place where something on this host listens.
type bind struct {
	address string // "" and the unspecified addresses mean all
	port    int
	socket  string // a path instead of address and port
	what    string // in words, for the message about a clash
	path    string // in the configuration
	app     bool   // of an application, which we do not open; two may be the same one
}

// listeners checks that no two listeners of the whole configuration are in each
// other's way. Outrider would find out when it opens them, but then at run time
// and on one of them only.
func (v *validator) listeners() {
	ports := map[int][]bind{}
	sockets := map[string][]bind{}
	for _, b := range v.binds() {
		b.address = canonical(b.address)
		var earlier []bind
		if b.socket != "" {
			earlier = sockets[b.socket]
			sockets[b.socket] = append(earlier, b)
		} else {
			earlier = ports[b.port]
			ports[b.port] = append(earlier, b)
		}
		for _, other := range earlier {
			if (b.app && other.app) || !overlap(b, other) {
				continue
			}
			v.clash(b, other)
			break // one message for each listener says enough
		}
	}
}

// clash reports two listeners at one place; the subject is one of ours.
func (v *validator) clash(b, other bind) {
	if b.app {
		b, other = other, b
	}
	where, remedy := fmt.Sprintf("Port %d", b.port), "Give one of the two another port."
	if b.socket != "" {
		where, remedy = fmt.Sprintf("Socket %q", b.socket), "Give one of the two another path."
	}
	v.err(b.path, where+" is taken", fmt.Sprintf("It is for %s, and at %s already for %s. %s", b.what, v.where(other.path), other.what, remedy))
}

// overlap reports whether two listeners of one port cannot both be opened; their
// addresses are canonical.
func overlap(a, b bind) bool {
	if a.socket != "" {
		return true
	}
	return a.address == "" || b.address == "" || a.address == b.address
}

// canonical is an address in a form that can be compared; "" for all addresses.
func canonical(address string) string {
	if address == "localhost" {
		address = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(address)
	switch {
	case err != nil:
		return address
	case addr.IsUnspecified():
		return ""
	}
	return addr.Unmap().String()
}

// binds lists every listener of the configuration, applications first within a
// service, so that a message points at what can be changed here.
func (v *validator) binds() []bind {
	var all []bind
	if b, ok := v.adminBind(); ok {
		all = append(all, b)
	}
	for i, svc := range v.cfg.Services {
		if svc.Connect.SidecarService != nil {
			all = append(all, v.serviceBinds(servicePath(i), svc)...)
		}
	}
	return all
}

func (v *validator) adminBind() (bind, bool) {
	b := bind{what: "the admin address", path: "admin.address"}
	if !v.given(b.path) {
		return b, false // the default is a socket of our own directory
	}
	if socket, ok := strings.CutPrefix(v.cfg.Admin.Address, "unix://"); ok {
		b.socket = socket
		return b, true
	}
	host, port, err := net.SplitHostPort(v.cfg.Admin.Address)
	if err != nil {
		return b, false
	}
	b.address = host
	b.port, err = strconv.Atoi(port)
	return b, err == nil
}

// serviceBinds lists the listeners of one service and its sidecar.
func (v *validator) serviceBinds(path string, svc Service) []bind {
	sidecar := svc.Connect.SidecarService
	proxy := path + ".connect.sidecar_service.proxy"
	var all []bind
	add := func(b bind) {
		if b.port != 0 || b.socket != "" {
			all = append(all, b)
		}
	}
	add(bind{address: sidecar.Proxy.LocalServiceAddress, port: sidecar.Proxy.LocalServicePort, socket: sidecar.Proxy.LocalServiceSocketPath,
		what: fmt.Sprintf("the application %q", svc.ID), path: v.appPath(path, proxy, sidecar.Proxy), app: true})
	inbound := inboundBind(path, svc, sidecar)
	add(inbound)
	for i, exposed := range sidecar.Proxy.Expose.Paths {
		add(bind{address: inbound.address, port: exposed.ListenerPort,
			what: fmt.Sprintf("an exposed path of %q", svc.ID), path: fmt.Sprintf("%s.expose.paths[%d].listener_port", proxy, i)})
	}
	for i, u := range sidecar.Proxy.Upstreams {
		at := fmt.Sprintf("%s.upstreams[%d]", proxy, i)
		what := fmt.Sprintf("upstream %q of %q", u.DestinationName, svc.ID)
		if u.LocalBindSocketPath != "" {
			add(bind{socket: u.LocalBindSocketPath, what: what, path: at + ".local_bind_socket_path"})
			continue
		}
		add(bind{address: u.LocalBindAddress, port: u.LocalBindPort, what: what, path: at + ".local_bind_port"})
	}
	return all
}

// appPath is where the place of the application is written: in the proxy, else in
// the service.
func (v *validator) appPath(service, proxy string, p Proxy) string {
	local, own := proxy+".local_service_port", service+".port"
	if p.LocalServiceSocketPath != "" {
		local, own = proxy+".local_service_socket_path", service+".socket_path"
	}
	if v.given(local) {
		return local
	}
	return own
}

// inboundBind is where the sidecar listens: bind_address and bind_port of the
// proxy's configuration win over address and port of the registration (Consul,
// proxy configuration: bind_address, bind_port).
func inboundBind(path string, svc Service, sidecar *SidecarService) bind {
	b := bind{address: sidecar.Address, port: sidecar.Port,
		what: fmt.Sprintf("the sidecar of %q", svc.ID), path: path + ".connect.sidecar_service.port"}
	if b.address == "" {
		b.address = svc.Address
	}
	config := sidecar.Proxy.Config
	if address, ok := config["bind_address"].(string); ok {
		b.address = address
	}
	if port, ok := config["bind_port"].(int64); ok {
		b.port, b.path = int(port), path+".connect.sidecar_service.proxy.config.bind_port"
	}
	return b
}
