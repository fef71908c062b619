// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/outrider-mesh/outrider/connect/measure"
)

// A State is what is true of the process at one moment.
type State struct {
	Now      time.Time // zero means that of the scrape
	Draining bool
	Sidecars []Sidecar
	Sources  []Source
}

// A Sidecar is the state of one sidecar. Zero times and limits are left out.
type Sidecar struct {
	Service  string
	ProxyID  string
	Ready    bool
	Problems int // what of the snapshot is not in force

	Snapshot   uint64
	SnapshotAt time.Time // when it was applied

	LeafNotBefore, LeafNotAfter time.Time
	Roots                       []Root

	Listeners []Listener
	Targets   []Target

	MemoryHeld, MemoryLimit int64 // bytes
	Probes, Panics          int64 // since the start
}

// A Root is one CA of the trust bundle.
type Root struct {
	ID       string
	NotAfter time.Time
}

// A Listener is what is held of one limit.
type Listener struct {
	Direction string // "inbound", "outbound" or "passed"
	Upstream  string // of outbound
	Held      int    // connections
	Limit     int
}

// A Target says what can be called of one target of an upstream.
type Target struct {
	Upstream, Target string
	Usable           int
	Ejected          int // left out for a while because they failed
	Unusable         int // for what Consul says of them
}

// A Source is one watch, token or key set that the process keeps up to date. Those
// of one kind are shown together, so that many upstreams make no more series.
type Source struct {
	Kind        string // one word: "intentions", "endpoints", "token"
	LastSuccess time.Time
	Failures    int       // in a row
	Expires     time.Time // of a token; zero when it does not, or nobody knows
}

// Metrics is the table of what is shown of a [State].
func Metrics() []measure.Metric {
	own := func(more ...string) []string { return append([]string{"service", "proxy_id"}, more...) }
	return []measure.Metric{
		{Name: "outrider_build_info", Kind: measure.Gauge, Help: "1, with the version as a label.", Labels: []string{"version", "go_version"}},
		{Name: "outrider_draining", Kind: measure.Gauge, Help: "1 while the process ends gently.", Labels: nil},
		{Name: "outrider_sources", Kind: measure.Gauge, Help: "Watches on Consul, tokens and key sets that are kept up to date, by kind.", Labels: []string{"kind"}},
		{Name: "outrider_sources_failing", Kind: measure.Gauge, Help: "Those of them whose latest try has failed.", Labels: []string{"kind"}},
		{Name: "outrider_source_age_seconds", Kind: measure.Gauge, Help: "Since the latest success of that which has waited longest for one.", Labels: []string{"kind"}},
		{Name: "outrider_token_seconds_to_expiry", Kind: measure.Gauge, Help: "Until a token expires, where it does: that of Consul is token, that of Vault vault_token.", Labels: []string{"kind"}},
		{Name: "outrider_ready", Kind: measure.Gauge, Help: "1 when the sidecar serves.", Labels: own()},
		{Name: "outrider_problems", Kind: measure.Gauge, Help: "How much of the latest snapshot is not in force; status says what.", Labels: own()},
		{Name: "outrider_snapshot_version", Kind: measure.Gauge, Help: "Number of the snapshot in force; 0 before the first.", Labels: own()},
		{Name: "outrider_snapshot_age_seconds", Kind: measure.Gauge, Help: "Since the snapshot in force was applied.", Labels: own()},
		{Name: "outrider_leaf_seconds_to_expiry", Kind: measure.Gauge, Help: "Until the certificate of the service expires; negative when it has.", Labels: own()},
		{Name: "outrider_leaf_lifetime_seconds", Kind: measure.Gauge, Help: "How long the certificate of the service is valid in all.", Labels: own()},
		{Name: "outrider_root_seconds_to_expiry", Kind: measure.Gauge, Help: "Until a root of the mesh expires.", Labels: own("root")},
		{Name: "outrider_endpoints", Kind: measure.Gauge, Help: "Endpoints of a target by state: usable, ejected because they failed, or unusable for what Consul says.", Labels: own("upstream", "target", "state")},
		{Name: "outrider_held_connections", Kind: measure.Gauge, Help: "Connections that count towards a limit.", Labels: own("direction", "upstream")},
		{Name: "outrider_connection_limit", Kind: measure.Gauge, Help: "How many connections are let in at once.", Labels: own("direction", "upstream")},
		{Name: "outrider_memory_held_bytes", Kind: measure.Gauge, Help: "Memory that connections and requests are counted to hold, an upper bound.", Labels: own()},
		{Name: "outrider_memory_limit_bytes", Kind: measure.Gauge, Help: "How much they may hold.", Labels: own()},
		{Name: "outrider_probes_total", Kind: measure.Counter, Help: "Inbound connections that ended before a word was said, as health checks make them.", Labels: own()},
		{Name: "outrider_panics_total", Kind: measure.Counter, Help: "Faults of the program that ended one connection or request.", Labels: own()},
	}
}

// A draft collects metrics by name.
type draft struct {
	rows     []measure.Metric
	families map[string]*dto.MetricFamily
	tags     []*dto.LabelPair
	own      []string // values of the first labels
}

// add adds one value; labels are the values of those of the table that own does not
// have.
func (d *draft) add(name string, value float64, labels ...string) {
	at := slices.IndexFunc(d.rows, func(m measure.Metric) bool { return m.Name == name })
	row := &d.rows[at] // One that is not there is an error of this file, which its test finds.
	m := &dto.Metric{}
	f := d.families[name]
	if f == nil {
		kind := dto.MetricType_GAUGE
		if row.Kind == measure.Counter {
			kind = dto.MetricType_COUNTER
		}
		f = &dto.MetricFamily{Name: &row.Name, Help: &row.Help, Type: &kind}
		d.families[name] = f
	}
	if row.Kind == measure.Counter {
		m.Counter = &dto.Counter{Value: &value}
	} else {
		m.Gauge = &dto.Gauge{Value: &value}
	}
	values := slices.Concat(d.own, labels)
	for i := range row.Labels {
		text := strings.ToValidUTF8(values[i], "�")
		m.Label = append(m.Label, &dto.LabelPair{Name: &row.Labels[i], Value: &text})
	}
	slices.SortFunc(m.Label, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	tag([]*dto.Metric{m}, d.tags)
	f.Metric = append(f.Metric, m)
}

// families is the state in metrics; tags are those of the sidecars by proxy ID.
func (s State) families(version string, tags map[string][]*dto.LabelPair) []*dto.MetricFamily {
	if s.Now.IsZero() {
		s.Now = time.Now()
	}
	d := &draft{rows: Metrics(), families: make(map[string]*dto.MetricFamily)}
	d.add("outrider_build_info", 1, version, runtime.Version())
	d.add("outrider_draining", number(s.Draining))
	s.sources(d)
	for i := range s.Sidecars {
		c := &s.Sidecars[i]
		d.own, d.tags = []string{c.Service, c.ProxyID}, tags[c.ProxyID]
		c.add(d, s.Now)
		c.addTraffic(d)
	}
	out := make([]*dto.MetricFamily, 0, len(d.families))
	for _, f := range d.families {
		out = append(out, f)
	}
	return out
}

func (s State) sources(d *draft) {
	byKind := slices.SortedStableFunc(slices.Values(s.Sources), func(a, b Source) int { return cmp.Compare(a.Kind, b.Kind) })
	for len(byKind) > 0 {
		kind, n := byKind[0].Kind, 0
		var failing float64
		var oldest, expires time.Time
		for ; n < len(byKind) && byKind[n].Kind == kind; n++ {
			of := byKind[n]
			failing += number(of.Failures > 0)
			if !of.LastSuccess.IsZero() {
				oldest = earlier(oldest, of.LastSuccess)
			}
			if !of.Expires.IsZero() {
				expires = earlier(expires, of.Expires)
			}
		}
		d.add("outrider_sources", float64(n), kind)
		d.add("outrider_sources_failing", failing, kind)
		if !oldest.IsZero() {
			d.add("outrider_source_age_seconds", s.Now.Sub(oldest).Seconds(), kind)
		}
		if !expires.IsZero() {
			d.add("outrider_token_seconds_to_expiry", expires.Sub(s.Now).Seconds(), kind)
		}
		byKind = byKind[n:]
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func (c *Sidecar) add(d *draft, now time.Time) {
	d.add("outrider_ready", number(c.Ready))
	d.add("outrider_problems", float64(c.Problems))
	d.add("outrider_snapshot_version", float64(c.Snapshot))
	if !c.SnapshotAt.IsZero() {
		d.add("outrider_snapshot_age_seconds", now.Sub(c.SnapshotAt).Seconds())
	}
	if !c.LeafNotAfter.IsZero() {
		d.add("outrider_leaf_seconds_to_expiry", c.LeafNotAfter.Sub(now).Seconds())
		d.add("outrider_leaf_lifetime_seconds", c.LeafNotAfter.Sub(c.LeafNotBefore).Seconds())
	}
	seen := make(map[string]bool)
	for _, root := range c.Roots {
		if !seen[root.ID] && !root.NotAfter.IsZero() {
			d.add("outrider_root_seconds_to_expiry", root.NotAfter.Sub(now).Seconds(), root.ID)
		}
		seen[root.ID] = true
	}
}

func (c *Sidecar) addTraffic(d *draft) {
	for _, t := range c.Targets {
		d.add("outrider_endpoints", float64(t.Usable), t.Upstream, t.Target, "usable")
		d.add("outrider_endpoints", float64(t.Ejected), t.Upstream, t.Target, "ejected")
		d.add("outrider_endpoints", float64(t.Unusable), t.Upstream, t.Target, "unusable")
	}
	for _, l := range c.Listeners {
		d.add("outrider_held_connections", float64(l.Held), l.Direction, l.Upstream)
		if l.Limit > 0 {
			d.add("outrider_connection_limit", float64(l.Limit), l.Direction, l.Upstream)
		}
	}
	if c.MemoryLimit > 0 {
		d.add("outrider_memory_held_bytes", float64(c.MemoryHeld))
		d.add("outrider_memory_limit_bytes", float64(c.MemoryLimit))
	}
	d.add("outrider_probes_total", float64(c.Probes))
	d.add("outrider_panics_total", float64(c.Panics))
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
