// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// row is one system under one load, each value the median of its rounds.
type row struct {
	protocol, load string
	atATime        int
	system         string
	perSecond      float64
	p50, p99       time.Duration
	web, api, ends float64 // CPU milliseconds for 1,000 requests
	others         float64 // part of the machine
}

// cost is what access logs do to one of ours under one load: medians of the ratios
// to its turn without them in the same round.
type cost struct {
	protocol, load string
	atATime        int
	system         string
	perSecond, cpu float64 // of the sidecars
}

// held is the memory of the sidecars of one system after all loads of one
// protocol.
type held struct {
	protocol, system string
	web, api         memory
}

type report struct {
	conditions conditions
	rows       []row
	costs      []cost
	held       []held
}

func (r *report) add(of report) {
	r.conditions = of.conditions
	r.rows = append(r.rows, of.rows...)
	r.costs = append(r.costs, of.costs...)
	r.held = append(r.held, of.held...)
}

// measure has every system take its turn in every round, in an order that
// changes from round to round.
func (m *mesh) measure(b *testing.B) report {
	b.Helper()
	r := report{conditions: m.conditions}
	logged := map[string]int{}
	for _, w := range m.protocol.loads {
		if *atATime != 0 && w.atATime != *atATime {
			continue
		}
		systems := slices.DeleteFunc(slices.Clone(m.systems), func(s system) bool { return s.rare && !w.thorough })
		seen := make([][]sample, len(systems))
		for round := range *rounds {
			for turn := range systems {
				i := (turn + round) % len(systems)
				s := m.turn(b, systems[i], w)
				seen[i] = append(seen[i], s)
				logged[systems[i].logs] += s.requests
			}
		}
		for i, s := range systems {
			r.rows = append(r.rows, summary(m.protocol.name, w, s.name, seen[i]))
			plain := slices.IndexFunc(systems, func(other system) bool { return s.name == other.name+logging })
			if plain >= 0 {
				r.costs = append(r.costs, compare(m.protocol.name, w, systems[plain].name, seen[plain], seen[i]))
			}
		}
	}
	r.held = m.memory(b)
	for _, s := range m.systems {
		if s.logs != "" {
			hasLogged(b, s, logged[s.logs])
		}
	}
	return r
}

// compare tells what a system does with access logs from what it does without.
func compare(protocol string, w workload, system string, without, with []sample) cost {
	c := cost{protocol: protocol, load: w.name, atATime: w.atATime, system: system}
	cpu := func(s sample) float64 { return s.perThousand(s.used.web + s.used.api) }
	var speed, used []float64
	for i := range with {
		speed = append(speed, with[i].perSecond()/without[i].perSecond())
		used = append(used, cpu(with[i])/cpu(without[i]))
	}
	c.perSecond, c.cpu = middle(speed), middle(used)
	return c
}

// hasLogged fails the benchmark unless both sidecars of a system have written a
// line for each request: else it has measured something else.
func hasLogged(b *testing.B, s system, requests int) {
	b.Helper()
	files, _ := filepath.Glob(filepath.Join(s.logs, "*.log"))
	if len(files) != 2 || requests == 0 {
		b.Fatalf("%s: %d requests and access logs %q, want those of two sidecars", s.name, requests, files)
	}
	deadline := time.Now().Add(patience)
	for _, file := range files {
		for {
			text, err := os.ReadFile(file)
			if err == nil && bytes.Count(text, []byte("\n")) >= requests {
				break
			}
			if time.Now().After(deadline) {
				b.Fatalf("%s: %d lines for %d requests in %s (%v)", s.name, bytes.Count(text, []byte("\n")), requests, file, err)
			}
			until(b.Context(), time.Now().Add(pollEvery))
		}
	}
}

func (m *mesh) turn(b *testing.B, s system, w workload) sample {
	b.Helper()
	cpu := sampler{web: s.web, api: s.api, ends: []int{m.app, os.Getpid()}}
	got, err := load(b.Context(), w.run, s.address, w.atATime, *warm, *span, cpu.read)
	if err = cmp.Or(err, cpu.err); err != nil {
		b.Fatalf("%s, %s of %s, %d at a time: %v", s.name, w.name, m.protocol.name, w.atATime, err)
	}
	return got
}

func (m *mesh) memory(b *testing.B) []held {
	b.Helper()
	var out []held
	for _, s := range m.systems {
		if s.web == 0 {
			continue
		}
		web, err := memoryOf(s.web)
		if err != nil {
			b.Fatal(err)
		}
		api, err := memoryOf(s.api)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, held{m.protocol.name, s.name, web, api})
	}
	return out
}

func summary(protocol string, w workload, system string, all []sample) row {
	r := row{protocol: protocol, load: w.name, atATime: w.atATime, system: system}
	r.perSecond = median(all, sample.perSecond)
	r.p50 = median(all, func(s sample) time.Duration { return s.quantile(0.5) })
	r.p99 = median(all, func(s sample) time.Duration { return s.quantile(0.99) })
	r.web = median(all, func(s sample) float64 { return s.perThousand(s.used.web) })
	r.api = median(all, func(s sample) float64 { return s.perThousand(s.used.api) })
	r.ends = median(all, func(s sample) float64 { return s.perThousand(s.used.ends) })
	r.others = median(all, func(s sample) float64 { return s.used.others(s.span, goruntime.NumCPU()) })
	return r
}

// median is the middle value; of an even number, the lower one of the two.
func median[T cmp.Ordered](all []sample, of func(sample) T) T {
	var values []T
	for _, s := range all {
		values = append(values, of(s))
	}
	return middle(values)
}

func middle[T cmp.Ordered](values []T) T {
	slices.Sort(values)
	return values[(len(values)-1)/2]
}

// conditions are what a number depends on beside the programs.
type conditions struct {
	cores                           int
	cpu, kernel                     string
	consul, envoy, outrider, golang string
	began                           string // load average then
}

func (c *conditions) read(b *testing.B, consul, outrider string) {
	b.Helper()
	c.cores, c.golang = goruntime.NumCPU(), goruntime.Version()
	c.consul, _, _ = strings.Cut(consul, "\n")
	cpu, _ := os.ReadFile("/proc/cpuinfo") // a description: nothing depends on it
	_, model, _ := strings.Cut(string(cpu), "model name")
	model, _, _ = strings.Cut(model, "\n")
	c.cpu = strings.TrimSpace(strings.TrimLeft(model, " \t:"))
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	c.kernel = strings.TrimSpace(string(kernel))
	average, _ := os.ReadFile("/proc/loadavg")
	c.began = strings.Join(strings.Fields(string(average))[:3], " ")
	version, err := exec.CommandContext(b.Context(), outrider, "version").Output()
	if err != nil {
		b.Fatalf("ask %s for its version: %v", outrider, err)
	}
	c.outrider, _, _ = strings.Cut(string(version), "\n")
}

func envoyVersion(b *testing.B, e *realserver.Envoy) string {
	b.Helper()
	text, err := e.Ask(b.Context(), "/server_info")
	if err != nil {
		b.Fatal(err)
	}
	var info struct{ Version string }
	if err := json.Unmarshal(text, &info); err != nil {
		b.Fatalf("read Envoy's version: %v", err)
	}
	// commit/version/tree/build/TLS library
	parts := strings.Split(info.Version, "/")
	return parts[min(1, len(parts)-1)]
}

// markdown is the whole report.
func (r *report) markdown() string {
	var b strings.Builder
	c := r.conditions
	fmt.Fprintf(&b, "%d cores of %s, Linux %s. %s (%s, GOMAXPROCS %d); %s; Envoy %s.\n", c.cores, c.cpu, c.kernel, c.outrider, c.golang, c.cores, c.consul, c.envoy)
	fmt.Fprintf(&b, "Client, application and sidecars share the machine. Medians of %d rounds of %v, in turns; load average at the beginning: %s.\n", *rounds, *span, c.began)
	b.WriteString("CPU is milliseconds for 1,000 requests: of web's sidecar, of api's, and of client and application together. Other is what else used the machine; numbers with much of it mean little.\n\n")
	b.WriteString("| protocol | request | at a time | system | requests/s | of direct | of Envoy | p50 ms | p99 ms | CPU web | CPU api | CPU ends | other |\n")
	b.WriteString("|---|---|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, row := range r.rows {
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %.0f | %s | %s | %.2f | %.2f | %.0f | %.0f | %.0f | %.0f %% |\n",
			row.protocol, row.load, row.atATime, row.system, row.perSecond, r.ratio(row, direct), r.ratio(row, envoyTwo),
			milliseconds(row.p50), milliseconds(row.p99), row.web, row.api, row.ends, 100*row.others)
	}
	for _, c := range r.costs {
		fmt.Fprintf(&b, "\n%s with access logs in files, %s, %s, %d at a time: %.3f of the requests/s, %.3f of the CPU of the sidecars.\n", c.system, c.protocol, c.load, c.atATime, c.perSecond, c.cpu)
	}
	if len(r.costs) > 0 {
		b.WriteString("These are medians of the ratios to the turn without, in the same round.\n")
	}
	b.WriteString("\nMemory of the sidecars after that, resident now and at most, in MiB:\n\n")
	b.WriteString("| protocol | system | web | at most | api | at most |\n|---|---|--:|--:|--:|--:|\n")
	for _, h := range r.held {
		fmt.Fprintf(&b, "| %s | %s | %.0f | %.0f | %.0f | %.0f |\n", h.protocol, h.system, mebi(h.web.now), mebi(h.web.peak), mebi(h.api.now), mebi(h.api.peak))
	}
	return b.String()
}

// ratio compares the speed of a row with that of another system under the same
// load; "–" where that was not measured.
func (r *report) ratio(of row, system string) string {
	for _, other := range r.rows {
		if other.protocol == of.protocol && other.load == of.load && other.atATime == of.atATime && other.system == system {
			return fmt.Sprintf("%.2f", of.perSecond/other.perSecond)
		}
	}
	return "–"
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func mebi(n int64) float64 { return float64(n) / (1 << 20) }
