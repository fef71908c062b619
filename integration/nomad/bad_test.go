// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// testBadInput starts sidecars that cannot work, each of which says why in one
// sentence with a remedy, and goes on trying: Nomad's restarts are not used up.
func testBadInput(t *testing.T, l *lab) {
	t.Parallel()
	job := l.run(t, shape{"bad", []group{
		{name: "who", sidecar: rawExec("", "-proxy-id", "nobody-registered-this")},
		{name: "what", sidecar: rawExec("", "-bootstrap", "/nonexistent/bootstrap.json")},
		{name: "whence", sidecar: sidecarTask("raw_exec", "outrider", "", "-c", "${NOMAD_TASK_DIR}/missing.json", "-l", "info")},
	}}.String())
	for _, wrong := range []struct {
		group string
		words []string
	}{
		{"who", []string{"nobody-registered-this", "it is not registered", "check"}},
		{"what", []string{"/nonexistent/bootstrap.json", "no such file", "the consul binary on the Nomad agent's PATH"}},
		{"whence", []string{"missing.json", "no such file", "the consul binary on the Nomad agent's PATH"}},
	} {
		a := l.alloc(t, job, wrong.group)
		a.says(t, "connect-proxy-"+wrong.group, wrong.words...)
		a.lives(t, "connect-proxy-"+wrong.group)
	}
}

// lives checks that a task has never been restarted.
func (a *alloc) lives(t testing.TB, task string) {
	t.Helper()
	if state := a.task(t, task); state.State != "running" || state.Restarts != 0 {
		t.Errorf("task %s is %s after %d restarts", task, state.State, state.Restarts)
	}
}

// testPortTaken has another task of the group listen where the sidecar must, and
// then give way.
func testPortTaken(t *testing.T, l *lab) {
	t.Parallel()
	l.intend(t, "seat", map[string]string{"guest2": "allow"})
	job := l.run(t, `
job "seats" {
  group "seat" {
    network {
      mode = "bridge"
      port "mesh" {
        to = 21555
      }
    }
    service {
      name = "seat"
      port = "9090"
      connect {
        sidecar_service {
          port = "mesh"
        }
      }
    }
    task "squatter" {
      driver = "raw_exec"
      config {
        command = "testapp"
      }
      env {
        `+appVariable+` = "squatter"
        APP_LISTEN = "0.0.0.0:21555"
      }
    }
    task "app" {
      driver = "raw_exec"
      config {
        command = "testapp"
      }
      env {
        `+appVariable+` = "seated"
        APP_LISTEN = "127.0.0.1:9090"
      }
    }
    task "mesh" {
      kind   = "connect-proxy:seat"
      driver = "raw_exec"
      lifecycle {
        hook    = "poststart"
        sidecar = true
      }
      config {
        command = "outrider"
        args    = ["sidecar"]
      }
    }
  }
}`)
	seat := l.alloc(t, job, "seat")
	seat.says(t, "mesh", "address already in use", "free the address")
	seat.lives(t, "mesh")
	guest := l.alloc(t, l.run(t, shape{"guest2", []group{{name: "guest2", upstreams: map[string]int{"seat": 5000}}}}.String()), "guest2")
	until(t, "the seat is free", func() error {
		// Nomad restarts it, after a while.
		for _, pid := range processes(t, seat, "squatter") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		_, body, err := guest.get(t.Context(), 5000)
		if err == nil && body != "seated" {
			err = fmt.Errorf("the answer is %q", body)
		}
		return err
	})
}

// testRefusals gives "outrider job inject" what cannot work: it says so before
// Nomad does.
func testRefusals(t *testing.T, l *lab) {
	t.Parallel()
	for mode, words := range map[string][]string{
		"host": {"host", "bridge"},
		"none": {"none", "bridge"},
		"":     {"network", "bridge"},
	} {
		source := strings.Replace(shape{"refused", []group{{name: "lonely"}}}.String(), `mode = "bridge"`, fmt.Sprintf("mode = %q", mode), 1)
		if mode == "" {
			source = strings.Replace(shape{"refused", []group{{name: "lonely"}}}.String(), "network {\n      mode = \"bridge\"\n    }", "", 1)
		}
		stdout, stderr, ok := l.outrider(t, source, "job", "inject", "-")
		if ok || stdout != "" {
			t.Errorf("network mode %q is injected: %s", mode, stdout)
		}
		for _, word := range append(words, "lonely") {
			if !strings.Contains(stderr, word) {
				t.Errorf("network mode %q: %q is missing in: %s", mode, word, stderr)
			}
		}
	}
}

// testDoctor runs the doctor on the host as it is, and with a Nomad whose PATH
// has no consul.
func testDoctor(t *testing.T, l *lab) {
	t.Parallel()
	stdout, stderr, _ := l.outrider(t, "", "doctor", "-json")
	found := findings(t, stdout, stderr)
	for _, check := range []string{"consul on Nomad's PATH", "outrider on Nomad's PATH"} {
		if found[check].State != "ok" {
			t.Errorf("%s: %+v", check, found[check])
		}
	}
	for name, finding := range found {
		if finding.State == "fail" {
			t.Errorf("%s fails: %s: %s", name, finding.Evidence, finding.Remedy)
		}
	}
}

// testDoctorFinds starts a Nomad whose PATH has no consul, and asks the doctor.
// It is not parallel: there is one address for Nomad.
func testDoctorFinds(t *testing.T, l *lab) {
	l.restart(t, "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	defer l.restart(t)
	stdout, stderr, ok := l.outrider(t, "", "doctor", "-json")
	finding := findings(t, stdout, stderr)["consul on Nomad's PATH"]
	if ok || finding.State != "fail" || !strings.Contains(finding.Remedy, "install") {
		t.Errorf("ok=%t, %+v", ok, finding)
	}
}

type finding struct{ Check, State, Evidence, Remedy string }

func findings(t testing.TB, stdout, stderr string) map[string]finding {
	t.Helper()
	var all struct{ Findings []finding }
	if err := json.Unmarshal([]byte(stdout), &all); err != nil {
		t.Fatalf("%v: %s%s", err, stdout, stderr)
	}
	byCheck := make(map[string]finding)
	for _, f := range all.Findings {
		byCheck[f.Check] = f
	}
	return byCheck
}

// testHostView lists the sidecars of this host, ours and those of others.
func testHostView(t *testing.T, l *lab) {
	t.Parallel()
	l.intend(t, "vista", map[string]string{"viewer": "allow"})
	job := l.run(t, shape{"views", []group{
		{name: "vista", says: "far", sidecar: envoy()},
		{name: "viewer", upstreams: map[string]int{"vista": 5000}},
	}}.String())
	viewer, vista := l.alloc(t, job, "viewer"), l.alloc(t, job, "vista")
	viewer.answers(t, 5000, "far")
	stdout, stderr, ok := l.outrider(t, "", "status")
	if !ok {
		t.Fatalf("status: %s", stderr)
	}
	for mark, words := range map[string][]string{
		"views/viewer  alloc " + viewer.ID[:8]: {"viewer  ready", "127.0.0.1:5000"},
		"views/vista  alloc " + vista.ID[:8]:   {"vista  no Outrider socket"},
	} {
		_, rest, found := strings.Cut(stdout, mark)
		block, _, _ := strings.Cut(rest, "\n\n")
		for _, word := range words {
			if !found || !strings.Contains(block, word) {
				t.Errorf("%q is missing after %q in:\n%s", word, mark, stdout)
			}
		}
	}
	stdout, stderr, ok = l.outrider(t, "", "status", "-alloc", viewer.ID[:6])
	if !ok || !strings.Contains(stdout, "svc/viewer") || !strings.Contains(stdout, "vista at 127.0.0.1:5000") {
		t.Errorf("status of one: %s%s", stdout, stderr)
	}
}

// testInject has a plain job injected, run and followed, twice.
func testInject(t *testing.T, l *lab) {
	t.Parallel()
	for _, service := range []string{"seal", "fish"} {
		l.vaultMesh(t, service, "injected")
	}
	l.intend(t, "fish", map[string]string{"seal": "allow"})
	plain := func(g group) group {
		g.sidecar = " " // none
		return g
	}
	source := "# What the author wrote stays.\n" + shape{"injected", []group{
		plain(group{name: "fish", says: "swims"}),
		plain(group{name: "seal", upstreams: map[string]int{"fish": 5000}}),
	}}.String()
	file := filepath.Join(t.TempDir(), "job.nomad.hcl")
	write(t, file, source)
	t.Cleanup(func() { _, _, _ = l.api.Jobs().Deregister("injected", false, nil) })
	flags := []string{
		"job", "inject",
		"-vault-addr", l.vaultOutside(t), "-vault-pki-mount", "connect-inter", "-vault-pki-role", "mesh-${service}", "-vault-auth-role", "mesh-injected",
	}
	l.vaultLogin(t, "mesh-injected", map[string]string{"nomad_job_id": "injected"}, "mesh-seal", "mesh-fish")
	stdout, stderr, ok := l.outrider(t, "", append(flags, file)...)
	if !ok || !strings.HasPrefix(stdout, "# What the author wrote stays.\n") || !strings.Contains(stdout, "sidecar_task") {
		t.Fatalf("inject: %s%s", stdout, stderr)
	}
	for range 2 {
		stdout, stderr, ok = l.outrider(t, "", append(append([]string{}, append(flags, "-run")...), file)...)
		if !ok || !strings.Contains(stdout+stderr, `job "injected" runs`) {
			t.Fatalf("inject -run: %s%s", stdout, stderr)
		}
	}
	job, _, err := l.api.Jobs().Info("injected", nil)
	if err != nil {
		t.Fatal(err)
	}
	seal := l.alloc(t, job, "seal")
	seal.answers(t, 5000, "swims")
	issuedByRole(t, l, seal, "connect-proxy-seal")
}

// testTransparent redirects a group through the CNI plugin: its application calls
// a virtual IP, and what intentions do not allow is not reached.
func testTransparent(t *testing.T, l *lab) {
	t.Parallel()
	_, port, _ := strings.Cut(l.consul.Addr, ":")
	l.intend(t, "moth", map[string]string{"light": "allow"})
	redirected := func(g group) group {
		g.proxy = `transparent_proxy {
              uid    = "65534"
              no_dns = true
            }`
		g.sidecar = strings.Replace(rawExec(fmt.Sprintf("env {\n            CONSUL_HTTP_ADDR = \"http://%s:%s\"\n          }", realserver.HostAddress, port)),
			`driver = "raw_exec"`, "driver = \"raw_exec\"\n          user = \"nobody\"", 1)
		return g
	}
	job := l.run(t, shape{"night", []group{
		redirected(group{name: "moth", says: "flutters"}),
		redirected(group{name: "light"}),
	}}.String())
	light := l.alloc(t, job, "light")
	virtual := l.virtualIP(t, "moth")
	call := func() error {
		_, body, err := light.ask(t.Context(), virtual+":80")
		if err == nil && body != "flutters" {
			err = fmt.Errorf("the answer is %q", body)
		}
		return err
	}
	until(t, "the virtual IP of moth answers", call)
	// What is not in the mesh is passed on.
	outside := forward(t, realserver.HostAddress+":0", fmt.Sprintf("127.0.0.1:%d", l.appOnHost(t, "outside")))
	if _, body, err := light.ask(t.Context(), outside); err != nil || body != "outside" {
		t.Errorf("the way out: %q, %v", body, err)
	}
	l.intend(t, "moth", map[string]string{"light": "deny"})
	until(t, "the virtual IP is refused", func() error {
		if err := call(); err == nil {
			return fmt.Errorf("it still answers")
		}
		return nil
	})
	l.intend(t, "moth", map[string]string{"light": "allow"})
	until(t, "the virtual IP of moth answers again", call)
	light.lives(t, "connect-proxy-light")
}
