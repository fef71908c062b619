// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"encoding/base64"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// environment is what Nomad 1.11 gives an injected sidecar task.
func environment(more ...string) []string {
	return append([]string{
		"PATH=/bin", "NOMAD_ALLOC_ID=d8aed6f0-1da2-7cb3-7bb6-c60e43e5ba71", "NOMAD_ALLOC_NAME=probe.api[0]",
		"NOMAD_ALLOC_DIR=/a/alloc", "NOMAD_ALLOC_INTERFACE_connect-proxy-api=eth0", "NOMAD_GROUP_NAME=api", "NOMAD_JOB_ID=probe",
		"NOMAD_ENVOY_ADMIN_ADDR_api=127.0.0.2:19001", "NOMAD_ENVOY_READY_ADDR_api=127.0.0.1:19101", "NOMAD_MEMORY_LIMIT=32",
		"NOMAD_NAMESPACE=default", "NOMAD_SECRETS_DIR=/a/task/secrets", "NOMAD_TASK_DIR=/a/task/local", "NOMAD_TASK_NAME=connect-proxy-api",
	}, more...)
}

func TestTaskIsReadFromTheEnvironment(t *testing.T) {
	injected := Task{
		AllocID: "d8aed6f0-1da2-7cb3-7bb6-c60e43e5ba71", AllocName: "probe.api[0]", Job: "probe", Group: "api", Namespace: "default",
		Name: "connect-proxy-api", SecretsDir: "/a/task/secrets", TaskDir: "/a/task/local", AllocDir: "/a/alloc",
		Service: "api", Ready: "127.0.0.1:19101", Admin: "127.0.0.2:19001", OwnNetwork: true, MemoryMB: 32,
	}
	with := func(change func(*Task)) Task { c := injected; change(&c); return c }
	for name, c := range map[string]struct {
		environ []string
		want    Task
	}{
		"injected":              {environment(), injected},
		"kind task of any name": {environment("NOMAD_TASK_NAME=mesh"), with(func(t *Task) { t.Name, t.Service = "mesh", "" })},
		"another service's address beside": {
			environment("NOMAD_ENVOY_READY_ADDR_web=127.0.0.1:19102"), injected,
		},
		"kind task that cannot tell which": {
			environment("NOMAD_TASK_NAME=mesh", "NOMAD_ENVOY_READY_ADDR_web=127.0.0.1:19102"),
			with(func(t *Task) { t.Name, t.Service, t.Ready = "mesh", "", "" }),
		},
		"a name with hyphens": {
			environment("NOMAD_TASK_NAME=connect-proxy-api-v2.x", "NOMAD_ENVOY_READY_ADDR_api_v2_x=127.0.0.1:19103"),
			with(func(t *Task) { t.Name, t.Service, t.Ready = "connect-proxy-api-v2.x", "api-v2.x", "127.0.0.1:19103" }),
		},
		"memory that is no number": {environment("NOMAD_MEMORY_LIMIT=lots"), with(func(t *Task) { t.MemoryMB = 0 })},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := FromEnvironment(c.environ)
			if !ok {
				t.Fatal("not taken for a task of Nomad")
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, missing := range []string{"NOMAD_ALLOC_ID=", "NOMAD_TASK_NAME=", "NOMAD_SECRETS_DIR="} {
		if got, ok := FromEnvironment(environment(missing)); ok {
			t.Errorf("with %s: %+v", missing, got)
		}
	}
}

func TestTaskOwnsFilesOfItsDirectoriesOnly(t *testing.T) {
	task, _ := FromEnvironment(environment())
	for path, want := range map[string]bool{
		"/a/task/secrets/token":        true,
		"/a/task/local/x/token":        true,
		"/a/alloc/data/token":          true,
		"/etc/consul.d/token":          false,
		"/a/task/secrets/../../etc/x":  false,
		"/a/task/secretsother/token":   false,
		"secrets/token":                false,
		"/a/task/secrets/../local/tok": true,
	} {
		if got := task.Owns(path); got != want {
			t.Errorf("%s: %t", path, got)
		}
	}
	if (Task{}).Owns("/etc/passwd") {
		t.Error("a task without directories owns a file")
	}
}

func TestReadyAddressesAreAllOfThem(t *testing.T) {
	got := ReadyAddresses(environment("NOMAD_ENVOY_READY_ADDR_web=127.0.0.1:19100", "NOMAD_ENVOY_READY_ADDR_same=127.0.0.1:19101", "NOMAD_ENVOY_READY_ADDR_none="))
	if diff := cmp.Diff([]string{"127.0.0.1:19100", "127.0.0.1:19101"}, got); diff != "" {
		t.Error(diff)
	}
}

func jwt(payload string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(payload)) + "." + encode([]byte("signature"))
}

func TestIdentityIsChosenByItsAudience(t *testing.T) {
	task := taskIn(t, map[string]string{
		"nomad_b.jwt":       jwt(`{"aud":"consul.io"}`),
		"nomad_a.jwt":       jwt(`{"aud":["other","consul.io"]}`) + "\n",
		"nomad_v.jwt":       jwt(`{"aud":["vault.io"]}`),
		"nomad_none.jwt":    jwt(`{}`),
		"nomad_bad.jwt":     "not a token",
		"nomad_numbers.jwt": jwt(`{"aud":7}`),
		"nomad_long.jwt":    strings.Repeat("a", maxJWT+1),
		"nomad_token":       jwt(`{"aud":"consul.io"}`),
		"other.jwt":         jwt(`{"aud":"consul.io"}`),
	})
	all, err := task.Identities()
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(task.SecretsDir, name) }
	want := []Identity{
		{"a", in("nomad_a.jwt"), []string{"other", "consul.io"}}, {"b", in("nomad_b.jwt"), []string{"consul.io"}},
		{"none", in("nomad_none.jwt"), nil}, {"v", in("nomad_v.jwt"), []string{"vault.io"}},
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
	if got, ok := ForAudience(ConsulAudience, all); !ok || got.Name != "a" {
		t.Errorf("for Consul: %+v", got)
	}
	if got, ok := ForAudience(VaultAudience, all); !ok || got.Name != "v" {
		t.Errorf("for Vault: %+v", got)
	}
	if got, ok := ForAudience("nobody", all); ok {
		t.Errorf("for nobody: %+v", got)
	}
	if all, err := (Task{SecretsDir: in("missing")}).Identities(); err != nil || all != nil {
		t.Errorf("without a directory: %v, %v", all, err)
	}
}
