// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// A bind is a port that the agent listens on.
type bind struct {
	what    string
	address netip.Addr
	port    int
}

// binds are the ports of the configuration. Those that the agent chooses itself are
// not known.
func (p *patient) binds() (out []bind) {
	add := func(what, address string, port int, otherwise string) {
		addr, err := netip.ParseAddr(cmp.Or(address, otherwise))
		if err == nil && port > 0 {
			out = append(out, bind{what, addr, port})
		}
	}
	for _, s := range p.Config.Services {
		side := s.Connect.SidecarService
		if side == nil {
			continue
		}
		// The inbound listener is on every address unless the configuration of the
		// proxy says otherwise.
		inbound, _ := side.Proxy.Config["bind_address"].(string)
		own, _ := side.Proxy.Config["bind_port"].(int64)
		add("inbound listener of "+s.Name, inbound, cmp.Or(int(own), side.Port), "0.0.0.0")
		for _, u := range side.Proxy.Upstreams {
			add("upstream "+u.DestinationName+" of "+s.Name, u.LocalBindAddress, u.LocalBindPort, "127.0.0.1")
		}
		for _, e := range side.Proxy.Expose.Paths {
			add("exposed path "+e.Path+" of "+s.Name, "", e.ListenerPort, "0.0.0.0")
		}
	}
	addresses := map[string]string{"admin API": p.Config.Admin.Address}
	if t := p.Config.Telemetry; t != nil {
		addresses["metrics"] = t.PrometheusAddress
	}
	for _, what := range []string{"admin API", "metrics"} {
		host, port, err := net.SplitHostPort(addresses[what])
		if n, numeric := strconv.Atoi(port); err == nil && numeric == nil && !isSocket(addresses[what]) {
			add(what, strings.Replace(host, "localhost", "127.0.0.1", 1), n, "0.0.0.0")
		}
	}
	return out
}

// ports looks whether the agent may have the ports that it needs, and whether the
// applications have theirs.
func (p *patient) ports() []Finding {
	const check = "ports"
	open := sockets(p.Root)
	var out []Finding
	all, held := p.binds(), 0
	for _, b := range all {
		f, ours := p.port(check, b, open)
		if f.State != OK {
			out = append(out, f)
		}
		if ours {
			held++
		}
	}
	if len(out) == 0 && len(all) > 0 {
		out = append(out, Finding{check, OK, fmt.Sprintf("of %d ports, an agent has %d and the others are free", len(all), held), ""})
	}
	return append(out, p.applications(open)...)
}

func (p *patient) port(check string, b bind, open []socket) (f Finding, ours bool) {
	where := net.JoinHostPort(b.address.String(), strconv.Itoa(b.port))
	for _, s := range open {
		if s.port != b.port || !s.collides(b.address) {
			continue
		}
		pid, err := owner(p.Root, []string{s.link})
		name := p.programOf(pid)
		switch {
		case err == nil && name == "outrider", err != nil && p.speaksFor(b.port):
			return Finding{State: OK}, true
		case errors.Is(err, errHidden):
			return Finding{check, Warn, fmt.Sprintf("%s of the %s is taken by a process that this user may not see", where, b.what), "run this as root: it may be the agent"}, false
		case err != nil:
			return Finding{check, Fail, fmt.Sprintf("%s of the %s is taken by somebody: %v", where, b.what, err), "choose another port, or stop who has it"}, false
		}
		return Finding{check, Fail, fmt.Sprintf("%s of the %s is taken by %s, process %d", where, b.what, cmp.Or(name, "a program without a name"), pid), fmt.Sprintf("choose another port, or stop it: ss -ltnp sport = :%d", b.port)}, false
	}
	if first := p.number("proc/sys/net/ipv4/ip_unprivileged_port_start", 1024); b.port < first {
		return Finding{check, Warn, fmt.Sprintf("%s of the %s is free, and below %d only root may have a port", where, b.what, first), "choose a port above, or give the unit AmbientCapabilities=CAP_NET_BIND_SERVICE"}, false
	}
	if low, high := p.ephemeral(); b.port >= low && b.port <= high {
		return Finding{check, Warn, fmt.Sprintf("%s of the %s is free, and one of those that the system gives to outgoing connections (%d-%d): it may be taken at the next start", where, b.what, low, high),
			fmt.Sprintf("choose another port, or reserve it: sysctl -w net.ipv4.ip_local_reserved_ports=%d", b.port)}, false
	}
	return Finding{State: OK}, false
}

// collides reports whether nobody can listen at an address beside the socket.
func (s socket) collides(a netip.Addr) bool {
	return s.address == a || s.address.IsUnspecified() || a.IsUnspecified() || !s.address.IsValid()
}

// speaksFor reports whether the running agent says that it listens on a port.
func (p *patient) speaksFor(port int) bool {
	if p.agent == nil {
		return false
	}
	is := func(address string) bool {
		_, at, err := net.SplitHostPort(address)
		return err == nil && at == strconv.Itoa(port)
	}
	for _, s := range p.agent.Sidecars {
		if is(s.Proxy.Inbound.Address) {
			return true
		}
		for _, u := range s.Proxy.Upstreams {
			if is(u.Address) {
				return true
			}
		}
	}
	return false
}

// programOf is the name of a process, which it may have chosen itself.
func (p *patient) programOf(pid int) string {
	name, err := fs.ReadFile(p.Root, fmt.Sprintf("proc/%d/comm", pid))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

func (p *patient) number(file string, otherwise int) int {
	text, err := fs.ReadFile(p.Root, file)
	if err != nil {
		return otherwise
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		return n
	}
	return otherwise
}

// ephemeral is the range of ports that outgoing connections get.
func (p *patient) ephemeral() (low, high int) {
	text, err := fs.ReadFile(p.Root, "proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, -1
	}
	if n, err := fmt.Sscan(string(text), &low, &high); n != 2 || err != nil {
		return 0, -1
	}
	return low, high
}

// applications looks whether somebody listens where the agent passes calls on to.
func (p *patient) applications(open []socket) (out []Finding) {
	for _, s := range p.Config.Services {
		if s.Connect.SidecarService == nil {
			continue
		}
		proxy := s.Connect.SidecarService.Proxy
		port, host := cmp.Or(proxy.LocalServicePort, s.Port), cmp.Or(proxy.LocalServiceAddress, "127.0.0.1")
		address, err := netip.ParseAddr(host)
		if err != nil || port == 0 || cmp.Or(proxy.LocalServiceSocketPath, s.SocketPath) != "" {
			continue
		}
		there := false
		for _, o := range open {
			there = there || o.port == port && o.collides(address)
		}
		if !there && address.IsLoopback() && len(open) > 0 {
			out = append(out, Finding{"application " + s.Name, Warn, fmt.Sprintf("nobody listens on %s: calls would get app_unreachable", net.JoinHostPort(host, strconv.Itoa(port))), "start the application, or correct the port of the service"})
		}
	}
	return out
}
