// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU times in /proc, which Linux has fixed for user space.
const tick = 10 * time.Millisecond

// cpuTime is what a process has used, in user and kernel mode together.
func cpuTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
	}
	return parseCPUTime(string(stat))
}

func parseCPUTime(stat string) (time.Duration, error) {
	// The name is in parentheses and may hold anything; the state follows.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("no CPU time in %q", stat)
	}
	var sum time.Duration
	for _, f := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the CPU time in %q: %w", stat, err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// machineTime is what all processes have used, and what the machine's host has
// taken away.
func machineTime() (time.Duration, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read the CPU time of the machine: %w", err)
	}
	return parseMachineTime(string(stat))
}

func parseMachineTime(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, fmt.Errorf("no CPU times in %q", line)
	}
	var sum time.Duration
	for i, f := range fields[1:9] { // user nice system idle iowait irq softirq steal
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the CPU times in %q: %w", line, err)
		}
		if i != 3 && i != 4 {
			sum += time.Duration(n) * tick
		}
	}
	return sum, nil
}

// memory is what a process has in memory, now and at most so far, in bytes.
type memory struct{ now, peak int64 }

func memoryOf(pid int) (memory, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{}, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	return parseMemory(string(status))
}

func parseMemory(status string) (memory, error) {
	var m memory
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		to := map[string]*int64{"VmRSS": &m.now, "VmHWM": &m.peak}[name]
		if to == nil {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
		if err != nil {
			return m, fmt.Errorf("read %q: %w", line, err)
		}
		*to = kb << 10
	}
	if m.now == 0 || m.peak == 0 {
		return m, fmt.Errorf("no memory in %q", status)
	}
	return m, nil
}

// usage is CPU time: of the two sidecars, of client and application, and of
// everything else on the machine.
type usage struct{ web, api, ends, machine time.Duration }

func (u usage) less(v usage) usage {
	return usage{u.web - v.web, u.api - v.api, u.ends - v.ends, u.machine - v.machine}
}

// others is the part of the machine that was used by what is not measured.
func (u usage) others(span time.Duration, cores int) float64 {
	return max(0, (u.machine-u.web-u.api-u.ends).Seconds()/span.Seconds()/float64(cores))
}

// sampler reads usage; it keeps the first error.
type sampler struct {
	web, api int // 0 for none
	ends     []int
	err      error
}

func (s *sampler) read() usage {
	u := usage{web: s.of(s.web), api: s.of(s.api)}
	for _, pid := range s.ends {
		u.ends += s.of(pid)
	}
	machine, err := machineTime()
	s.keep(err)
	u.machine = machine
	return u
}

func (s *sampler) of(pid int) time.Duration {
	if pid == 0 {
		return 0
	}
	d, err := cpuTime(pid)
	s.keep(err)
	return d
}

func (s *sampler) keep(err error) {
	if s.err == nil {
		s.err = err
	}
}
