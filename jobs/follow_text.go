// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"
)

// short is how Nomad's command line shows an ID, which it also takes.
func short(id string) string {
	const length = 8
	id = clean(id)
	return id[:min(len(id), length)]
}

func allocationLine(a *api.AllocationListStub) string {
	var tasks []string
	for _, task := range slices.Sorted(maps.Keys(a.TaskStates)) {
		s := a.TaskStates[task]
		if s == nil {
			continue
		}
		words := s.State
		if s.Failed {
			words = "failed"
		}
		if s.Restarts > 0 {
			words += fmt.Sprintf(" (%d restarts)", s.Restarts)
		}
		tasks = append(tasks, task+" "+words)
	}
	status := a.ClientStatus
	if a.DesiredStatus != api.AllocDesiredStatusRun && a.DesiredStatus != "" {
		status += ", to be stopped"
	}
	line := fmt.Sprintf("allocation %s %s on %s: %s", short(a.ID), a.Name, a.NodeName, status)
	if a.DeploymentStatus != nil && a.DeploymentStatus.Healthy != nil {
		line += map[bool]string{true: ", healthy", false: ", unhealthy"}[*a.DeploymentStatus.Healthy]
	}
	if len(tasks) > 0 {
		line += "; " + strings.Join(tasks, ", ")
	}
	return clean(line)
}

func deploymentLine(id, group string, s *api.DeploymentState) string {
	line := fmt.Sprintf("deployment %s: group %q: %d of %d placed, %d healthy", short(id), clean(group), s.PlacedAllocs, s.DesiredTotal, s.HealthyAllocs)
	if s.UnhealthyAllocs > 0 {
		line += fmt.Sprintf(", %d unhealthy", s.UnhealthyAllocs)
	}
	if s.DesiredCanaries > 0 && !s.Promoted {
		line += fmt.Sprintf("; %d of %d canaries placed", len(s.PlacedCanaries), s.DesiredCanaries)
	}
	return line
}

// waitsForPromotion reports whether only a person can take a deployment further.
func waitsForPromotion(groups map[string]*api.DeploymentState) bool {
	canaries := false
	for _, s := range groups {
		switch {
		case s == nil:
		case s.DesiredCanaries > 0 && !s.Promoted:
			canaries = true
			if s.HealthyAllocs < s.DesiredCanaries {
				return false
			}
		case s.HealthyAllocs < s.DesiredTotal:
			return false
		}
	}
	return canaries
}

// bad reports whether an event of a task is trouble.
func bad(e *api.TaskEvent) bool {
	switch e.Type {
	case api.TaskSetupFailure, api.TaskDriverFailure, api.TaskFailedValidation, api.TaskNotRestarting,
		api.TaskArtifactDownloadFailed, api.TaskSiblingFailed, api.TaskRestarting:
		return true
	case api.TaskTerminated:
		return e.Details["exit_code"] != "0" && e.Details["exit_code"] != "" || e.Details["oom_killed"] == "true" || e.ExitCode != 0
	}
	return false
}

// follows reports whether an event only follows from another trouble.
func follows(e *api.TaskEvent) bool {
	return e.Type == api.TaskSiblingFailed || e.Type == api.TaskNotRestarting || e.Type == api.TaskRestarting
}

// eventWords is what Nomad says of an event, with the remedy where its words do
// not lead to it.
func eventWords(e *api.TaskEvent) string {
	words := clean(e.DisplayMessage)
	lower := strings.ToLower(words)
	switch {
	case e.Details["oom_killed"] == "true":
		words += " (it needed more memory than resources { memory } gives)"
	case strings.Contains(lower, `exec: "consul"`):
		words += ` (the client's agent needs the consul binary on its PATH for every sidecar)`
	case strings.Contains(lower, "no such file") || strings.Contains(lower, "executable file not found") || strings.Contains(lower, "could not be found"):
		words += " (is outrider on the client, for driver exec inside its chroot_env? -command gives another path)"
	}
	return words
}

// explainPlacement says why no client took an allocation, and whether one that
// becomes free might.
func explainPlacement(m *api.AllocationMetric) (words string, waits bool) {
	if m == nil {
		return "Nomad does not say why", true
	}
	var why []string
	if m.NodesEvaluated == 0 {
		available := 0
		for _, n := range m.NodesAvailable {
			available += n
		}
		return fmt.Sprintf("no client is eligible in node pool %q (%d are there in the job's datacenters)", clean(m.NodePool), available), true
	}
	for _, c := range slices.Sorted(maps.Keys(m.ConstraintFiltered)) {
		why = append(why, fmt.Sprintf("%s not fulfilled by %d of %d%s", clean(c), m.ConstraintFiltered[c], m.NodesEvaluated, remedy(c)))
	}
	for _, c := range slices.Sorted(maps.Keys(m.ClassFiltered)) {
		why = append(why, fmt.Sprintf("class %q left out on %d", clean(c), m.ClassFiltered[c]))
	}
	for _, d := range slices.Sorted(maps.Keys(m.DimensionExhausted)) {
		why = append(why, fmt.Sprintf("%s exhausted on %d", clean(d), m.DimensionExhausted[d]))
	}
	for _, q := range m.QuotaExhausted {
		why = append(why, "quota reached: "+clean(q))
	}
	if len(why) == 0 {
		why = append(why, fmt.Sprintf("none of %d fits", m.NodesEvaluated))
	}
	return strings.Join(why, "; "), m.NodesExhausted > 0 || len(m.QuotaExhausted) > 0 || len(m.ConstraintFiltered) == 0
}

// remedy says what to do about a constraint that Nomad adds to a group in the
// mesh.
func remedy(constraint string) string {
	for _, r := range [][2]string{
		{"missing drivers", `enable it in the clients' configuration: plugin "raw_exec" { config { enabled = true } }; or choose another with -driver`},
		{"plugins.cni.version.consul-cni", "transparent_proxy needs the plugin consul-cni in the clients' cni_path"},
		{"plugins.cni.version", "install the CNI plugins in the clients' cni_path (/opt/cni/bin)"},
		{"consul.connect", "set connect { enabled = true } in the Consul agents of the clients"},
		{"consul.grpc", "set ports { grpc = 8502 } in the Consul agents of the clients"},
		{"consul.version", "the clients need a Consul agent, named in their consul block"},
		{"vault.version", "the clients need a vault block with enabled = true"},
		{"missing network", "the clients need bridge networking: CNI plugins and the kernel module bridge"},
		{"kernel.name", "bridge networks are there on Linux only"},
	} {
		if strings.Contains(constraint, r[0]) {
			return " (" + r[1] + ")"
		}
	}
	return ""
}
