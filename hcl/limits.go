// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package hcl

import "fmt"

// Limits bound what services of this host can make the agent hold. Zero fields
// were not given.
type Limits struct {
	// MemoryMB is what connections and requests of all services together may
	// hold, in MB of 2^20 bytes; 0 means a part of what the system gives the
	// process.
	MemoryMB int
	// Inbound and Outbound are connections to one service, and to one upstream,
	// where neither says so itself; 0 means Consul's documented defaults.
	Inbound  int
	Outbound int
}

// memoryKey bounds what one service may hold, in MB, in the config of its proxy.
const memoryKey = "outrider_memory_mb"

// leastMemory is below what a service with a few connections needs, in MB.
const leastMemory = 4

func (d *decoder) limits(o *object, limits *Limits) {
	s := d.scope(o)
	s.integer("memory_mb", &limits.MemoryMB)
	s.integer("inbound_connections", &limits.Inbound)
	s.integer("outbound_connections", &limits.Outbound)
	const size = `Write megabytes as a number: memory_mb = 300.`
	const per = `Write it for one service in its proxy: config { max_inbound_connections = 1000 }; for all in this block: inbound_connections = 1000.`
	s.refuse("%q is not accepted here", []refusal{
		{"memory", size}, {"memory_max", size}, {"max_memory", size},
		{"max_inbound_connections", per},
		{"max_connections", `Write inbound_connections or outbound_connections; for one upstream: upstreams { config { limits { max_connections = 100 } } }.`},
	})
	s.end()
}

func (v *validator) limits() {
	limits := v.cfg.Limits
	const none = "Nothing could be let through. Remove the line for the default."
	for path, n := range map[string]int{"limits.inbound_connections": limits.Inbound, "limits.outbound_connections": limits.Outbound} {
		if n == 0 && v.given(path) && !v.broken(path) {
			v.err(path, "No connections at all", none)
		}
	}
	if v.given("limits.memory_mb") && !v.broken("limits.memory_mb") && limits.MemoryMB < leastMemory {
		v.err("limits.memory_mb", "Too little memory", fmt.Sprintf("Connections need at least %d MB. Remove the line for the default, which follows from the memory of the process.", leastMemory))
	}
	for i, svc := range v.cfg.Services {
		if svc.Connect.SidecarService != nil {
			v.serviceMemory(fmt.Sprintf("%s.connect.sidecar_service.proxy.config.%s", servicePath(i), memoryKey), svc.Connect.SidecarService.Proxy.Config[memoryKey])
		}
	}
}

// serviceMemory checks our own key in the config of a proxy; Consul keeps it, and
// the sidecar reads it from there.
func (v *validator) serviceMemory(path string, value any) {
	if value == nil {
		return
	}
	if n, ok := value.(int64); !ok || n < leastMemory || n > 1<<20 {
		v.err(path, "Not an amount of memory", fmt.Sprintf("Write megabytes as a whole number of at least %d: %s = 64.", leastMemory, memoryKey))
	}
}
