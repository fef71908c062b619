// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/agent/doctor"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/proxy"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// client is a Nomad client with a folder of allocations of a path longer than a
// socket address.
type client struct{ allocs string }

const (
	allocWeb  = "aaaa1111-0000-0000-0000-000000000001"
	allocAPI  = "aaaa2222-0000-0000-0000-000000000002"
	allocEvil = "bbbb3333-0000-0000-0000-000000000003"
)

func newClient(t *testing.T) client {
	t.Helper()
	c := client{filepath.Join(t.TempDir(), strings.Repeat("long", 25))}
	alloc := func(id, namespace, job, task string) string {
		return fmt.Sprintf(`{"ID": %q, "Namespace": %q, "NodeName": "n1", "JobID": %q, "TaskGroup": "g", "ClientStatus": "running", "TaskStates": {%q: {"State": "running"}},
		 "Job": {"TaskGroups": [{"Name": "g", "Tasks": [{"Name": %q, "Kind": "connect-proxy:%s", "Driver": "raw_exec"}]}]}}`, id, namespace, job, task, task, job)
	}
	answers := map[string]string{
		"/v1/agent/self":           fmt.Sprintf(`{"config": {"Client": {"AllocDir": %q}}, "stats": {"client": {"node_id": "n-1"}}}`, c.allocs),
		"/v1/node/n-1/allocations": "[" + strings.Join([]string{alloc(allocWeb, "default", "web", "side"), alloc(allocAPI, "prod", "api", "side"), alloc(allocEvil, "default", "evil", "side")}, ",") + "]",
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(answers[r.URL.Path])) }))
	t.Cleanup(server.Close)
	t.Setenv("NOMAD_ADDR", server.URL)
	t.Setenv("OUTRIDER_ADMIN", "")
	for _, id := range []string{allocWeb, allocAPI, allocEvil} {
		if err := os.MkdirAll(filepath.Dir(c.socket(id)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c client) socket(alloc string) string {
	return filepath.Join(c.allocs, alloc, "side", "secrets", "outrider.sock")
}

// serve answers on the socket of an allocation with what is said.
func (c client) serve(t *testing.T, alloc string, say http.HandlerFunc) {
	t.Helper()
	l, err := proxy.ListenUnix(t.Context(), c.socket(alloc), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: say, ReadHeaderTimeout: time.Second}}
	server.Start()
	t.Cleanup(server.Close)
}

func statusOf(service string, notAfter time.Time) agent.Status {
	return agent.Status{Version: "outrider 1.0.0", Started: notAfter.Add(-2 * time.Hour), Consul: "127.0.0.1:8500", Sidecars: []agent.SidecarStatus{{
		Service: service, ProxyID: service + "-sidecar-proxy", Ready: true, Leaf: &agent.LeafStatus{Identity: "spiffe://t/ns/default/dc/dc1/svc/" + service, Issuer: "Vault", NotAfter: notAfter},
		Proxy: proxy.Status{
			Inbound:   proxy.InboundStatus{Address: "[::]:20000", Limit: 100, TrafficStatus: proxy.TrafficStatus{Active: 2}},
			Upstreams: []proxy.UpstreamStatus{{ID: connect.UpstreamID("api"), Address: "127.0.0.1:9191", Limit: 10, Targets: []proxy.TargetStatus{{ID: "api.default.default.dc1", Endpoints: []proxy.EndpointStatus{{Address: "10.0.0.1:1", Node: "n2", Weight: 1}, {Address: "10.0.0.2:1", Node: "n3", NotUsed: "ejected"}}}}}},
		},
	}}}
}

func says(t *testing.T, s agent.Status) http.HandlerFunc {
	t.Helper()
	body, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }
}

func TestHostViewShowsEachSidecarOfNomad(t *testing.T) {
	c, now := newClient(t), time.Now()
	c.serve(t, allocWeb, says(t, statusOf("web", now.Add(time.Hour))))
	evil := statusOf("evil\x1b[2J\nweb/g  ready\u202e", now.Add(time.Hour))
	evil.Sidecars[0].Ready, evil.Sidecars[0].Missing = false, []string{"a leaf\x1b[2J\nweb/g  ready\u202e"}
	c.serve(t, allocEvil, says(t, evil))
	view, err := viewHost(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	printHost(&out, view, now)
	golden(t, "host", out.String())
}

func TestHostViewSaysWhyASidecarIsSilent(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(*testing.T, client)
		want string
	}{
		"no socket":     {func(*testing.T, client) {}, "no Outrider socket: another proxy, or not started"},
		"another host":  {func(t *testing.T, c client) { t.Helper(); mustRemove(t, filepath.Join(c.allocs, allocWeb)) }, "is not on this host"},
		"a dead socket": {func(t *testing.T, c client) { t.Helper(); dead(t, c.socket(allocWeb)) }, "its socket does not answer: "},
		"not JSON": {func(t *testing.T, c client) {
			t.Helper()
			c.serve(t, allocWeb, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) })
		}, "of different versions"},
		"a refusal":       {func(t *testing.T, c client) { t.Helper(); c.serve(t, allocWeb, http.NotFound) }, "404 Not Found"},
		"an endless text": {func(t *testing.T, c client) { t.Helper(); c.serve(t, allocWeb, endless) }, "the answer is longer than 4 MB"},
		"silence": {func(t *testing.T, c client) {
			t.Helper()
			c.serve(t, allocWeb, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		}, "no answer on its socket within 2s"},
		"a link": {func(t *testing.T, c client) {
			t.Helper()
			c.serve(t, allocAPI, says(t, statusOf("api", time.Now())))
			if err := os.Symlink(c.socket(allocAPI), c.socket(allocWeb)); err != nil {
				t.Fatal(err)
			}
		}, "it is not a socket"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t)
			tc.make(t, c)
			view, err := viewHost(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range view.Sidecars {
				if s.Alloc == allocWeb && (s.Status != nil || !strings.Contains(s.Problem, tc.want)) {
					t.Errorf("problem %q, want one with %q", s.Problem, tc.want)
				}
			}
		})
	}
}

func mustRemove(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// dead leaves a socket behind on which nobody listens.
func dead(t *testing.T, path string) {
	t.Helper()
	t.Chdir(filepath.Dir(path))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Base(path), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
}

func endless(w http.ResponseWriter, _ *http.Request) {
	for part := make([]byte, 1<<20); ; {
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

func status(args ...string) (code int, out, errOut string) {
	var stdout, stderr bytes.Buffer
	code = Run(append([]string{"status"}, args...), nil, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

func TestStatusOfAnAllocationIsThatOfItsSidecarInFull(t *testing.T) {
	c := newClient(t)
	c.serve(t, allocWeb, says(t, statusOf("web", time.Now().Add(time.Hour))))
	for name, tc := range map[string]struct {
		args        []string
		code        int
		out, errOut string
	}{
		"a prefix":       {[]string{"-alloc", "aaaa1"}, exitOK, "identity    spiffe://t/ns/default/dc/dc1/svc/web", ""},
		"a silent one":   {[]string{"-alloc", allocAPI}, exitFailed, "no Outrider socket", ""},
		"two":            {[]string{"-alloc", "aaaa"}, exitFailed, "", `2 allocations have an ID that begins with "aaaa"`},
		"none":           {[]string{"-alloc", "ffff"}, exitFailed, "", `no allocation with a sidecar runs on this node whose ID begins with "ffff"`},
		"two questions":  {[]string{"-alloc", "aaaa", "-admin", "127.0.0.1:1"}, exitUsage, "", "not both"},
		"only the admin": {[]string{"-admin", "unix://" + c.socket(allocWeb)}, exitOK, "web (web-sidecar-proxy)  ready", ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errOut := status(tc.args...)
			if code != tc.code || !strings.Contains(out, tc.out) || !strings.Contains(errOut, tc.errOut) {
				t.Errorf("code %d, out:\n%s\nerrors:\n%s", code, out, errOut)
			}
		})
	}
}

func TestJSONOfAnAllocationHoldsTheSidecarsOwnAnswer(t *testing.T) {
	c := newClient(t)
	c.serve(t, allocWeb, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"Version": "9", "Newer": 1}`)) })
	code, out, errOut := status("-json", "-alloc", allocWeb)
	var got struct {
		Nomad struct {
			NodeName string
			Sidecars []struct {
				Alloc  string
				Status map[string]any
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &got); code != exitOK || err != nil {
		t.Fatalf("code %d, %v, errors %s, out:\n%s", code, err, errOut, out)
	}
	want := map[string]any{"Version": "9", "Newer": 1.0}
	if got.Nomad.NodeName != "n1" || len(got.Nomad.Sidecars) != 1 || got.Nomad.Sidecars[0].Alloc != allocWeb || !cmp.Equal(got.Nomad.Sidecars[0].Status, want) {
		t.Errorf("got %+v", got)
	}
}

// Names come from tasks of other people, and root reads them on a terminal.
func TestJSONSteersNoTerminal(t *testing.T) {
	c := newClient(t)
	c.serve(t, allocEvil, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "{\"Version\": \"\u009b2J \u202e \x9b \x7f é\"}")
	})
	for _, args := range [][]string{{"-json", "-alloc", "bbbb"}, {"-json", "-admin", "unix://" + c.socket(allocEvil)}} {
		code, out, errOut := status(args...)
		if code != exitOK || !json.Valid([]byte(out)) || !strings.Contains(out, `\u009b2J \u202e \ufffd \u007f é`) {
			t.Errorf("%v: exit %d, %q %s", args, code, out, errOut)
		}
	}
	evil := client{filepath.Join(t.TempDir(), strings.Repeat("long", 25))}
	if err := os.MkdirAll(filepath.Dir(evil.socket(allocEvil)), 0o700); err != nil {
		t.Fatal(err)
	}
	evil.serve(t, allocEvil, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "\x1b[2J") })
	if code, out, _ := status("-json", "-admin", "unix://"+evil.socket(allocEvil)); code != exitFailed || out != "" {
		t.Errorf("an answer that is no JSON: exit %d, %q", code, out)
	}
}

func TestJSONOfAHostIsThatOfItsAgentWithNomadAdded(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	i := invocation{stdout: &out, stderr: t.Output()}
	if code := i.printHostJSON([]byte(`{"Version": "1", "Sidecars": []}`), &hostView{NodeID: "n-1", Sidecars: []hostSidecar{}}); code != exitOK {
		t.Fatalf("code %d", code)
	}
	golden(t, "host-json", out.String())
}

func TestStatusWithoutAgentAndNomadNamesBoth(t *testing.T) {
	if _, err := os.Lstat(strings.TrimPrefix(defaultAdmin, "unix://")); err == nil {
		t.Log("an agent runs on this machine; its socket is asked first")
		return
	}
	t.Setenv("OUTRIDER_ADMIN", "")
	t.Setenv("NOMAD_ADDR", "http://127.0.0.1:1")
	code, out, errOut := status()
	for _, want := range []string{"ask the agent at " + defaultAdmin, "-admin names another", "nor are there sidecars of Nomad", "http://127.0.0.1:1", "NOMAD_ADDR names another"} {
		if code != exitFailed || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("code %d, out %q, errors without %q:\n%s", code, out, want, errOut)
		}
	}
}

func TestFindingsReadAsSentences(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	printFindings(&out, []doctor.Finding{
		{Check: "Consul agent", State: doctor.OK, Evidence: "http://127.0.0.1:8500 answers, version 1.22.3"},
		{Check: "consul on Nomad's PATH", State: doctor.Fail, Evidence: "there is no consul in /usr/bin", Remedy: "install it"},
		{Check: "kernel settings", State: doctor.Warn, Evidence: "x is 0", Remedy: "sysctl -w x=1"},
		{Check: "clock of Vault", State: doctor.Skipped, Evidence: "no Vault is configured\x1b[0m"},
	})
	golden(t, "doctor", out.String())
}

func TestDoctorFailsWhereConsulDoesNotAnswer(t *testing.T) {
	t.Setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
	t.Setenv("NOMAD_ADDR", "http://127.0.0.1:1")
	var stdout, stderr bytes.Buffer
	code := Run([]string{"doctor", "-json"}, nil, &stdout, &stderr)
	var got struct{ Findings []doctor.Finding }
	if err := json.Unmarshal(stdout.Bytes(), &got); code != exitFailed || err != nil {
		t.Fatalf("code %d, %v, errors %s", code, err, &stderr)
	}
	if f := got.Findings[0]; f.Check != "Consul agent" || f.State != doctor.Fail || !strings.Contains(f.Evidence, "127.0.0.1:1") {
		t.Errorf("finding %+v", f)
	}
}
