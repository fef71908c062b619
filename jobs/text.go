// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/nomad/api"

	"github.com/outrider-mesh/outrider/hcl"
)

// A Source is the text of a job.
type Source struct {
	Name      string // of the file, for messages
	Text      []byte
	JSON      bool   // else HCL
	Variables string // text of a file of variables for HCL; "" for none
}

// Injected is a job with our sidecar tasks.
type Injected struct {
	Source  Source   // as it was given
	Text    []byte   // in the form of Source; nil when Unwritten is set
	Job     Document // to be registered
	Changes Changes

	// Unwritten is why the change could not be written into HCL, though the job
	// is fine: its JSON can be used. nil otherwise.
	Unwritten error
}

// InjectSource injects into the text of a job. HCL is parsed by Nomad, edited as
// text, and parsed again: the text is given out only when it means the injected
// job and nothing else.
func (c *Client) InjectSource(ctx context.Context, source Source, s Settings) (Injected, error) {
	out := Injected{Source: source}
	given, err := c.read(ctx, source)
	if err != nil {
		return out, err
	}
	if out.Changes, err = Inject(given.job, s); err != nil {
		return out, err
	}
	if out.Job, err = given.with(out.Changes.Services); err != nil {
		return out, err
	}
	switch {
	case len(out.Changes.Services) == 0:
		out.Text = source.Text
	case source.JSON:
		out.Text, err = out.Job.JSON()
	default:
		out.Text, out.Unwritten, err = c.writeHCL(ctx, source, out)
	}
	return out, err
}

func (c *Client) read(ctx context.Context, source Source) (Document, error) {
	if source.JSON {
		d, err := ReadJSON(source.Text)
		if err != nil {
			return d, fmt.Errorf("%s: %w", source.Name, err)
		}
		return d, nil
	}
	d, err := c.Parse(ctx, source.Text, source.Variables)
	if err != nil {
		return d, fmt.Errorf("%s: %w", source.Name, err)
	}
	return d, nil
}

// writeHCL returns the edited text, or why there can be none.
func (c *Client) writeHCL(ctx context.Context, source Source, want Injected) (text []byte, unwritten, err error) {
	changes := edits(want.Changes.Services)
	text, err = hcl.Edit(source.Name, source.Text, changes)
	if err != nil {
		return nil, err, nil
	}
	got, err := c.Parse(ctx, text, source.Variables)
	var refused *answerError
	switch {
	case errors.As(err, &refused):
		return nil, fmt.Errorf("the edited text is not a job to Nomad: %w", err), nil
	case err != nil:
		return nil, nil, err
	case !got.equal(want.Job):
		return nil, fmt.Errorf("the edited text of %s would mean another job than the injected one, as when blocks are generated or given by functions", source.Name), nil
	}
	return text, nil, nil
}

func edits(services []Change) []hcl.Change {
	var out []hcl.Change
	for _, s := range services {
		// Groups have names of their own; services of a group need not.
		out = append(out, s.text([]hcl.Step{
			{Type: "job"}, {Type: "group", Labels: []string{s.Group}}, {Type: "service", Index: s.service}, {Type: "connect"},
		})...)
	}
	return out
}

// text returns the changes of the text in which the connect block stands.
func (c Change) text(connect []hcl.Step) []hcl.Change {
	var out []hcl.Change
	below := func(steps ...string) []hcl.Step {
		place := slices.Clone(connect)
		for _, s := range steps {
			place = append(place, hcl.Step{Type: s})
		}
		return place
	}
	set := func(name string, value any, steps ...string) {
		out = append(out, hcl.Change{In: below(steps...), Set: &hcl.Attribute{Name: name, Value: value}})
	}
	if t := c.after.transparent; t != nil && t.UID != c.before.transparent.UID {
		set("uid", t.UID, "sidecar_service", "proxy", "transparent_proxy")
	}
	after := *c.after.task
	if c.before.task == nil {
		block := taskBlock(after)
		return append(out, hcl.Change{In: connect, Put: &block})
	}
	before := *c.before.task
	if after.Driver != before.Driver {
		set("driver", after.Driver, "sidecar_task")
	}
	if after.User != before.User {
		set("user", after.User, "sidecar_task")
	}
	if before.KillTimeout == nil {
		set("kill_timeout", span(*after.KillTimeout), "sidecar_task")
	}
	put := func(b hcl.Block, add bool) {
		out = append(out, hcl.Change{In: below("sidecar_task"), Put: &b, Add: add})
	}
	if !slices.Equal(arguments(after.Config), arguments(before.Config)) || after.Config["command"] != before.Config["command"] {
		put(configBlock(after.Config), false)
	}
	if len(before.Env) == 0 && len(after.Env) > 0 {
		put(envBlock(after.Env), false)
	} else {
		for _, key := range slices.Sorted(maps.Keys(after.Env)) {
			if _, had := before.Env[key]; !had {
				set(key, after.Env[key], "sidecar_task", "env")
			}
		}
	}
	c.parts(put, set)
	for _, w := range after.Identities[len(before.Identities):] {
		put(identityBlock(w), true)
	}
	return out
}

// parts writes the resources and limits of logs that were missing.
func (c Change) parts(put func(hcl.Block, bool), set func(string, any, ...string)) {
	before, after := *c.before.task, *c.after.task
	parts := []struct {
		there       bool
		before, now hcl.Block
	}{
		{before.Resources != nil, resourcesBlock(before.Resources), resourcesBlock(after.Resources)},
		{before.LogConfig != nil, logsBlock(before.LogConfig), logsBlock(after.LogConfig)},
	}
	for _, p := range parts {
		if !p.there && len(p.now.Attributes) > 0 {
			put(p.now, false)
			continue
		}
		for _, a := range p.now.Attributes {
			if !slices.Contains(p.before.Attributes, a) {
				set(a.Name, a.Value, "sidecar_task", p.now.Type)
			}
		}
	}
}

// taskBlock is the whole of a sidecar task that is ours alone.
func taskBlock(t api.SidecarTask) hcl.Block {
	b := hcl.Block{Type: "sidecar_task", Attributes: []hcl.Attribute{{Name: "driver", Value: t.Driver}}}
	if t.User != "" {
		b.Attributes = append(b.Attributes, hcl.Attribute{Name: "user", Value: t.User})
	}
	b.Attributes = append(b.Attributes, hcl.Attribute{Name: "kill_timeout", Value: span(*t.KillTimeout)})
	b.Blocks = []hcl.Block{configBlock(t.Config), envBlock(t.Env), resourcesBlock(t.Resources)}
	if t.LogConfig != nil {
		b.Blocks = append(b.Blocks, logsBlock(t.LogConfig))
	}
	for _, w := range t.Identities {
		b.Blocks = append(b.Blocks, identityBlock(w))
	}
	return b
}

func configBlock(config map[string]any) hcl.Block {
	command, _ := config["command"].(string)
	return hcl.Block{Type: "config", Attributes: []hcl.Attribute{
		{Name: "command", Value: command}, {Name: "args", Value: arguments(config)},
	}}
}

func envBlock(env map[string]string) hcl.Block {
	b := hcl.Block{Type: "env"}
	for _, key := range slices.Sorted(maps.Keys(env)) {
		b.Attributes = append(b.Attributes, hcl.Attribute{Name: key, Value: env[key]})
	}
	return b
}

func resourcesBlock(r *api.Resources) hcl.Block {
	b := hcl.Block{Type: "resources"}
	if r != nil {
		b.Attributes = numbers([]string{"cpu", "memory"}, r.CPU, r.MemoryMB)
	}
	return b
}

func logsBlock(l *api.LogConfig) hcl.Block {
	b := hcl.Block{Type: "logs"}
	if l != nil {
		b.Attributes = numbers([]string{"max_files", "max_file_size"}, l.MaxFiles, l.MaxFileSizeMB)
	}
	return b
}

func numbers(names []string, values ...*int) []hcl.Attribute {
	var out []hcl.Attribute
	for n, v := range values {
		if v != nil {
			out = append(out, hcl.Attribute{Name: names[n], Value: *v})
		}
	}
	return out
}

func identityBlock(w *api.WorkloadIdentity) hcl.Block {
	return hcl.Block{Type: "identity", Attributes: []hcl.Attribute{
		{Name: "name", Value: w.Name}, {Name: "aud", Value: w.Audience}, {Name: "file", Value: w.File}, {Name: "ttl", Value: span(w.TTL)},
	}}
}
