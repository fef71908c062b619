// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"
)

// kindPrefix begins the kind of a task that is the sidecar of a service of the
// group.
const kindPrefix = "connect-proxy:"

// maxKillTimeout is the default of max_kill_timeout in the client block of Nomad's
// agent configuration.
const maxKillTimeout = 30 * time.Second

// Changes are what [Inject] found.
type Changes struct {
	// Services that get another sidecar task, in the order of the job.
	Services []Change
	// Ready counts the services that had their sidecar task already.
	Ready int
	// Notices say in sentences what was left alone or replaced.
	Notices []string
}

// A Change is a new connect block of one service. It is immutable.
type Change struct {
	Group, Service string

	group, service int // indexes in the job
	before, after  connection
}

// A connection is the part of a connect block that changes.
type connection struct {
	task        *api.SidecarTask            // nil: none
	transparent *api.ConsulTransparentProxy // nil: none
}

// Where names the service for people.
func (c Change) Where() string { return where(c.Group, c.Service) }

func where(group, service string) string {
	return fmt.Sprintf("group %q, service %q", group, service)
}

// Inject finds how each group service with a sidecar_service gets our sidecar
// task. What the job says itself stays: resources, environment, user, identities
// and times; driver and config of another proxy are replaced. Injecting twice is
// injecting once. It changes nothing; the error is a [*Refusal] when the job
// cannot work.
func Inject(job *api.Job, s Settings) (Changes, error) {
	if err := s.check(); err != nil {
		return Changes{}, err
	}
	var out Changes
	var refusal Refusal
	found := false
	for g, group := range job.TaskGroups {
		refusal.group(job, group)
		for n, service := range group.Services {
			if byHand(group, service, &out) {
				out.Ready++
				found = true
				continue
			}
			if !wanted(group, service, &out) {
				continue
			}
			found = true
			before := connection{task: service.Connect.SidecarTask, transparent: transparentProxy(service)}
			i := injection{settings: s, group: group, service: service, out: &out, refusal: &refusal}
			after := i.connection(before)
			change := Change{name(group.Name), service.Name, g, n, before, after}
			if len(change.text(nil)) == 0 {
				out.Ready++
				continue
			}
			out.Services = append(out.Services, change)
		}
	}
	switch {
	case len(refusal.Reasons) > 0:
		return Changes{}, &refusal
	case !found:
		return Changes{}, nothing(job, out.Notices)
	}
	return out, nil
}

// nothing says why there is nothing to do.
func nothing(job *api.Job, notices []string) error {
	r := &Refusal{Reasons: notices}
	if len(notices) == 0 {
		r.Reasons = []string{fmt.Sprintf("nothing to do: no group service of job %q has connect { sidecar_service {} }; add it to the services that shall be in the mesh", name(job.ID))}
	}
	return r
}

// wanted reports whether a service gets a sidecar task of ours, and takes down
// why one does not.
func wanted(group *api.TaskGroup, service *api.Service, out *Changes) bool {
	c, at := service.Connect, where(name(group.Name), service.Name)
	switch {
	case c == nil:
		return false
	case c.Native:
		out.Notices = append(out.Notices, at+" is left alone: it is connect-native and speaks mTLS itself")
		return false
	case c.Gateway != nil:
		out.Notices = append(out.Notices, at+" is left alone: it is a gateway, which Outrider does not run; Nomad starts Envoy for it")
		return false
	case c.SidecarService == nil:
		return false
	}
	return true
}

// byHand reports whether a service has a sidecar that its author wrote as a task
// of the group, and takes it down.
func byHand(group *api.TaskGroup, service *api.Service, out *Changes) bool {
	t := sidecarByHand(group, service)
	if service.Connect == nil || service.Connect.SidecarService == nil || t == nil || madeByNomad(t) {
		return false
	}
	out.Notices = append(out.Notices, fmt.Sprintf("%s is left alone: task %q of kind %q is its sidecar", where(name(group.Name), service.Name), t.Name, t.Kind))
	return true
}

// sidecarByHand returns the task that says it is the sidecar of the service.
func sidecarByHand(group *api.TaskGroup, service *api.Service) *api.Task {
	for _, t := range group.Tasks {
		if t.Kind == kindPrefix+service.Name {
			return t
		}
	}
	return nil
}

// madeByNomad reports whether Nomad put a task into the job when it was
// registered: nobody else asks for the client's choice of an Envoy image.
func madeByNomad(t *api.Task) bool {
	image, _ := t.Config["image"].(string)
	return strings.Contains(image, "meta.connect.sidecar_image")
}

func transparentProxy(service *api.Service) *api.ConsulTransparentProxy {
	if p := service.Connect.SidecarService.Proxy; p != nil {
		return p.TransparentProxy
	}
	return nil
}

// injection makes the connect block of one service.
type injection struct {
	settings Settings
	group    *api.TaskGroup
	service  *api.Service
	out      *Changes
	refusal  *Refusal
}

func (i injection) where() string { return where(name(i.group.Name), i.service.Name) }

func (i injection) notice(format string, args ...any) {
	i.out.Notices = append(i.out.Notices, i.where()+" "+fmt.Sprintf(format, args...))
}

// connection returns the new form; what it shares with the old one is not
// written to.
func (i injection) connection(before connection) connection {
	s := i.settings
	task := api.SidecarTask{}
	if before.task != nil {
		task = *before.task
	}
	i.program(&task)
	if task.User == "" {
		task.User = s.User
	}
	if task.KillTimeout == nil {
		task.KillTimeout = &s.KillTimeout
	}
	if *task.KillTimeout > maxKillTimeout {
		i.notice("has kill_timeout %s, of which Nomad gives %s unless the clients' max_kill_timeout allows more", span(*task.KillTimeout), span(maxKillTimeout))
	}
	task.Env = i.environment(task)
	task.Resources = resources(task.Resources, s)
	task.LogConfig = logs(task.LogConfig, s)
	task.Identities = identities(task.Identities, s)
	after := connection{task: &task}
	if before.transparent != nil {
		t := *before.transparent
		i.transparent(&task, &t)
		after.transparent = &t
	}
	if task.Driver == driverExec && isRoot(task.User) {
		i.refusal.add("%s: sidecar_task has user = %q, as which driver exec runs no task; name another user, or use driver raw_exec", i.where(), task.User)
	}
	if task.Resources.Cores != nil {
		i.refusal.add("%s: resources of its sidecar_task ask for cores, which Nomad refuses: a sidecar task has cpu from the start; give it cpu", i.where())
	}
	return after
}

// program sets driver and config, unless they run our sidecar already.
func (i injection) program(task *api.SidecarTask) {
	s := i.settings
	if s.runs(*task) {
		if task.Driver != s.Driver {
			i.notice("keeps driver %q of its sidecar_task; delete the block to have it made anew", task.Driver)
		}
		if s.LogLevel != "" && !slices.Contains(arguments(task.Config), s.LogLevel) {
			i.notice("keeps the config of its sidecar_task, which does not set log level %q; add it to args", s.LogLevel)
		}
		return
	}
	if task.Driver != "" || len(task.Config) > 0 {
		i.notice("had a sidecar_task for another proxy%s: driver and config are replaced, what else it sets is kept", describe(*task))
		if task.User != "" {
			i.notice("keeps user %q of that proxy's sidecar_task, which must exist on the clients", task.User)
		}
	}
	task.Driver = s.Driver
	task.Config = map[string]any{"command": s.Command, "args": s.arguments()}
}

// runs reports whether a sidecar task runs our sidecar.
func (s Settings) runs(task api.SidecarTask) bool {
	if task.Driver != driverRaw && task.Driver != driverExec {
		return false
	}
	command, _ := task.Config["command"].(string)
	return command == s.Command || path.Base(command) == "outrider"
}

func describe(task api.SidecarTask) string {
	for _, key := range []string{"image", "command"} {
		if v, ok := task.Config[key].(string); ok {
			return fmt.Sprintf(" (driver %q, %s %q)", task.Driver, key, v)
		}
	}
	return fmt.Sprintf(" (driver %q)", task.Driver)
}

func arguments(config map[string]any) []string {
	var out []string
	switch args := config["args"].(type) {
	case []string:
		return args
	case []any:
		for _, a := range args {
			out = append(out, fmt.Sprint(a))
		}
	}
	return out
}

func (i injection) environment(task api.SidecarTask) map[string]string {
	out := maps.Clone(task.Env)
	if out == nil {
		out = map[string]string{}
	}
	for _, v := range i.settings.environment(*task.KillTimeout) {
		if _, set := out[v[0]]; !set {
			out[v[0]] = v[1]
		}
	}
	return out
}

func resources(r *api.Resources, s Settings) *api.Resources {
	out := api.Resources{}
	if r != nil {
		out = *r
	}
	if out.CPU == nil && out.Cores == nil {
		out.CPU = &s.CPU
	}
	if out.MemoryMB == nil {
		out.MemoryMB = &s.Memory
	}
	return &out
}

func logs(l *api.LogConfig, s Settings) *api.LogConfig {
	out := api.LogConfig{}
	if l != nil {
		out = *l
	}
	if out.MaxFiles == nil && s.LogMaxFiles > 0 {
		out.MaxFiles = &s.LogMaxFiles
	}
	if out.MaxFileSizeMB == nil && s.LogMaxFileSize > 0 {
		out.MaxFileSizeMB = &s.LogMaxFileSize
	}
	if l == nil && out == (api.LogConfig{}) {
		return nil
	}
	return &out
}

func identities(have []*api.WorkloadIdentity, s Settings) []*api.WorkloadIdentity {
	out := slices.Clone(have)
	add := func(name, audience string) {
		if !slices.ContainsFunc(out, func(w *api.WorkloadIdentity) bool { return w.Name == name }) {
			out = append(out, &api.WorkloadIdentity{Name: name, Audience: []string{audience}, File: true, TTL: time.Hour})
		}
	}
	if s.Vault != (VaultSettings{}) {
		add(vaultIdentity, "vault.io")
	}
	if s.ConsulLogin != "" {
		add(consulIdentity, "consul.io")
	}
	return out
}

// name reads a name that the API may leave out.
func name(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}
