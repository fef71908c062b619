// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package telemetry

import (
	"context"
	"errors"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"github.com/outrider-mesh/outrider/connect"
)

// A selection is what one scrape is to see.
type selection struct {
	members []member
	process bool // the Go runtime and the process as well
	all     bool // sidecars without measurements as well
}

// A member is what is known of a Member at one moment.
type member struct {
	*Member
	tags []*dto.LabelPair
}

// choose returns the members that a condition holds for.
func (r *Registry) choose(is func(*Member) bool) []member {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []member
	for _, m := range r.members {
		if !is(m) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].set.ProxyID() == m.set.ProxyID() {
			out = out[:n-1]
		}
		out = append(out, member{m, m.tags})
	}
	return out
}

// everything is every sidecar.
func (r *Registry) everything() selection {
	return selection{members: r.choose(func(*Member) bool { return true }), process: true, all: true}
}

// at is what is served on an address: every sidecar on that of the configuration,
// else those whose registration names it.
func (r *Registry) at(address string) selection {
	r.mu.Lock()
	all := r.address == address
	r.mu.Unlock()
	if all {
		return r.everything()
	}
	return selection{members: r.choose(func(m *Member) bool { return m.telemetry.PrometheusAddress == address }), process: true}
}

// gather reads everything that is chosen, sorted by name. Metrics of different
// sidecars never have equal labels, since the ID of the proxy is one: nothing needs
// to be compared.
func (r *Registry) gather(ctx context.Context, s selection) ([]*dto.MetricFamily, error) {
	var lists [][]*dto.MetricFamily
	var problem error
	if s.process {
		families, err := r.process.Gather()
		problem = errors.Join(problem, err)
		lists = append(lists, families)
	}
	tags := make(map[string][]*dto.LabelPair)
	for _, m := range s.members {
		families, err := m.set.Gather()
		problem = errors.Join(problem, err)
		for _, f := range families {
			tag(f.Metric, m.tags)
		}
		lists = append(lists, families)
		tags[m.set.ProxyID()] = m.tags
	}
	state := r.opts.State(ctx)
	if !s.all {
		state.Sidecars = slices.DeleteFunc(slices.Clone(state.Sidecars), func(c Sidecar) bool {
			_, chosen := tags[c.ProxyID]
			return !chosen
		})
	}
	lists = append(lists, state.families(r.opts.Version, tags))
	return merge(lists), problem
}

// merge joins what has one name.
func merge(lists [][]*dto.MetricFamily) []*dto.MetricFamily {
	known := make(map[string]*dto.MetricFamily)
	var out []*dto.MetricFamily
	for _, list := range lists {
		for _, f := range list {
			if there := known[f.GetName()]; there != nil {
				there.Metric = append(there.Metric, f.Metric...)
				continue
			}
			known[f.GetName()] = f
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return out
}

// tag adds labels to metrics, but for those that they have already.
func tag(metrics []*dto.Metric, tags []*dto.LabelPair) {
	if len(tags) == 0 {
		return
	}
	for _, m := range metrics {
		has := make([]*dto.LabelPair, 0, len(m.Label)+len(tags))
		has = append(has, m.Label...) // It is shared with the series.
		for _, t := range tags {
			if !slices.ContainsFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == t.GetName() }) {
				has = append(has, t)
			}
		}
		slices.SortFunc(has, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
		m.Label = has
	}
}

// labels makes tags into labels, whose names Prometheus accepts. The first of a name
// counts.
func labels(tags []connect.Tag) []*dto.LabelPair {
	var out []*dto.LabelPair
	for _, t := range tags[:min(len(tags), connect.MaxTags)] {
		name := strings.Map(func(c rune) rune {
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
				return c
			}
			return '_'
		}, t.Name)
		if name == "" || name[0] >= '0' && name[0] <= '9' {
			name = "_" + name
		}
		// Two underscores in front are Prometheus's own, and le is the bucket's.
		name = strings.TrimPrefix(name, "_")
		if strings.HasPrefix(name, "_") || name == "le" || name == "" || name[0] >= '0' && name[0] <= '9' {
			name = "tag_" + strings.TrimLeft(name, "_")
		}
		if slices.ContainsFunc(out, func(l *dto.LabelPair) bool { return l.GetName() == name }) {
			continue
		}
		value := strings.ToValidUTF8(t.Value[:min(len(t.Value), 256)], "�")
		out = append(out, &dto.LabelPair{Name: &name, Value: &value})
	}
	return out
}
