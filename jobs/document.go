// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"

	"github.com/hashicorp/nomad/api"
)

// A Document is a job in the JSON form of Nomad's API. It keeps what a newer Nomad
// put there and this program does not know. It is immutable.
type Document struct {
	job *api.Job
	raw map[string]any
}

// ReadJSON reads a job as "nomad job run -json" does: the job itself or an object
// whose Job is the job.
func ReadJSON(text []byte) (Document, error) {
	if len(text) > maxJob {
		return Document{}, fmt.Errorf("the job has %d bytes, more than the limit of %d", len(text), maxJob)
	}
	raw, err := decodeObject(text)
	if err != nil {
		return Document{}, err
	}
	if inner, ok := raw["Job"].(map[string]any); ok {
		raw = inner
	}
	return newDocument(raw)
}

func decodeObject(text []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // indexes and durations do not fit a float64
	var raw map[string]any
	if err := d.Decode(&raw); err != nil {
		return nil, fmt.Errorf("read the job as JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read the job as JSON: there is more text behind the job")
	}
	return raw, nil
}

func newDocument(raw map[string]any) (Document, error) {
	text, err := json.Marshal(raw)
	if err != nil {
		return Document{}, fmt.Errorf("write the job as JSON: %w", err)
	}
	job := &api.Job{}
	if err := json.Unmarshal(text, job); err != nil {
		return Document{}, fmt.Errorf("read the JSON as a Nomad job: %w", err)
	}
	if job.ID == nil || *job.ID == "" {
		return Document{}, errors.New("the JSON is not a Nomad job: it has no ID")
	}
	if hollow(job) {
		return Document{}, errors.New("the JSON is not a Nomad job: null stands where a group, task, service, network, upstream, identity or constraint should")
	}
	return Document{job, raw}, nil
}

// hollow reports whether a list of a job has nothing at some place, which no
// parsed job has and which no reader of the job below expects.
func hollow(job *api.Job) bool {
	found := slices.Contains(job.TaskGroups, nil) || slices.Contains(job.Constraints, nil)
	for _, g := range job.TaskGroups {
		if g == nil {
			return true
		}
		found = found || slices.Contains(g.Services, nil) || slices.Contains(g.Tasks, nil) ||
			slices.Contains(g.Networks, nil) || slices.Contains(g.Constraints, nil)
		for _, t := range g.Tasks {
			found = found || t != nil && slices.Contains(t.Services, nil)
		}
		for _, s := range g.Services {
			found = found || s != nil && hollowConnect(s.Connect)
		}
	}
	return found
}

func hollowConnect(c *api.ConsulConnect) bool {
	if c == nil {
		return false
	}
	proxy := c.SidecarService != nil && c.SidecarService.Proxy != nil && slices.Contains(c.SidecarService.Proxy.Upstreams, nil)
	return proxy || c.SidecarTask != nil && slices.Contains(c.SidecarTask.Identities, nil)
}

// ID returns the ID of the job.
func (d Document) ID() string { return name(d.job.ID) }

// JSON returns the text that "nomad job run -json" takes.
func (d Document) JSON() ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(map[string]any{"Job": d.raw}); err != nil {
		return nil, fmt.Errorf("write the job as JSON: %w", err)
	}
	return out.Bytes(), nil
}

// with returns the document with changed connect blocks.
func (d Document) with(changes []Change) (Document, error) {
	text, err := json.Marshal(d.raw)
	if err != nil {
		return Document{}, fmt.Errorf("write the job as JSON: %w", err)
	}
	raw, err := decodeObject(text)
	if err != nil {
		return Document{}, err
	}
	for _, c := range changes {
		place := descend(raw, "TaskGroups", c.group, "Services", c.service, "Connect")
		if place == nil {
			return Document{}, fmt.Errorf("%s has no Connect in the JSON of the job", c.Where())
		}
		if err := patch(place, connectOf(c.before), connectOf(c.after)); err != nil {
			return Document{}, err
		}
	}
	return newDocument(raw)
}

// descend follows names and indexes; nil when the way ends before them.
func descend(v any, path ...any) map[string]any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			object, _ := v.(map[string]any)
			v = object[step]
		case int:
			items, _ := v.([]any)
			if step >= len(items) {
				return nil
			}
			v = items[step]
		}
	}
	object, _ := v.(map[string]any)
	return object
}

func connectOf(c connection) api.ConsulConnect {
	out := api.ConsulConnect{SidecarTask: c.task, SidecarService: &api.ConsulSidecarService{}}
	if c.transparent != nil {
		out.SidecarService.Proxy = &api.ConsulProxy{TransparentProxy: c.transparent}
	}
	return out
}

// patch writes into place what differs between two values, and nothing else.
func patch(place map[string]any, before, after any) error {
	old, err := generic(before)
	if err != nil {
		return err
	}
	next, err := generic(after)
	if err != nil {
		return err
	}
	merge(place, old, next)
	return nil
}

func generic(v any) (map[string]any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write a part of the job as JSON: %w", err)
	}
	return decodeObject(text)
}

func merge(place, before, after map[string]any) {
	for name, next := range after {
		old := before[name]
		if reflect.DeepEqual(old, next) {
			continue
		}
		inner, nested := next.(map[string]any)
		have, there := place[name].(map[string]any)
		// The config of a driver is one thing: half of an old one would stay.
		if nested && there && name != "Config" {
			was, _ := old.(map[string]any)
			merge(have, was, inner)
			continue
		}
		place[name] = grown(place[name], old, next)
	}
}

// grown returns next, but with the items of have where they were only added to.
func grown(have, before, next any) any {
	items, _ := have.([]any)
	was, _ := before.([]any)
	now, _ := next.([]any)
	if len(items) == 0 || len(items) != len(was) || len(now) < len(was) || !reflect.DeepEqual(was, now[:len(was)]) {
		return next
	}
	return append(slices.Clone(items), now[len(was):]...)
}

// equal reports whether two jobs are the same to Nomad. An attribute
// that is absent, null, false or an empty text or list is one thing there.
func (d Document) equal(other Document) bool {
	return reflect.DeepEqual(prune(d.raw), prune(other.raw))
}

func prune(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, inner := range v {
			if inner = prune(inner); inner != nil {
				out[name] = inner
			}
		}
		return out // an empty object says something: sidecar_service {}
	case []any:
		var out []any
		for _, inner := range v {
			out = append(out, prune(inner))
		}
		if out == nil {
			return nil
		}
		return out
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	}
	return v
}
