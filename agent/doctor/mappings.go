// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package doctor

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
)

// A mapping is a port of this host that leads to an allocation of Nomad, by rules
// of the CNI plugin portmap.
type mapping struct {
	alloc    string
	protocol string
	address  netip.Addr // not valid for every address of the host
	port     int
}

var (
	// Which chain belongs to which allocation, and what it does, as iptables-save
	// prints them.
	mappedChain = regexp.MustCompile(`^-A CNI-HOSTPORT-DNAT .*name: \\"nomad\\" id: \\"([[:xdigit:]][[:xdigit:]-]*)\\"".* -j (CNI-DN-[[:xdigit:]]+)$`)
	mappedPort  = regexp.MustCompile(`^-A (CNI-DN-[[:xdigit:]]+) (?:-d (\S+) )?-p (\w+) .*--dport (\d+) -j DNAT `)
)

// mappings reads them from the rules of a packet filter, in the order in which the
// kernel asks them: of two that meet, the first has the traffic.
func mappings(rules string) (out []mapping) {
	byChain := make(map[string][]mapping)
	for line := range strings.SplitSeq(rules, "\n") {
		m := mappedPort.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		one := mapping{protocol: m[3]}
		one.port, _ = strconv.Atoi(m[4])
		if where, err := netip.ParsePrefix(m[2]); err == nil {
			one.address = where.Addr()
		}
		byChain[m[1]] = append(byChain[m[1]], one)
	}
	for line := range strings.SplitSeq(rules, "\n") {
		m := mappedChain.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		for _, one := range byChain[m[2]] {
			one.alloc = m[1]
			out = append(out, one)
		}
		delete(byChain, m[2]) // asked for TCP and for UDP
	}
	return out
}

// meets reports whether there is traffic that both would have.
func (m mapping) meets(other mapping) bool {
	return m.port == other.port && m.protocol == other.protocol && m.alloc != other.alloc &&
		(m.address == other.address || !m.address.IsValid() || !other.address.IsValid())
}

const (
	// maxMappings bounds what is compared; a host has some thousands of ports for
	// all of its allocations.
	maxMappings = 1 << 14
	// maxClashes bounds what is said: one clash is enough to go and see.
	maxClashes = 10
)

// portMappings looks for ports that lead to two places. A Nomad client that is
// restarted while an allocation stops leaves that one's rules behind, and whoever is
// given one of its ports later is reached by nobody.
func (p *patient) portMappings() []Finding {
	const check = "port mappings"
	if p.chainsErr != nil {
		return nil // "traffic redirection" says why
	}
	all := mappings(p.chains)
	if len(all) == 0 {
		return nil
	}
	all = all[:min(len(all), maxMappings)]
	var out []Finding
	add := func(m mapping, other string) {
		if len(out) == maxClashes {
			return
		}
		out = append(out, Finding{check, Fail, fmt.Sprintf("port %d (%s) leads to allocation %s: %s, and is reached by nobody", m.port, m.protocol, m.alloc, other),
			fmt.Sprintf("see whether that allocation has ended (nomad alloc status %[1]s); then remove its rules: iptables-save -t nat | grep -v %[1]s | iptables-restore", m.alloc)})
	}
	byPort := make(map[int][]mapping)
	for _, m := range all {
		for _, before := range byPort[m.port] {
			if before.meets(m) {
				add(before, fmt.Sprintf("allocation %s has it, too", m.alloc))
			}
		}
		byPort[m.port] = append(byPort[m.port], m)
	}
	for _, s := range sockets(p.Root) {
		for _, m := range byPort[s.port] {
			if m.protocol == "tcp" && !s.address.IsLoopback() && (!m.address.IsValid() || s.collides(m.address)) {
				add(m, "a program of this host listens on it, too")
			}
		}
	}
	if len(out) == 0 {
		return []Finding{{check, OK, fmt.Sprintf("%d ports lead to allocations, each to one", len(all)), ""}}
	}
	return out
}
