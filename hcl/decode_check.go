// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
)

// checks decodes the checks of a service or sidecar; address and port are
// theirs, for Nomad's short form.
func (d *decoder) checks(outer *scope, address string, port int) []Check {
	var checks []Check
	for _, o := range outer.blocks("checks", "check") {
		checks = append(checks, d.check(o, address, port))
	}
	return checks
}

func (d *decoder) check(o *object, address string, port int) Check {
	var c Check
	s := d.scope(o)
	s.str("id", &c.ID, "check_id")
	s.str("name", &c.Name)
	s.str("notes", &c.Notes)
	s.str("status", &c.Status, "initial_status")
	s.address("http", &c.HTTP)
	s.str("method", &c.Method)
	s.headers("header", &c.Header)
	s.str("body", &c.Body)
	s.address("h2ping", &c.H2Ping)
	s.boolean("h2ping_use_tls", &c.H2PingUseTLS)
	s.address("tcp", &c.TCP)
	s.boolean("tcp_use_tls", &c.TCPUseTLS)
	s.address("udp", &c.UDP)
	s.address("grpc", &c.GRPC)
	s.boolean("grpc_use_tls", &c.GRPCUseTLS)
	s.list("args", &c.Args, "script_args")
	s.str("docker_container_id", &c.DockerContainerID)
	s.str("shell", &c.Shell)
	s.duration("ttl", &c.TTL)
	s.str("alias_service", &c.AliasService)
	s.str("alias_node", &c.AliasNode)
	s.duration("interval", &c.Interval)
	s.duration("timeout", &c.Timeout)
	s.str("tls_server_name", &c.TLSServerName)
	s.boolean("tls_skip_verify", &c.TLSSkipVerify)
	s.integer("success_before_passing", &c.SuccessBeforePassing)
	s.integer("failures_before_warning", &c.FailuresBeforeWarning)
	s.integer("failures_before_critical", &c.FailuresBeforeCritical)
	s.duration("deregister_critical_service_after", &c.DeregisterCriticalServiceAfter)
	d.shortForm(s, &c, address, port)
	s.refuse("%q of a check is not supported", []refusal{
		{"disable_redirects", "Consul's API client, with which Outrider registers, does not know it. Let the check name a URL that does not redirect."},
		{"os_service", "It exists on Windows only, where Outrider does not run. Use another kind of check."},
		{"output_max_size", "Consul's API client, with which Outrider registers, does not know it. Remove it: Consul keeps 4 KiB of output."},
	})
	s.refuse(nomadOnly, []refusal{
		{"address_mode", "Write the address into the check itself: http = \"http://10.0.0.5:8080/health\"."},
		{"check_restart", "Outrider does not restart the application. Remove it, and let systemd do that."},
		{"expose", "Nomad makes a listener for the check. Outrider's agent reaches the application directly, so remove the line; to expose a path to others use proxy { expose { … } }."},
		{"task", "Outside Nomad there is no task. Remove the line."},
		{"on_update", "Outside Nomad there are no deployments. Remove the line."},
	})
	s.end()
	return c
}

// shortForm decodes how Nomad writes a check, type = "http" with a path, and
// converts it to Consul's form.
func (d *decoder) shortForm(s *scope, c *Check, address string, port int) {
	var kind, path, protocol, command, service string
	s.str("type", &kind)
	s.str("path", &path)
	s.str("protocol", &protocol)
	s.str("command", &command)
	s.str("grpc_service", &service)
	s.port("port", &port)
	d.belongs(s, kind)
	if address == "" {
		address = "127.0.0.1"
	}
	hostPort := net.JoinHostPort(address, strconv.Itoa(port))
	switch kind {
	case "":
		if given, ok := d.pos[s.path("port")]; ok && !given.bad {
			d.err(given.at, `"port" needs the type of the check`, `Add type = "http", "tcp" or "grpc", or write the check as Consul does: tcp = "127.0.0.1:8080".`)
		}
		return
	case "script":
		d.scriptForm(s, c, command)
		return
	case "http":
		d.httpForm(s, c, protocol, hostPort, path)
	case "tcp":
		c.TCP = d.replace(s, "tcp", c.TCP, hostPort)
	case "grpc":
		if service != "" {
			hostPort += "/" + service
		}
		c.GRPC = d.replace(s, "grpc", c.GRPC, hostPort)
	default:
		d.bad(s.o.path, d.pos.near(s.path("type")), fmt.Sprintf("Unknown type %q of a check", kind),
			`The types are http, tcp, grpc and script. Other checks are written as Consul does, for instance ttl = "30s".`)
		return
	}
	if port == 0 && !d.pos[s.path("port")].bad {
		d.err(d.pos.near(s.path("type")), "The check has no port", "Give the service a port, or write one into the check.")
	}
}

// belongs reports names of the short form that another type of check has.
func (d *decoder) belongs(s *scope, kind string) {
	if d.pos[s.path("type")].bad || !slices.Contains([]string{"", "http", "tcp", "grpc", "script"}, kind) {
		return // whether the name fits cannot be said, and the type is reported
	}
	types := map[string]string{"path": "http", "protocol": "http", "command": "script", "grpc_service": "grpc"}
	for _, name := range slices.Sorted(maps.Keys(types)) {
		if at, given := d.pos[s.path(name)]; given && types[name] != kind {
			d.bad(s.o.path, at.at, fmt.Sprintf("%q belongs to a check of another type", name), fmt.Sprintf(
				"Add type = %q, or write the check as Consul does, for instance http = \"http://127.0.0.1:8080/health\".", types[name]))
		}
	}
}

// httpForm builds the URL of Nomad's short form.
func (d *decoder) httpForm(s *scope, c *Check, protocol, hostPort, path string) {
	switch protocol {
	case "":
		protocol = "http"
	case "http", "https":
	default:
		d.err(d.pos.near(s.path("protocol")), fmt.Sprintf("Unknown protocol %q of a check", protocol), "Write http or https.")
		protocol = "http"
	}
	target, err := url.Parse(path)
	if err != nil || target.IsAbs() || target.Host != "" || path == "" || path[0] != '/' {
		d.bad(s.o.path, d.pos.near(s.path("path")), "The check needs a path", `Write the path of the URL, beginning with a slash: path = "/health".`)
		return
	}
	c.HTTP = d.replace(s, "http", c.HTTP, protocol+"://"+hostPort+path)
}

// scriptForm joins Nomad's command and its arguments.
func (d *decoder) scriptForm(s *scope, c *Check, command string) {
	if command == "" {
		d.bad(s.o.path, d.pos.near(s.path("type")), "The check has no command", `Write the program: command = "/usr/local/bin/check".`)
		return
	}
	c.Args = append([]string{command}, c.Args...)
}

// replace returns the value of the short form, and reports a check that is
// written in both.
func (d *decoder) replace(s *scope, name, given, short string) string {
	if given != "" {
		d.bad(s.o.path, d.pos.near(s.path(name)), fmt.Sprintf("The check has both type and %q", name),
			fmt.Sprintf("Keep type with its path and port, or keep %q alone.", name))
	}
	return short
}
