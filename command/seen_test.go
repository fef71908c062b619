// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/crash"
	"github.com/outrider-mesh/outrider/agent/doctor"
	"github.com/outrider-mesh/outrider/agent/outline"
	"github.com/outrider-mesh/outrider/agent/recorder"
	"github.com/outrider-mesh/outrider/agent/tap"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/flow"
)

// adminOf serves what a test has made as the admin socket of an agent, and returns
// its address.
func adminOf(t *testing.T, h http.Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}} //nolint:gosec // of a test
	server.Start()
	t.Cleanup(server.Close)
	return "unix://" + path
}

// ran runs a command and returns what it wrote.
func ran(args ...string) (code int, stdout, stderr string) {
	var out, problems bytes.Buffer
	code = Run(args, strings.NewReader(""), &out, &problems)
	return code, out.String(), problems.String()
}

func denied() *flow.Record {
	return &flow.Record{
		Kind: flow.Request, Direction: flow.Inbound, Service: "api", Source: connect.Identity{Service: "web"},
		Method: "GET", Path: "/admin\x1b[31m?token=hunter2", Status: 403, Start: time.Now().Add(-time.Minute), Duration: 1500 * time.Microsecond,
		Judged: true, Intention: "web → api", Precedence: 9, Permission: 2, Reason: connect.IntentionDenied, Why: "the second permission denies it",
		RequestHeader: connect.Header{"Authorization": {"Bearer hunter2"}, "Accept": {"*/*"}},
	}
}

func retried() *flow.Record {
	return &flow.Record{
		Kind: flow.Request, Direction: flow.Outbound, Service: "web", Source: connect.Identity{Service: "web"}, Upstream: "api", Node: "resolver:api", Target: "api.default",
		Method: "POST", Path: "/pay", Status: 503, Start: time.Now(), Duration: 3 * time.Second, Reason: connect.ConnectFailed, Why: "two endpoints refuse", Retries: 1,
		Tries: []flow.Try{{Endpoint: "10.0.0.1:21000", Took: time.Millisecond, Reason: connect.ConnectFailed, Error: "connection refused"}, {Endpoint: "10.0.0.2:21000", Start: 20 * time.Millisecond, Status: 500}},
	}
}

func TestFailuresAreShownWithWhatLedToThem(t *testing.T) {
	t.Parallel()
	r := recorder.New()
	r.Done(retried())
	r.Done(denied())
	admin := adminOf(t, r)
	code, out, _ := ran("status", "-failures", "-admin", admin)
	lines := strings.Split(out, "\n")
	if code != exitOK || !strings.Contains(lines[0], "inbound  web → api  GET /admin[31m  403 intention_denied  1.5ms") || !strings.Contains(lines[1], "outbound web → api  POST /pay  503 connect_failed  3s") {
		t.Errorf("%d:\n%s", code, out)
	}
	_, out, _ = ran("status", "-failures", "-v", "-admin", admin)
	for _, want := range []string{
		"why        the second permission denies it", "intention  web → api, precedence 9, permission 2", "target     api.default",
		"try 1      10.0.0.1:21000 after 0s, for 1ms: connect_failed: connection refused", "try 2      10.0.0.2:21000 after 20ms, for 0s: 500", "2 of 2 failures",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in:\n%s", want, out)
		}
	}
	code, out, _ = ran("status", "-failures", "-json", "-admin", admin)
	var got recorder.Failures
	if err := json.Unmarshal([]byte(out), &got); code != exitOK || err != nil || len(got.Failures) != 2 || got.Total != 2 {
		t.Errorf("%d, %v: %s", code, err, out)
	}
	if strings.Contains(out, "hunter2") || strings.Contains(out, "\x1b") {
		t.Errorf("a secret, or an order for the terminal: %q", out)
	}
}

func TestNoFailuresAreSaidToBeNone(t *testing.T) {
	t.Parallel()
	if code, out, _ := ran("status", "-failures", "-admin", adminOf(t, recorder.New())); code != exitOK || !strings.Contains(out, "nothing has failed") {
		t.Errorf("%d: %s", code, out)
	}
}

func TestFlagsOfFailuresThatDoNotGoTogetherAreRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"status", "-v"}, {"status", "-failures", "-alloc", "a"}, {"tap", "x"}, {"doctor", "x"}} {
		if code, _, _ := ran(args...); code != exitUsage {
			t.Errorf("%v: %d", args, code)
		}
	}
}

// tapped serves a tap to which records are told as soon as somebody watches.
func tappedAdmin(t *testing.T, records ...*flow.Record) string {
	t.Helper()
	source := tap.New(hclog.NewNullLogger())
	return adminOf(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		var telling sync.WaitGroup
		telling.Go(func() {
			for ctx.Err() == nil {
				for _, one := range records {
					source.Done(one)
				}
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
		source.ServeHTTP(w, r)
		cancel()
		telling.Wait()
	}))
}

func TestTapPrintsALineForEachAndSumsUp(t *testing.T) {
	t.Parallel()
	admin := tappedAdmin(t, denied())
	code, out, problems := ran("tap", "-n", "2", "-admin", admin)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != exitOK || len(lines) < 2 || !strings.Contains(lines[0], "inbound  web → api  GET /admin[31m  403 intention_denied  1.5ms  the second permission denies it") {
		t.Fatalf("%d: %q", code, out)
	}
	if !strings.Contains(out, "> Accept: */*") || strings.Contains(out, "hunter2") || strings.Contains(out, "\x1b") {
		t.Errorf("output %q", out)
	}
	if !strings.Contains(problems, "2 shown in ") || !strings.Contains(problems, "2 of them failed") {
		t.Errorf("sum %q", problems)
	}
}

func TestTapEndsInTimeWhenNothingComes(t *testing.T) {
	t.Parallel()
	code, out, problems := ran("tap", "-for", "200ms", "-service", "other", "-admin", tappedAdmin(t, denied()))
	if code != exitOK || out != "" || !strings.Contains(problems, "0 shown") {
		t.Errorf("%d: %q, %q", code, out, problems)
	}
}

func TestTapPrintsJSONLines(t *testing.T) {
	t.Parallel()
	_, out, _ := ran("tap", "-json", "-n", "2", "-unsafe", "-admin", tappedAdmin(t, denied()))
	for line := range strings.SplitSeq(strings.TrimSpace(out), "\n") {
		var e tap.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Reason != connect.IntentionDenied || e.Query != "token=hunter2" || strings.Contains(line, "\x1b") {
			t.Errorf("line %q: %v", line, err)
		}
	}
}

func TestTapSaysWhatIsWrongWithAFilterAndWhereTheAgentIsNot(t *testing.T) {
	t.Parallel()
	if code, _, problems := ran("tap", "-reason", "oops", "-admin", tappedAdmin(t)); code != exitFailed || !strings.Contains(problems, "there is no reason") {
		t.Errorf("%d: %s", code, problems)
	}
	if code, _, problems := ran("tap", "-admin", "unix:///nowhere"); code != exitFailed || !strings.Contains(problems, "is it running") {
		t.Errorf("%d: %s", code, problems)
	}
}

func TestSentencesFit(t *testing.T) {
	t.Parallel()
	for want, o := range map[string]outline.Outline{
		"inbound  unknown → api  tls_failed  2ms":                               {Direction: "inbound", Service: "api", Kind: "connection", Reason: connect.TLSFailed, TookMS: 2},
		"outbound web → db  5 bytes up, 7 down  1m5s  10.0.0.1:1":               {Direction: "outbound", Source: "web", Upstream: "db", Kind: "connection", Sent: 5, Received: 7, TookMS: 65000, Endpoint: "10.0.0.1:1"},
		"passed   web → outside the mesh  0 bytes up, 0 down  0s":               {Direction: "passed", Source: "web", Kind: "connection"},
		"inbound  web → api  GET /  200 grpc 14 the caller left  15ms":          {Direction: "inbound", Source: "web", Service: "api", Kind: "request", Method: "GET", Status: 200, GRPCStatus: "14", Gone: true, TookMS: 15},
		"outbound web → api  403 intention_denied (said by the other side)  0s": {Direction: "outbound", Source: "web", Upstream: "api", Status: 403, Reason: connect.IntentionDenied, Remote: true},
	} {
		if got := sentence(&o); got != want {
			t.Errorf("sentence %q, want %q", got, want)
		}
	}
}

// TestDoctorChangesNothing asks doubles of every server that count whatever is no
// reading. What a token may do is asked with a POST, and changes nothing (Vault
// documentation, sys/capabilities-self).
func TestDoctorChangesNothing(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	serve := func(name string, answers map[string]string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			asked[name]++
			if r.Method != http.MethodGet && r.URL.Path != "/v1/sys/capabilities-self" && r.URL.Path != "/v1/internal/acl/authorize" {
				t.Errorf("%s: %s %s", name, r.Method, r.URL.Path)
			}
			if text, ok := answers[r.URL.Path]; ok {
				_, _ = fmt.Fprint(w, text)
				return
			}
			http.Error(w, `{"errors": ["no"]}`, http.StatusNotFound)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	consul := serve("consul", map[string]string{
		"/v1/status/leader": `"10.0.0.1:8300"`, "/v1/acl/token/self": `{"AccessorID": "a"}`, "/v1/agent/connect/ca/roots": `{"Roots": []}`, "/v1/agent/self": `{"Config": {"Version": "1.22.3"}}`,
		"/v1/internal/acl/authorize": `[]`,
	})
	vault := serve("vault", map[string]string{
		"/v1/sys/health": `{"initialized": true, "sealed": false, "version": "1.21.0"}`, "/v1/auth/token/lookup-self": `{"data": {"ttl": 60, "creation_ttl": 60}}`,
		"/v1/sys/capabilities-self": `{"data": {"capabilities": ["deny"]}}`,
	})
	nomad := serve("nomad", map[string]string{"/v1/agent/self": `{"config": {"Version": {"Version": "1.11.3"}}, "stats": {"client": {"node_id": "x"}}}`})
	admin := adminOf(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != statusPath {
			t.Errorf("the agent: %s %s", r.Method, r.URL.Path)
		}
		_, _ = w.Write([]byte(`{"Version": "v", "Sidecars": []}`))
	}))
	dir := t.TempDir()
	config := filepath.Join(dir, "o.hcl")
	token := filepath.Join(dir, "token")
	text := fmt.Sprintf("consul {\n address = %q\n token_file = %q\n}\nvault {\n address = %q\n auth \"token\" {\n token_file = %q\n }\n pki {\n mount = \"pki\"\n role = \"mesh-${service}\"\n }\n}\nservice {\n name = \"web\"\n port = 80\n connect {\n sidecar_service {\n port = 21000\n }\n }\n}\n", consul, token, vault, token)
	for path, content := range map[string]string{config: text, token: "hunter2-token"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := snapshotOf(t, dir)
	t.Setenv("NOMAD_ADDR", nomad)
	code, out, problems := ran("doctor", "-json", "-config", config, "-admin", admin)
	var got struct{ Findings []doctor.Finding }
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitFailed {
		t.Fatalf("%d, %v: %s %s", code, err, out, problems)
	}
	for _, name := range []string{"consul", "vault", "nomad"} {
		if asked[name] == 0 {
			t.Errorf("%s was not asked", name)
		}
	}
	if strings.Contains(out, "hunter2") {
		t.Errorf("the token is shown: %s", out)
	}
	if after := snapshotOf(t, dir); after != before {
		t.Errorf("files: %s, before %s", after, before)
	}
}

// snapshotOf is what a folder holds, with the times of change.
func snapshotOf(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, e.Name(), info.Mode(), info.Size(), info.ModTime())
	}
	return b.String()
}

func TestOfflineDoctorNeedsNobody(t *testing.T) { //nolint:paralleltest // the environment is set
	t.Setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
	t.Setenv("NOMAD_ADDR", "http://127.0.0.1:1")
	code, out, problems := ran("doctor", "-offline", "-json")
	var got struct{ Findings []doctor.Finding }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v: %s %s", err, out, problems)
	}
	for _, f := range got.Findings {
		if f.State == doctor.Fail {
			t.Errorf("finding %+v", f)
		}
	}
	if code != exitOK || !strings.Contains(out, "-offline") {
		t.Errorf("%d: %s", code, out)
	}
}

func TestPanicLeavesADumpAndGoesOn(t *testing.T) { //nolint:paralleltest // the environment is set
	dir := t.TempDir()
	t.Setenv("STATE_DIRECTORY", dir)
	last := lastWords(hclog.NewNullLogger(), crash.Known{Version: "v1"})
	defer last.close()
	func() {
		defer func() {
			if v := recover(); v != "boom" {
				t.Errorf("the panic became %v", v)
			}
		}()
		_ = last.run(func() error { panic("boom") })
	}()
	dumps, err := filepath.Glob(filepath.Join(dir, "crash-*.json"))
	if err != nil || len(dumps) != 1 {
		t.Fatalf("dumps %v, %v", dumps, err)
	}
	text, err := os.ReadFile(dumps[0])
	if err != nil || !strings.Contains(string(text), `"Text": "boom"`) || !strings.Contains(string(text), "TestPanicLeavesADump") {
		t.Errorf("%v: %s", err, text)
	}
}

func TestErrorLeavesADumpOnlyAfterTheBeginning(t *testing.T) { //nolint:paralleltest // the environment is set
	dir := t.TempDir()
	t.Setenv("STATE_DIRECTORY", dir)
	last := lastWords(hclog.NewNullLogger(), crash.Known{})
	defer last.close()
	for _, want := range []int{0, 1} {
		last.failed(errors.New("the port is taken"))
		if dumps, err := filepath.Glob(filepath.Join(dir, "crash-*.json")); err != nil || len(dumps) != want {
			t.Errorf("dumps %v, %v", dumps, err)
		}
		last.begun = time.Now().Add(-settled)
	}
}
