// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// The user that both a plain system and Nomad's exec driver know, for a sidecar
// whose traffic is not redirected to itself.
const (
	nobody    = "nobody"
	nobodyUID = "65534"
)

// A Refusal is everything because of which a job is not injected into: what Nomad
// would refuse and what could not work.
type Refusal struct {
	Reasons []string // sentences, with group and service
}

func (r *Refusal) Error() string { return strings.Join(r.Reasons, "\n") }

func (r *Refusal) add(format string, args ...any) {
	if reason := fmt.Sprintf(format, args...); !slices.Contains(r.Reasons, reason) {
		r.Reasons = append(r.Reasons, reason)
	}
}

// group takes down what is wrong with a group whose services are in the mesh. The
// rules are those by which Nomad validates a job with Consul service mesh.
func (r *Refusal) group(job *api.Job, group *api.TaskGroup) {
	label := fmt.Sprintf("group %q", name(group.Name))
	for _, t := range group.Tasks {
		for _, s := range t.Services {
			if s.Connect != nil && !s.Connect.Native {
				r.add("%s, task %q: its service %q has a connect block, which Nomad takes in a service of the group only; move the service there", label, t.Name, s.Name)
			}
		}
	}
	var meshed []*api.Service
	for _, s := range group.Services {
		if s.Connect != nil && s.Connect.SidecarService != nil && s.Connect.Gateway == nil && !s.Connect.Native {
			meshed = append(meshed, s)
		}
	}
	if len(meshed) == 0 {
		return
	}
	for _, s := range meshed {
		r.service(group, s)
	}
	r.network(label, group)
	r.upstreams(label, meshed)
	if windows(slices.Concat(job.Constraints, group.Constraints)) {
		r.add("%s is constrained to Windows, where Nomad has no bridge networks, without which there is no sidecar", label)
	}
	if len(meshed) > 1 && slices.ContainsFunc(meshed, func(s *api.Service) bool { return transparentProxy(s) != nil }) {
		r.add("%s has %d services in the mesh and a transparent_proxy block, which redirects the traffic of the whole group to one sidecar; Nomad takes one connect block there", label, len(meshed))
	}
}

func (r *Refusal) service(group *api.TaskGroup, s *api.Service) {
	at := where(name(group.Name), s.Name)
	if s.Provider != "" && s.Provider != "consul" {
		r.add("%s has provider %q, with which Nomad takes no connect block; the mesh needs provider \"consul\"", at, s.Provider)
	}
	if t := sidecarByHand(group, s); t != nil && madeByNomad(t) {
		r.add("%s: task %q was put there by Nomad when it registered the job, so this is not the text that was submitted; inject into that one, which \"nomad job inspect -hcl\" shows", at, t.Name)
	}
}

func (r *Refusal) network(label string, group *api.TaskGroup) {
	const remedy = `; write network { mode = "bridge" } in the group, since a sidecar guards the network of one group`
	switch len(group.Networks) {
	case 0:
		r.add("%s has no network block, and Nomad asks for exactly one with a sidecar_service%s", label, remedy)
		return
	case 1:
	default:
		r.add("%s has %d network blocks, and Nomad asks for exactly one with a sidecar_service", label, len(group.Networks))
		return
	}
	if mode := group.Networks[0].Mode; mode != "bridge" && !strings.HasPrefix(mode, "cni/") {
		r.add("%s uses network mode %q, which Nomad refuses with a sidecar_service: it must be \"bridge\" or \"cni/*\"%s", label, cmp.Or(mode, "host"), remedy)
	}
}

// upstreams finds two upstreams on one address: all services of a group share its
// network.
func (r *Refusal) upstreams(label string, services []*api.Service) {
	taken := map[string]string{}
	for _, s := range services {
		if s.Connect.SidecarService.Proxy == nil {
			continue
		}
		for _, u := range s.Connect.SidecarService.Proxy.Upstreams {
			address := u.LocalBindSocketPath
			if address == "" {
				address = net.JoinHostPort(cmp.Or(u.LocalBindAddress, "127.0.0.1"), strconv.Itoa(u.LocalBindPort))
			}
			if u.LocalBindSocketPath == "" && u.LocalBindPort == 0 {
				continue // found by virtual address
			}
			what := fmt.Sprintf("upstream %q of service %q", u.DestinationName, s.Name)
			if other, found := taken[address]; found {
				r.add("%s: %s and %s are both at %s; give one of them another local_bind_port", label, other, what, address)
			}
			taken[address] = what
		}
	}
}

func windows(constraints []*api.Constraint) bool {
	return slices.ContainsFunc(constraints, func(c *api.Constraint) bool {
		equal := c.Operand == "" || c.Operand == "=" || c.Operand == "==" || c.Operand == "is"
		return equal && c.LTarget == "${attr.kernel.name}" && c.RTarget == "windows"
	})
}

// transparent makes user and uid name the same user. The rules of the redirection
// let the traffic of that uid out; every other uid must not be let out by them,
// or the group's own tasks would go around the mesh.
func (i injection) transparent(task *api.SidecarTask, t *api.ConsulTransparentProxy) {
	known := map[string]string{nobody: nobodyUID, "root": "0"}
	if i.settings.User != "" && i.settings.UID != "" {
		known[i.settings.User] = i.settings.UID
	}
	if task.User == "" {
		task.User = i.userOf(t.UID, known)
	}
	uid, there := known[task.User]
	switch {
	case t.UID == "" && there:
		t.UID = uid
	case t.UID == "":
		i.refusal.add("%s: transparent_proxy has no uid, and the sidecar runs as %q, whose uid only the clients know; write transparent_proxy { uid = \"…\" } with it", i.where(), task.User)
	case there && uid != t.UID:
		i.refusal.add("%s: transparent_proxy lets uid %s out, but the sidecar runs as %q, whose uid is %s, so its own traffic would come back to it; make them one user", i.where(), t.UID, task.User, uid)
	case task.User == "":
		i.refusal.add("%s: transparent_proxy lets uid %s out; name the user who has it with sidecar_task { user = \"…\" }, since the sidecar must run as that user", i.where(), t.UID)
	}
	i.bystanders(task.User)
}

// userOf returns the user for a sidecar whose job names none; "" when it cannot be
// known.
func (i injection) userOf(uid string, known map[string]string) string {
	for _, user := range []string{i.settings.User, nobody, "root"} {
		if user != "" && (uid == "" || known[user] == uid) {
			return user
		}
	}
	return ""
}

// bystanders refuses a task of the group that runs as the sidecar's user, since
// the redirection could not tell the two apart.
func (i injection) bystanders(user string) {
	for _, t := range i.group.Tasks {
		runs := t.User
		if runs == "" && t.Driver == driverExec {
			runs = nobody // Nomad's default for exec
		}
		if runs == "" && t.Driver == driverRaw {
			runs = "root" // the user of the Nomad agent, as a rule
		}
		if user != "" && runs == user {
			i.refusal.add("%s: task %q runs as user %q like the sidecar, so transparent_proxy would let its traffic around the mesh; run one of them as another user (sidecar_task { user }, and transparent_proxy { uid } to match; or -user and -uid)", i.where(), t.Name, user)
		}
	}
}
