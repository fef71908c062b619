// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/limits"
	"github.com/outrider-mesh/outrider/connect/proxy"
)

// A Room is what the system gives the process. The zero Room is not known, and
// nothing is bounded by it. Make it with [MeasureRoom].
type Room struct {
	root        fs.FS // where the system's files are; nil for the zero Room
	memory      limits.Memory
	soft        int64 // of GOMEMLIMIT; 0 when it is not set
	machine     int64 // memory of the whole machine; 0 when unknown
	descriptors int
}

// MeasureRoom reads the memory limit of the process's cgroups, GOMEMLIMIT and
// the limit on open files. task is what a scheduler says that the process may
// use, in bytes; 0 for nothing. An error says what could not be read; the Room
// is good without it.
func MeasureRoom(task int64) (Room, error) {
	root := os.DirFS("/")
	memory, err := limits.ReadMemory(root)
	r := Room{root: root, memory: memory.Smaller(task, "NOMAD_MEMORY_LIMIT"), machine: limits.MachineMemory(root)}
	if soft := debug.SetMemoryLimit(-1); soft < math.MaxInt64 {
		r.soft = soft
	}
	descriptors, failed := limits.Descriptors()
	r.descriptors = descriptors
	return r, cmp.Or(err, failed)
}

// SoftMemory is the limit for Go's collector in bytes: that of GOMEMLIMIT, else
// four fifths of what the system gives, or less where the program itself needs
// more than the rest; 0 for none.
func (r Room) SoftMemory() int64 { return cmp.Or(r.soft, r.memory.Soft()) }

// forConnections is what connections may hold together, in bytes; 0 when nobody
// is to count. Of the soft limit it is three quarters: the rest is the agent
// itself, and what the collector has not come to yet. Where there is no limit it
// is a quarter of the machine's memory, which belongs to its services.
func (r Room) forConnections(configuredMB int) int64 {
	const unknown = 1 << 30
	switch soft := r.SoftMemory(); {
	case configuredMB > 0:
		return int64(configuredMB) << 20
	case r.root == nil:
		return 0
	case soft > 0:
		return soft / 4 * 3
	case r.machine > 0:
		return r.machine / 4
	}
	return unknown
}

// proxyLimits are those of every proxy of the agent.
func (a *Agent) proxyLimits() proxy.Limits {
	l := proxy.DefaultLimits()
	l.Memory = a.memory
	l.Inbound = cmp.Or(a.opts.Config.Limits.Inbound, l.Inbound)
	l.Outbound = cmp.Or(a.opts.Config.Limits.Outbound, l.Outbound)
	return l
}

// newMemory makes what the proxies share; nil when the room is not known and
// nothing is configured.
func newMemory(opts Options) *proxy.Memory {
	bytes := opts.Room.forConnections(opts.Config.Limits.MemoryMB)
	if bytes == 0 {
		return nil
	}
	return proxy.NewMemory(bytes)
}

// describe says once what the limits are, and warns of those that cannot be kept.
func (r Room) describe(log hclog.Logger, configuredMB int, connections int64) {
	if r.root == nil {
		return
	}
	bytes := r.forConnections(configuredMB)
	log.Info("limits", "memory", inMB(r.memory.Bytes), "from", cmp.Or(r.memory.From, "no cgroup limits it"), "collector", inMB(r.SoftMemory()),
		"connections", inMB(bytes), "open_files", r.descriptors)
	if soft := r.SoftMemory(); soft > 0 && bytes > soft {
		log.Warn("connections may hold more memory than the process has: lower limits { memory_mb }, or raise the limit of the process", "connections", inMB(bytes), "process", inMB(soft))
	}
	if fit, want := int64(limits.Pairs(r.descriptors)), min(connections, proxy.ConnectionsIn(bytes)); fit < want {
		log.Warn("connections may come to need more open files than the process may have, and are refused from then on: raise LimitNOFILE of the unit (ulimit -n), or lower the limits on connections",
			"open_files", r.descriptors, "connections", want, "fit", fit)
	}
}

func inMB(bytes int64) string {
	if bytes == 0 {
		return "unlimited"
	}
	return fmt.Sprintf("%dMB", bytes>>20)
}

// mostConnections is how many connections the configuration allows for at once.
func (a *Agent) mostConnections() int64 {
	l := a.proxyLimits()
	total := int64(len(a.opts.Sidecars)) * int64(l.Inbound+l.Outbound)
	a.mu.Lock()
	services := a.config.Services // which nobody writes to
	a.mu.Unlock()
	for _, s := range services {
		total += int64(l.Inbound)
		if s.Connect.SidecarService != nil {
			total += int64(len(s.Connect.SidecarService.Proxy.Upstreams)) * int64(l.Outbound)
		}
	}
	return total
}

// From how full the process's memory is, in thousandths, nothing new is
// admitted, until it is less full again.
const (
	tooFull    = 920
	emptyAgain = 880
)

// watchRoom looks how full the cgroup is. What proxies count covers connections;
// this covers the rest: what the kernel holds for sockets, another process of the
// unit such as the one before an upgrade, and whatever was not foreseen.
func (a *Agent) watchRoom(ctx context.Context) error {
	const every = 250 * time.Millisecond
	r := a.opts.Room
	r.describe(a.log, a.opts.Config.Limits.MemoryMB, a.mostConnections())
	if r.memory.Tight() {
		if err := limits.ReadSparingly(); err != nil {
			a.log.Debug("the program is read from disk with what is around what is used", "error", err)
		}
	}
	if a.memory == nil || r.root == nil || r.memory.Bytes == 0 {
		return nil
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	pressed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		full := r.memory.Full(r.root)
		if now := full >= tooFull || pressed && full >= emptyAgain; now != pressed {
			pressed = now
			a.memory.Press(now)
			a.sayPressed(full, now)
		}
	}
}

func (a *Agent) sayPressed(full int, pressed bool) {
	percent := fmt.Sprintf("%d.%d%%", full/10, full%10)
	if pressed {
		a.log.Warn("the memory of the process is nearly full: nothing new is admitted, open connections go on; raise the limit (MemoryMax of the unit, memory of the task)",
			"full", percent, "limit", inMB(a.opts.Room.memory.Bytes), "from", a.opts.Room.memory.From)
		return
	}
	a.log.Info("there is memory again: new connections are admitted", "full", percent)
}
