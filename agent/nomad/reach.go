// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
)

// Facts are what the way to Consul depends on.
type Facts struct {
	// Explicit is the address that somebody has given, and ExplicitFrom where:
	// a flag, a variable, a file. "" when nobody has.
	Explicit, ExplicitFrom string
	// Nomad is the agent that Nomad itself talks to. NomadError is why that is
	// not known, or why its socket or TLS files cannot be used by this task.
	Nomad      Server
	NomadError error
	// OwnNetwork reports that the task is not in the network of the host.
	OwnNetwork bool
	// HostError is why the network of the host cannot be entered; nil when it
	// can. It matters with OwnNetwork only.
	HostError error
	// Sockets are the well-known ones that exist, in order.
	Sockets []Socket
}

// A Way is how to reach Consul.
type Way struct {
	// Address as Consul's own commands take it; "" for their default.
	Address string
	// Server has the TLS files that go with Address; nil for those that were
	// given.
	Server *Server
	// From says who named the address.
	From string
	// OnHost reports that Address is a loopback address of the host.
	OnHost bool
}

// defaultServer is where a Consul agent listens that was told nothing.
const defaultServer = "127.0.0.1:8500"

// Reach chooses the way to Consul: an address that was given; the one that Nomad
// itself uses; a well-known socket of the host; the host's loopback. In a
// network of its own a loopback address means that of the host: on the loopback
// of its group any task may listen, and would be given the token. Nomad's own
// address comes before the sockets because the operator of this client has
// written it down, while a socket is a guess.
//
// The error names what was looked at and the remedies.
func Reach(f Facts) (Way, error) {
	if !f.OwnNetwork {
		return reachDirectly(f), nil
	}
	var passed []string
	pass := func(format string, args ...any) { passed = append(passed, fmt.Sprintf(format, args...)) }
	if f.Explicit != "" {
		if !isLoopback(f.Explicit) {
			return Way{Address: f.Explicit, From: f.ExplicitFrom}, nil
		}
		if f.HostError == nil {
			return Way{Address: f.Explicit, From: f.ExplicitFrom, OnHost: true}, nil
		}
		pass("%s is %s, which is the loopback of this group and not of the host", f.ExplicitFrom, f.Explicit)
	}
	own := f.Nomad.url()
	switch {
	case f.NomadError != nil:
		pass("%v", f.NomadError)
	case own == "" || isLoopback(own):
		pass("Nomad itself uses %s, the loopback of the host", address(own))
	case isRelative(own):
		pass("Nomad itself uses %s, relative to a directory of its own", own)
	default:
		return Way{Address: own, Server: &f.Nomad, From: "Nomad's own consul block"}, nil
	}
	for _, s := range f.Sockets {
		if s.Err == nil {
			return Way{Address: "unix://" + s.Path, From: "a well-known place"}, nil
		}
		pass("%v", s.Err)
	}
	if f.HostError != nil {
		pass("the network of the host cannot be entered: %v", f.HostError)
		return Way{}, unreachable(passed)
	}
	if f.NomadError == nil && isLoopback(own) {
		return Way{Address: own, Server: &f.Nomad, From: "Nomad's own consul block", OnHost: true}, nil
	}
	return Way{Address: defaultServer, From: "Consul's default", OnHost: true}, nil
}

// reachDirectly is for a task in the network of the host.
func reachDirectly(f Facts) Way {
	own := f.Nomad.url()
	switch {
	case f.Explicit != "":
		return Way{Address: f.Explicit, From: f.ExplicitFrom}
	case f.NomadError == nil && own != "" && !isRelative(own):
		return Way{Address: own, Server: &f.Nomad, From: "Nomad's own consul block"}
	}
	for _, s := range f.Sockets {
		if s.Err == nil {
			return Way{Address: "unix://" + s.Path, From: "a well-known place"}
		}
	}
	return Way{From: "Consul's default"}
}

// ErrUnreachable is in the error of [Reach].
var ErrUnreachable = errors.New("this task has no way to Consul's HTTP API from the network of its group")

func unreachable(passed []string) error {
	return fmt.Errorf("%w: %s; do one of these: set CONSUL_HTTP_ADDR in the task's env to an address of the host that Consul's client_addr includes; "+
		"have Consul listen on a socket, addresses { http = \"unix:///run/consul/http.sock\" }, and name it in CONSUL_HTTP_ADDR where the task cannot see that path; "+
		"or run the task by raw_exec as root, which may use the host's loopback", ErrUnreachable, strings.Join(passed, "; "))
}

// url is the address with the scheme that CONSUL_HTTP_SSL asks for; "" when
// Nomad has named none and wants none.
func (s Server) url() string {
	if !s.SSL || strings.HasPrefix(s.Address, "unix://") || strings.HasPrefix(s.Address, "https://") {
		return s.Address
	}
	return "https://" + strings.TrimPrefix(address(s.Address), "http://")
}

func address(a string) string {
	if a == "" {
		return defaultServer
	}
	return a
}

func isRelative(a string) bool {
	path, ok := strings.CutPrefix(a, "unix://")
	return ok && !filepath.IsAbs(path)
}

// isLoopback reports whether an address is one that only the same network can
// reach. The unspecified address connects to the loopback.
func isLoopback(a string) bool {
	if strings.HasPrefix(a, "unix://") {
		return false
	}
	if _, rest, ok := strings.Cut(a, "://"); ok {
		a = rest
	}
	a, _, _ = strings.Cut(a, "/")
	a = a[strings.LastIndexByte(a, '@')+1:]
	host, _, err := net.SplitHostPort(a)
	if err != nil {
		host = a
	}
	return isLocalHost(strings.Trim(host, "[]"))
}

func isLocalHost(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && isLocal(ip)
}

func isLocal(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip.IsLoopback() || ip.IsUnspecified()
}

// IsLoopback reports whether host:port, or a URL with them, is a loopback
// address.
func IsLoopback(address string) bool { return isLoopback(address) }

// IsUnspecified reports whether host:port stands for every address of the host.
func IsUnspecified(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip, perr := netip.ParseAddr(host)
	return err == nil && (host == "" || perr == nil && ip.Unmap().IsUnspecified())
}
