// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// protocols are those of Consul's mesh.
func protocols() []string { return []string{"tcp", "http", "http2", "grpc"} }

func servicePath(i int) string { return "service[" + strconv.Itoa(i) + "]" }

// services checks each service and that their IDs differ. IDs are compared
// without case because Consul finds the sidecar of a service that way.
func (v *validator) services() {
	seen := map[string]int{}
	for i, svc := range v.cfg.Services {
		path := servicePath(i)
		v.service(path, svc)
		if svc.ID == "" || v.broken(path+".id") {
			continue
		}
		id := strings.ToLower(svc.ID)
		if first, ok := seen[id]; ok {
			v.duplicateID(path, servicePath(first), svc)
			continue
		}
		seen[id] = i
	}
	for i, svc := range v.cfg.Services {
		base, ok := strings.CutSuffix(strings.ToLower(svc.ID), "-sidecar-proxy")
		if first, taken := seen[base]; ok && taken {
			v.err(servicePath(i)+".id", fmt.Sprintf("ID %q belongs to a sidecar", svc.ID), fmt.Sprintf(
				"It is the ID of the sidecar of the service at %s. Give this service another id.", v.where(servicePath(first))))
		}
	}
}

func (v *validator) duplicateID(path, first string, svc Service) {
	at, remedy := path+".id", "Give one of the two another id."
	if !v.given(at) {
		at, remedy = path+".name", "Remove one of the two; if both are meant, instances of one service, give each its own id."
	}
	v.err(at, fmt.Sprintf("Second service with the ID %q", svc.ID), fmt.Sprintf("The first one is at %s. %s", v.where(first), remedy))
}

func (v *validator) service(path string, svc Service) {
	switch {
	case v.broken(path + ".name"):
	case svc.Name == "":
		v.err(path, "Service without a name", `Write the name under which others find it: name = "web".`)
	default:
		if v.name(path+".name", svc.Name) {
			v.dnsName(path+".name", svc.Name)
		}
	}
	if svc.ID != svc.Name && strings.ContainsAny(svc.ID, "/?#% ") {
		v.err(path+".id", fmt.Sprintf("ID %q is not usable", svc.ID), "An ID becomes part of a URL. Write it without slashes, spaces and URL characters.")
	}
	v.inline(path+".token", svc.Token, `Put it into a file of its own, and read that: token = file("…").`)
	if svc.Port != 0 && svc.SocketPath != "" {
		v.err(path+".socket_path", `Both "port" and "socket_path"`, fmt.Sprintf("port stands at %s. Keep the one on which the application listens.", v.where(path+".port")))
	}
	v.weights(path+".weights", svc.Weights)
	for i, check := range svc.Checks {
		v.check(fmt.Sprintf("%s.checks[%d]", path, i), check)
	}
	v.sidecar(path, svc)
}

func (v *validator) weights(path string, w *Weights) {
	if w != nil && w.Passing < 1 && !v.broken(path+".passing") {
		v.err(path+".passing", "Weight out of range", "The weight of a passing service is 1 or more; Consul refuses 0.")
	}
}

// name checks a service name: it becomes a segment of a SPIFFE ID and of URLs of
// Consul's API, and must stay one. It reports whether the name is usable.
func (v *validator) name(path, name string) bool {
	bad := strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.", r)
	})
	switch {
	case name == "*":
		v.err(path, `"*" is not a name of a service`, "It stands for all services, in intentions only. Write one name.")
	case bad >= 0 || name == "." || name == "..":
		v.err(path, fmt.Sprintf("%q is not a name of a service", name), "A name has letters, digits and hyphens only, for instance web-frontend.")
	case len(name) > 128:
		v.err(path, "Name too long", "A name has at most 63 letters if DNS shall find it, and never more than 128.")
	default:
		return true
	}
	return false
}

// dnsName warns about a valid name that Consul's DNS cannot serve.
func (v *validator) dnsName(path, name string) {
	if strings.ContainsAny(name, "_.") || len(name) > 63 || strings.Trim(name, "-") != name {
		v.warn(path, fmt.Sprintf("DNS cannot find %q", name), "Consul answers DNS queries for names of at most 63 letters, digits and hyphens between them. The mesh works with any name.")
	}
}

func (v *validator) sidecar(path string, svc Service) {
	sidecar := svc.Connect.SidecarService
	at := path + ".connect.sidecar_service"
	if sidecar == nil {
		if !v.anyBroken(path+".connect", "sidecar_service", "native", "gateway") && !v.broken(path+".connect") {
			v.err(path+".connect", "Service without a sidecar", "There is nothing for Outrider to do. Add connect { sidecar_service { } }, or leave the service to Consul's agent.")
		}
		return
	}
	v.weights(at+".weights", sidecar.Weights)
	for i, check := range sidecar.Checks {
		v.check(fmt.Sprintf("%s.checks[%d]", at, i), check)
	}
	proxy, p := at+".proxy", sidecar.Proxy
	if p.LocalServicePort == 0 && p.LocalServiceSocketPath == "" && !v.broken(path+".port") && !v.broken(proxy+".local_service_port") {
		v.err(path, "Service without a port", "Say where the application listens: port = 8080, or socket_path = \"/run/web.sock\".")
	}
	if v.given(proxy+".local_service_port") && p.LocalServiceSocketPath != "" {
		v.err(proxy+".local_service_socket_path", `Both "local_service_port" and "local_service_socket_path"`, "Keep the one on which the application listens.")
	}
	switch p.Mode {
	case "", "direct":
	case "transparent":
		v.err(proxy+".mode", "Transparent mode is not supported by this version", "Remove the line, and name each upstream with a local_bind_port.")
	default:
		v.oneOf(proxy+".mode", p.Mode, "", "direct")
	}
	v.oneOf(proxy+".mesh_gateway.mode", p.MeshGateway, "", "none", "local", "remote")
	v.proxyConfig(proxy+".config", p.Config)
	v.expose(proxy+".expose", p.Expose)
	if p.AccessLogs != nil {
		v.accessLogs(proxy+".access_logs", *p.AccessLogs)
	}
	v.upstreams(proxy+".upstreams", p.Upstreams)
}

// proxyConfig checks the keys of the opaque configuration that Outrider reads,
// and names those that only Envoy could obey.
func (v *validator) proxyConfig(path string, config map[string]any) {
	if protocol, ok := config["protocol"]; ok {
		text, _ := protocol.(string)
		v.oneOf(path+".protocol", text, protocols()...)
	}
	if port, ok := config["bind_port"]; ok {
		if number, isNumber := port.(int64); !isNumber || number < 0 || number > 65535 {
			v.err(path+".bind_port", `Wrong value of "bind_port"`, "A port is a whole number from 0 to 65535.")
		}
	}
	for key := range config {
		if strings.HasPrefix(key, "envoy_") && strings.HasSuffix(key, "_json") {
			v.warn(path+"."+key, fmt.Sprintf("%q has no effect", key), "It holds configuration of Envoy, which does not run here. Remove it.")
		}
	}
}

func (v *validator) expose(path string, expose Expose) {
	for i, p := range expose.Paths {
		at := fmt.Sprintf("%s.paths[%d]", path, i)
		if !strings.HasPrefix(p.Path, "/") && !v.broken(at+".path") {
			v.err(at+".path", "Exposed path without a slash", `Write the path from its first slash: path = "/metrics".`)
		}
		if p.ListenerPort == 0 && !v.broken(at+".listener_port") {
			v.err(at+".listener_port", "Exposed path without a listener", "Write the port on which it is reachable: listener_port = 21500.")
		}
		if p.LocalPathPort == 0 && !v.broken(at+".local_path_port") {
			v.err(at+".local_path_port", "Exposed path without a local port", "Write the port on which the application serves it: local_path_port = 8080.")
		}
		v.oneOf(at+".protocol", p.Protocol, "http", "http2")
	}
}

func (v *validator) upstreams(path string, upstreams []Upstream) {
	type key struct{ kind, name, namespace, partition, peer, datacenter string }
	seen := map[key]string{}
	for i, u := range upstreams {
		at := fmt.Sprintf("%s[%d]", path, i)
		v.upstream(at, u)
		if u.DestinationName == "" {
			continue
		}
		k := key{u.DestinationType, u.DestinationName, u.DestinationNamespace, u.DestinationPartition, u.DestinationPeer, u.Datacenter}
		if first, ok := seen[k]; ok {
			v.err(at+".destination_name", fmt.Sprintf("Second upstream %q", u.DestinationName), fmt.Sprintf(
				"The first one is at %s. One listener serves all callers of a service; remove one of the two.", v.where(first)))
			continue
		}
		seen[k] = at
	}
}

func (v *validator) upstream(at string, u Upstream) {
	switch {
	case v.broken(at + ".destination_name"):
	case u.DestinationName == "":
		v.err(at, "Upstream without a destination", `Name the service that is called: destination_name = "api".`)
	default:
		v.name(at+".destination_name", u.DestinationName)
	}
	v.oneOf(at+".destination_type", u.DestinationType, "service", "prepared_query")
	if u.DestinationPeer != "" && u.Datacenter != "" {
		v.err(at+".datacenter", "Both a peer and a datacenter", fmt.Sprintf(
			"destination_peer stands at %s. A peer has its own datacenters; remove datacenter, or the peer if the datacenter is one of yours.", v.where(at+".destination_peer")))
	}
	v.bind(at, u)
	v.oneOf(at+".mesh_gateway.mode", u.MeshGatewayMode, "", "none", "local", "remote")
	v.proxyConfig(at+".config", u.Config)
}

// bind checks where an upstream listens.
func (v *validator) bind(at string, u Upstream) {
	port, socket := u.LocalBindPort != 0 || v.broken(at+".local_bind_port"), u.LocalBindSocketPath != ""
	switch {
	case port && socket:
		v.err(at+".local_bind_socket_path", "Upstream with two listeners", fmt.Sprintf(
			"local_bind_port stands at %s. Keep one of the two.", v.where(at+".local_bind_port")))
	case !port && !socket && !v.broken(at+".local_bind_socket_path"):
		v.err(at, "Upstream without a listener", "Say where the application reaches it: local_bind_port = 9191, or local_bind_socket_path.")
	case socket && !filepath.IsAbs(u.LocalBindSocketPath):
		v.err(at+".local_bind_socket_path", "Socket path is not absolute", "Write the path from the root: /run/web/api.sock.")
	}
	if mode := u.LocalBindSocketMode; mode != "" {
		if bits, err := strconv.ParseUint(mode, 8, 32); err != nil || bits > 0o777 {
			v.err(at+".local_bind_socket_mode", "Not a file mode", `Write permissions in octal, in quotes: "0660".`)
		} else if !socket {
			v.err(at+".local_bind_socket_mode", "File mode without a socket", "Add local_bind_socket_path, or remove the mode.")
		}
	}
}

// check checks that a health check has one kind, and what that kind needs.
func (v *validator) check(path string, c Check) {
	if v.broken(path) {
		return
	}
	kinds, periodic := checkKinds(c)
	switch {
	case len(kinds) == 0:
		if !v.anyBroken(path, "http", "h2ping", "tcp", "udp", "grpc", "args", "ttl", "alias_service", "alias_node", "type") {
			v.err(path, "Check without a kind", `Say what is checked: http = "http://127.0.0.1:8080/health", tcp = "127.0.0.1:8080", grpc, udp, ttl, args or alias_service.`)
		}
		return
	case len(kinds) > 1:
		v.err(path+"."+kinds[1], "Check of two kinds", fmt.Sprintf("It has %s. Keep one, and write a second check for the other.", strings.Join(kinds, " and ")))
	case periodic && c.Interval == 0 && !v.broken(path+".interval"):
		v.err(path, "Check without an interval", `Say how often it runs: interval = "10s".`)
	case !periodic && c.Interval != 0:
		v.err(path+".interval", fmt.Sprintf("A check of the kind %s has no interval", kinds[0]), "Consul does not run it, it is told or follows another check. Remove the line.")
	}
	if c.Interval > 0 && c.Timeout > c.Interval {
		v.warn(path+".timeout", "Check may outlast its interval", "Its timeout is longer than its interval, so a slow answer delays the next run. Shorten it.")
	}
	if c.DockerContainerID != "" && len(c.Args) == 0 {
		v.err(path+".docker_container_id", "Container without a script", `Write what is run inside: args = ["/check.sh"].`)
	}
	v.oneOf(path+".status", c.Status, "", "passing", "warning", "critical")
	v.checkTarget(path, c)
}

// checkTarget checks the addresses of a check.
func (v *validator) checkTarget(path string, c Check) {
	if u, err := url.Parse(c.HTTP); c.HTTP != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		v.err(path+".http", "Not a URL", `Write scheme, host and port: http = "http://127.0.0.1:8080/health".`)
	}
	grpc, _, _ := strings.Cut(c.GRPC, "/")
	targets := []struct{ name, address string }{{"tcp", c.TCP}, {"udp", c.UDP}, {"grpc", grpc}, {"h2ping", c.H2Ping}}
	for _, t := range targets {
		if t.address == "" {
			continue
		}
		if _, port, err := net.SplitHostPort(t.address); err != nil || !validPort(port) {
			v.err(path+"."+t.name, "Not an address", fmt.Sprintf("Write host and port: %s = \"127.0.0.1:8080\".", t.name))
		}
	}
}

func (v *validator) anyBroken(path string, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return v.broken(path + "." + name) })
}

// checkKinds names the kinds of a check, and reports whether the first one is
// run by Consul at intervals.
func checkKinds(c Check) (kinds []string, periodic bool) {
	all := []struct {
		name     string
		set      bool
		periodic bool
	}{
		{"http", c.HTTP != "", true}, {"h2ping", c.H2Ping != "", true}, {"tcp", c.TCP != "", true}, {"udp", c.UDP != "", true},
		{"grpc", c.GRPC != "", true}, {"args", len(c.Args) > 0, true},
		{"ttl", c.TTL != 0, false}, {"alias_service", c.AliasService != "" || c.AliasNode != "", false},
	}
	for _, k := range all {
		if k.set {
			periodic = k.periodic && len(kinds) == 0 || periodic
			kinds = append(kinds, k.name)
		}
	}
	return kinds, periodic
}
