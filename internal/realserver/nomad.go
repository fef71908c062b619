// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package realserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// nomadVersion is the version the tests were written for.
const nomadVersion = "1.11.3"

// NomadOptions say what a Nomad agent works with.
type NomadOptions struct {
	// Dir holds the agent's data. Keep it short: Nomad makes unix sockets deep
	// in it, whose paths have 107 bytes.
	Dir string
	// HCL is merged into the agent's configuration: its consul and vault blocks,
	// chroot_env, and what else a test is about.
	HCL string
	// Path are directories in front of PATH, for the agent and its raw_exec
	// tasks; CNI plugins are looked for there as well.
	Path []string
}

// A Nomad is a client agent with a server of its own, on a host of [OnOwnHost].
// Its methods are for one goroutine at a time.
type Nomad struct {
	*process // the client

	// Addr is the URL of the client's API, as NOMAD_ADDR takes it.
	Addr string
	// Keys is the URL of the keys that workload identities are signed with.
	Keys string

	owner     testing.TB // whose end is the client's
	path, dir string
	args, env []string
}

// StartNomad starts a server and a client with the raw_exec and exec drivers and
// bridge networks, and waits until the node is ready. They are killed when t
// ends; what their tasks leave behind ends with the host. Their logs are shown
// if t has failed.
func StartNomad(t testing.TB, o NomadOptions) *Nomad {
	t.Helper()
	n := &Nomad{
		owner: t,
		Addr:  "http://127.0.0.1:4646", Keys: "http://127.0.0.1:5646/.well-known/jwks.json",
		path: binary(t, "nomad", "OUTRIDER_NOMAD", nomadVersion), dir: o.Dir,
		env: []string{"PATH=" + strings.Join(append(o.Path, os.Getenv("PATH")), ":")},
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		t.Fatalf("start nomad: %v", err)
	}
	// A client that registers before the server has its keyring waits for long.
	server := start(t, "nomad-server", o.Dir, n.path, n.agent(t, "server", nomadServer, o.HCL), n.env)
	if err := server.until(t, n.signs); err != nil {
		t.Fatalf("start nomad: %v; the server's log:\n%s", err, server.Output())
	}
	n.args = n.agent(t, "client", nomadClient(t, o.Dir, o.Path), o.HCL)
	n.run(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of nomad's server:\n%s\nlog of the client at %s:\n%s", server.Output(), n.Addr, n.Output())
		}
	})
	return n
}

// agent writes the configuration of an agent and returns its command line.
func (n *Nomad) agent(t testing.TB, name string, parts ...string) []string {
	t.Helper()
	args := []string{"agent"}
	base := fmt.Sprintf(`
name                 = %q
data_dir             = "%s/%s"
disable_update_check = true
bind_addr            = "0.0.0.0"
log_level            = "INFO"
advertise {
  http = %[4]q
  rpc  = %[4]q
  serf = %[4]q
}
`, name, n.dir, name, HostAddress)
	for i, text := range append([]string{base}, parts...) {
		file := filepath.Join(n.dir, fmt.Sprintf("%s-%d.hcl", name, i))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatalf("start nomad: %v", err)
		}
		args = append(args, "-config", file)
	}
	return args
}

const nomadServer = `
ports {
  http = 5646
}
server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1
}
client {
  enabled = false
}
`

// nomadClient is for a host whose only interface has a link-local address, and
// which no cloud's metadata service is near. Its dynamic ports are between those
// of [FreeAddr] and those of outgoing connections: the rules of the port mapping
// lead connections to loopback astray as well, those to Consul for example.
func nomadClient(t testing.TB, dir string, more []string) string {
	t.Helper()
	plugins := ""
	for _, place := range []string{"/opt/cni/bin", "/usr/lib/cni"} {
		if _, err := os.Stat(filepath.Join(place, "bridge")); err == nil {
			plugins = place
		}
	}
	if plugins == "" {
		t.Fatal("start nomad: neither /opt/cni/bin nor /usr/lib/cni holds the CNI plugins: install containernetworking-plugins")
	}
	plugins = strings.Join(append([]string{plugins}, more...), ":")
	return fmt.Sprintf(`
ports {
  rpc = 4747
}
client {
  enabled               = true
  servers               = ["127.0.0.1:4647"]
  alloc_dir             = %q
  network_interface     = "host0"
  min_dynamic_port      = 31000
  max_dynamic_port      = 32700
  cni_path              = %q
  bridge_network_subnet = "169.254.64.0/20"
  cgroup_parent         = "outrider-lab"
  options = {
    "fingerprint.denylist"                    = "env_aws,env_gce,env_azure,env_digitalocean"
    "fingerprint.network.disallow_link_local" = "false"
    "driver.allowlist"                        = "raw_exec,exec"
  }
}
plugin "raw_exec" {
  config {
    enabled = true
  }
}
`, dir+"/alloc", plugins)
}

func (n *Nomad) run(t testing.TB, env ...string) {
	t.Helper()
	n.process = start(n.owner, "nomad", n.dir, n.path, n.args, slices.Concat(n.env, env))
	if err := n.until(t, n.ready); err != nil {
		t.Fatalf("start nomad: %v; its log:\n%s", err, n.Output())
	}
}

// signs returns nil once the server has the keys that it signs identities with.
func (n *Nomad) signs(ctx context.Context) error {
	keys, err := get(ctx, n.Keys, "", "")
	if err != nil {
		return err
	}
	if !strings.Contains(string(keys), `"kid"`) {
		return errors.New("the server has no signing key yet")
	}
	return nil
}

func (n *Nomad) ready(ctx context.Context) error {
	nodes, err := get(ctx, n.Addr+"/v1/nodes", "", "")
	if err != nil {
		return err
	}
	if !strings.Contains(string(nodes), `"Status":"ready"`) {
		return errors.New("the node is not ready yet")
	}
	return nil
}

// Restart ends the client as a service manager does, while its tasks go on, and
// starts it again, with more in its environment.
func (n *Nomad) Restart(t testing.TB, env ...string) {
	t.Helper()
	n.signal(t, syscall.SIGTERM)
	<-n.done
	n.run(t, env...)
}

// AllocDir is where the directories of allocations are.
func (n *Nomad) AllocDir() string { return filepath.Join(n.dir, "alloc") }

// Command runs one command of the nomad program against this agent and returns
// its output. A command that fails, fails the test.
func (n *Nomad) Command(t testing.TB, args ...string) string {
	t.Helper()
	return command(t, n.dir, n.path, []string{"NOMAD_ADDR=" + n.Addr}, args)
}
