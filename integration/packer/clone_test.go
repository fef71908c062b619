// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package packer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

const consulToken = "00000000-1111-2222-3333-444444444444" //nolint:gosec // of a Consul that lives as long as the test

const acl = `acl { enabled = true default_policy = "deny" tokens { initial_management = "` + consulToken + `" agent = "` + consulToken + `" } }`

// clonesDiffer boots two clones of an image, each with what its first boot
// provides and beside a Consul agent of its own, in one mesh.
func clonesDiffer(t *testing.T, m machine) {
	server := realserver.StartConsul(t, realserver.Token(consulToken), realserver.HCL(acl))
	var members []struct{ Port int }
	ask(t, server.Addr, "/v1/agent/members", &members)
	type instance struct{ Node, ServiceID, ServiceAddress, Machine string }
	var want, got []instance
	keys := map[string]bool{}
	for i := range 2 {
		name, address := fmt.Sprintf("clone%d", i+1), fmt.Sprintf("127.0.0.%d", 11+i)
		joinConsul(t, name, address, members[0].Port)
		boot(t, m.clone(t), name, map[string]string{"CONSUL_HTTP_ADDR": address + ":8500", "WEB_ADDRESS": address})
		keys[peerKey(t, address+":21000")] = true
		want = append(want, instance{name, "web-" + name, address, name})
	}
	if len(keys) != 2 {
		t.Error("both clones have the same key")
	}
	// The agents tell the server of their services after they have taken them.
	eventually(t, func() error {
		var found []struct {
			Node, ServiceID, ServiceAddress string
			ServiceMeta                     map[string]string
		}
		ask(t, server.Addr, "/v1/catalog/service/web", &found)
		got = nil
		for _, f := range found {
			got = append(got, instance{f.Node, f.ServiceID, f.ServiceAddress, f.ServiceMeta["machine"]})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("instances in Consul (-want +got):\n%s", diff)
		}
		return nil
	})
}

// joinConsul starts the Consul agent of a machine, which the image does not have.
func joinConsul(t *testing.T, name, address string, serf int) {
	t.Helper()
	cmd := exec.Command(realserver.Binary(t, "consul", "OUTRIDER_CONSUL"), "agent", "-node", name, "-bind", address, "-client", address,
		"-data-dir", t.TempDir(), "-retry-join", fmt.Sprintf("127.0.0.1:%d", serf), "-hcl", acl, "-hcl", "disable_update_check = true",
		"-hcl", fmt.Sprintf("ports { http = 8500 serf_lan = %d dns = -1 grpc = -1 grpc_tls = -1 }", serf))
	start(t, "consul of "+name, cmd)
	eventually(t, func() error {
		var leader string
		return get(t, address+":8500", "/v1/status/leader", &leader)
	})
}

// start runs a program as long as the test, and shows what it wrote if that failed.
func start(t *testing.T, name string, cmd *exec.Cmd) {
	t.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("log of %s:\n%s", name, log.String())
		}
	})
}

// boot does what systemd and cloud-init do at the first boot of a clone: the name
// of the machine, the variables and the token, and the agent as its own user.
func boot(t *testing.T, m machine, name string, env map[string]string) {
	t.Helper()
	m.write(t, "/etc/hostname", name+"\n", 0o644)
	m.write(t, "/etc/outrider.d/consul.token", consulToken+"\n", 0o640)
	if out, err := m.shell(t, "chown root:outrider /etc/outrider.d/consul.token; install -d -o outrider -g outrider -m 0750 /run/outrider"); err != nil {
		t.Fatalf("prepare %s: %v: %s", name, err, out)
	}
	cmd := exec.Command("unshare", "--uts", "--mount", "sh", "-ec", `hostname "$1"; mount -t proc proc "$2/proc"; exec chroot --userspec=outrider:outrider "$2" /usr/bin/outrider agent -config /etc/outrider.d`, "boot", name, m.dir)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	for key, value := range env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	start(t, name, cmd)
}

// peerKey returns a digest of the key that a sidecar shows to its callers.
func peerKey(t *testing.T, addr string) string {
	t.Helper()
	var key string
	eventually(t, func() error {
		dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // the key is all that counts here
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("call the sidecar at %s: %w", addr, err)
		}
		defer conn.Close()
		state := conn.(*tls.Conn).ConnectionState()
		key = fmt.Sprintf("%x", sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo))
		return nil
	})
	return key
}

// ask asks Consul, get also while it may not answer yet.
func ask(t *testing.T, addr, path string, into any) {
	t.Helper()
	if err := get(t, addr, path, into); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, addr, path string, into any) error {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return err
	}
	request.Header.Set("X-Consul-Token", consulToken)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s: %s", path, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(into)
}
