// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Task is what the environment of a task says about it (Nomad documentation,
// runtime environment settings). It is a plain value.
type Task struct {
	AllocID, AllocName    string
	Job, Group, Namespace string
	Name                  string

	SecretsDir, TaskDir, AllocDir string

	// Service is the one that this task is the sidecar of, as far as the
	// environment tells: exact from a task name connect-proxy-<service>; "" when
	// it does not, as the names of variables write every character that is not
	// a letter, a digit or an underscore as an underscore.
	Service string

	// Ready and Admin are the host:port that Nomad has promised for Envoy's
	// ready and admin listeners; "" when it has not. Nomad tells them to the
	// sidecar task alone.
	Ready, Admin string

	// OwnNetwork reports that Nomad gave the group a network of its own. False
	// means that the environment does not say so.
	OwnNetwork bool

	// MemoryMB is what the task may use, in MB of 2^20 bytes; 0 when unknown.
	MemoryMB int64
}

const (
	readyVariable     = "NOMAD_ENVOY_READY_ADDR_"
	adminVariable     = "NOMAD_ENVOY_ADMIN_ADDR_"
	interfaceVariable = "NOMAD_ALLOC_INTERFACE_"
	sidecarTask       = "connect-proxy-"
)

// FromEnvironment reads the environment, as os.Environ returns it. It reports
// false outside a task of Nomad.
func FromEnvironment(environ []string) (Task, bool) {
	env := make(map[string]string)
	var ready, admin []string
	var network bool
	for _, pair := range environ {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || !strings.HasPrefix(name, "NOMAD_") {
			continue
		}
		env[name] = value
		switch {
		case strings.HasPrefix(name, readyVariable):
			ready = append(ready, name)
		case strings.HasPrefix(name, adminVariable):
			admin = append(admin, name)
		case strings.HasPrefix(name, interfaceVariable):
			network = true
		}
	}
	if env["NOMAD_ALLOC_ID"] == "" || env["NOMAD_TASK_NAME"] == "" || env["NOMAD_SECRETS_DIR"] == "" {
		return Task{}, false
	}
	t := Task{
		AllocID: env["NOMAD_ALLOC_ID"], AllocName: env["NOMAD_ALLOC_NAME"],
		Job: env["NOMAD_JOB_ID"], Group: env["NOMAD_GROUP_NAME"], Namespace: env["NOMAD_NAMESPACE"],
		Name:       env["NOMAD_TASK_NAME"],
		SecretsDir: env["NOMAD_SECRETS_DIR"], TaskDir: env["NOMAD_TASK_DIR"], AllocDir: env["NOMAD_ALLOC_DIR"],
		OwnNetwork: network,
	}
	t.Service, _ = strings.CutPrefix(t.Name, sidecarTask)
	if t.Service == t.Name {
		t.Service = ""
	}
	t.Ready = env[choose(ready, readyVariable, t.Service)]
	t.Admin = env[choose(admin, adminVariable, t.Service)]
	if mb, err := strconv.ParseInt(env["NOMAD_MEMORY_LIMIT"], 10, 32); err == nil && mb > 0 {
		t.MemoryMB = mb
	}
	return t, true
}

// choose returns the variable of the service, or the only one there is.
func choose(names []string, prefix, service string) string {
	if want := prefix + variable(service); service != "" && slices.Contains(names, want) {
		return want
	}
	if len(names) == 1 {
		return names[0]
	}
	return ""
}

// variable writes a name as Nomad does inside the name of a variable.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, name)
}

// ReadyAddresses returns every address that the environment names as the ready
// listener of a sidecar, in order. Nomad names them to the sidecar's own task.
func ReadyAddresses(environ []string) []string { return addresses(environ, readyVariable) }

// UpstreamAddresses returns every address at which the environment says that the
// sidecar of the group listens for an upstream, in order. Nomad names them to
// every task of the group.
func UpstreamAddresses(environ []string) []string { return addresses(environ, "NOMAD_UPSTREAM_ADDR_") }

func addresses(environ []string, prefix string) []string {
	var found []string
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, prefix) && value != "" {
			found = append(found, value)
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// BootstrapFile is where Nomad puts the bootstrap that it has Consul make for
// Envoy.
func (t Task) BootstrapFile() string { return filepath.Join(t.SecretsDir, "envoy_bootstrap.json") }

// Socket is where the sidecar serves its whole admin API to whoever may enter
// the secrets directory: the user of the task, and root.
func (t Task) Socket() string { return filepath.Join(t.SecretsDir, "outrider.sock") }

// Owns reports whether path lies in a directory that Nomad has made for the
// task or its group.
func (t Task) Owns(path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	for _, dir := range []string{t.SecretsDir, t.TaskDir, t.AllocDir} {
		if dir == "" {
			continue
		}
		if rest, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(rest) {
			return true
		}
	}
	return false
}
