// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// seen is a mesh over HTTP whose api denies /admin, and where the api's agent has a
// directory for its state.
type seen struct {
	*caller
	api    *outrider
	state  string
	config string
	consul *realserver.Consul
}

func newSeen(t *testing.T) *seen {
	t.Helper()
	s := &seen{consul: newHTTPMesh(t), state: t.TempDir(), api: &outrider{}}
	entry(t, s.consul, `{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"web","Permissions":[{"Action":"deny","HTTP":{"PathPrefix":"/admin"}},{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`)
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	dir := t.TempDir()
	s.api.admin, s.config = filepath.Join(dir, "admin.sock"), filepath.Join(dir, "outrider.hcl")
	writeFile(t, s.config, fmt.Sprintf("consul { address = %q }\nadmin { address = \"unix://%s\" }\nlog { level = \"debug\" }\n", s.consul.Addr, s.api.admin)+service{name: "api", app: serve(t, handler)}.stanza(t))
	s.begin(t)
	port := freePort(t)
	web := start(t, s.consul, service{name: "web", upstream: "api", port: port}.stanza(t))
	web.usableEndpoints(t, 1)
	s.caller = newCaller(t, port, false)
	s.eventually(t, http.StatusOK, "/ok")
	return s
}

// begin starts the api's agent.
func (s *seen) begin(t *testing.T) {
	t.Helper()
	s.api.runWith(t, append(os.Environ(), append(s.consul.Env(), "STATE_DIRECTORY="+s.state)...), "agent", "-config", s.config)
	s.api.waitReady(t)
}

// shown runs a command against the api's agent.
func (s *seen) shown(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary, append(args, "-admin", "unix://"+s.api.admin)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

func TestTapShowsTrafficAsItHappensAndNoSecret(t *testing.T) {
	t.Parallel()
	s := newSeen(t)
	tap := func(args ...string) (*exec.Cmd, *lockedBuffer, *lockedBuffer) {
		cmd := exec.Command(binary, append([]string{"tap", "-admin", "unix://" + s.api.admin}, args...)...)
		out, problems := &lockedBuffer{}, &lockedBuffer{}
		cmd.Stdout, cmd.Stderr = out, problems
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		return cmd, out, problems
	}
	all, out, sum := tap("-headers")
	failed, denied, _ := tap("-failed", "-json")
	secret := []string{"Authorization", "Bearer hunter2", "Cookie", "hunter2", "X-Api-Key", "hunter2"}
	until(t, "both taps show", func() error {
		if _, err := s.get(t.Context(), "/fine?token=hunter2", secret...); err != nil {
			return err
		}
		if r, err := s.get(t.Context(), "/admin?token=hunter2", secret...); err != nil || r.status != http.StatusForbidden {
			return fmt.Errorf("status %d, %w", r.status, err)
		}
		if text := out.String(); !strings.Contains(text, "GET /fine  200") || !strings.Contains(text, "GET /admin  403 intention_denied") {
			return fmt.Errorf("shown: %s", text)
		}
		if !strings.Contains(denied.String(), "intention_denied") {
			return fmt.Errorf("shown: %s", denied)
		}
		return nil
	})
	for _, cmd := range []*exec.Cmd{all, failed} {
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("a tap that is ended: %v", err)
		}
	}
	if !strings.Contains(sum.String(), "shown in") || !strings.Contains(out.String(), "Authorization: (hidden)") {
		t.Errorf("sum %s of %s", sum, out)
	}
	if text := denied.String(); strings.Contains(text, "/fine") {
		t.Errorf("what did not fail is shown: %s", text)
	}
	if text := out.String() + denied.String(); strings.Contains(text, "hunter2") {
		t.Errorf("a secret is shown: %s", text)
	}
}

func TestFailuresAreThereAfterwardsAndInWhatACrashLeaves(t *testing.T) {
	t.Parallel()
	s := newSeen(t)
	s.want(t, http.StatusForbidden, "/admin?token=hunter2", "Authorization", "Bearer hunter2")
	var listed string
	until(t, "the failure is listed", func() error {
		if listed = s.shown(t, "status", "-failures", "-v"); !strings.Contains(listed, "GET /admin  403 intention_denied") {
			return fmt.Errorf("listed: %s", listed)
		}
		return nil
	})
	if !strings.Contains(listed, "permission 1") || strings.Contains(listed, "hunter2") {
		t.Errorf("listed: %s", listed)
	}
	if err := s.api.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	receive(t, s.api.done, "the end of the agent")
	if log := s.api.text(); !strings.Contains(log, "SIGQUIT: quit") || !strings.Contains(log, "goroutine ") {
		t.Errorf("the stacks are not in stderr: %s", log)
	}
	dumps, err := filepath.Glob(filepath.Join(s.state, "crash-*.json"))
	if err != nil || len(dumps) != 1 {
		t.Fatalf("dumps %v, %v", dumps, err)
	}
	info, err := os.Stat(dumps[0])
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(dumps[0])
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Cause, Goroutines string
		Status            struct{ Sidecars []struct{ Service string } }
		Failures          struct {
			Failures []struct{ Path, Reason string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	if d.Cause != "SIGQUIT" || len(d.Status.Sidecars) != 1 || d.Status.Sidecars[0].Service != "api" || !strings.Contains(d.Goroutines, "goroutine ") {
		t.Errorf("dump %s", text)
	}
	if f := d.Failures.Failures; len(f) == 0 || f[0].Path != "/admin" || f[0].Reason != "intention_denied" {
		t.Errorf("failures %+v", f)
	}
	for _, word := range []string{"hunter2", "PRIVATE KEY", "BEGIN"} {
		if strings.Contains(string(text), word) {
			t.Errorf("%q is in the dump", word)
		}
	}
	// It starts again as if nothing had been.
	s.begin(t)
	s.eventually(t, http.StatusOK, "/ok")
	if log := s.api.text(); strings.Contains(log, "ended by a fault") {
		t.Errorf("what somebody asked for is called a fault: %s", log)
	}
}
