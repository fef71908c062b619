// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

const policies = "testdata/policy"

// told is what a command of ours says, and its exit code.
func told(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, problems bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append([]string{"PATH=" + os.Getenv("PATH")}, env...), &out, &problems
	err := cmd.Run()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), problems.String(), failed.ExitCode()
	}
	if err != nil {
		t.Fatalf("outrider %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), problems.String(), 0
}

// writeEntries has Consul's own command write every entry of a directory, which
// says that Consul takes them as they are.
func writeEntries(t *testing.T, consul *realserver.Consul, dir string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Intentions need the protocols and the providers.
	for _, intentions := range []bool{false, true} {
		for _, name := range names {
			path, err := filepath.Abs(filepath.Join(dir, name.Name()))
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(text, []byte(`"service-intentions"`)) == intentions {
				consul.Command(t, "config", "write", path)
			}
		}
	}
}

// decision is one line of policy test -json.
type decision struct {
	Expectation string
	Holds       bool
	Allowed     bool
	Reason, Why string
}

func decisions(t *testing.T, env []string, args ...string) []decision {
	t.Helper()
	out, problems, code := told(t, env, append([]string{"policy", "test", "-json"}, args...)...)
	var list []decision
	if err := json.Unmarshal([]byte(out), &list); err != nil || code > 1 {
		t.Fatalf("exit code %d, %v: %s%s", code, err, out, problems)
	}
	return list
}

// everyCall is a table with all that callers may try, which expects nothing in
// particular.
func everyCall(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, source := range []string{"web", "shop", "monitor", "other", "api", "east/web", "east/other"} {
		for _, destination := range []string{"api", "db", "vault-ui", "unknown"} {
			fmt.Fprintf(&b, "%s -> %s = deny\n", source, destination)
			for _, method := range []string{"GET", "PUT", "DELETE"} {
				for _, path := range []string{"/", "/admin", "/admin/x?y=z", "//admin", "/a%2f..%2fadmin", "/x/../%61dmin", "/item/7", "/item/7/", "/ITEM/7", "/item/7%00"} {
					for _, with := range []string{"", " with header x-root: 1", ` with jwt okta {"perms": {"role": "admin"}} with header x-root: 1`, ` with jwt okta {"perms": {"role": "user"}} with header x-root: 1`} {
						fmt.Fprintf(&b, "%s -> %s %s %s%s = deny\n", source, destination, method, path, with)
					}
				}
			}
		}
	}
	path := filepath.Join(t.TempDir(), "every.txt")
	writeFile(t, path, b.String())
	return path
}

func TestFilesDecideAsConsulDoesOnceTheyAreWritten(t *testing.T) {
	t.Parallel()
	consul := aclConsul(t)
	dir := filepath.Join(policies, "entries")
	writeEntries(t, consul, dir)
	table := filepath.Join(policies, "policy.txt")
	live := append(consul.Env(), "CONSUL_HTTP_ADDR="+consul.Addr)
	for _, from := range [][]string{{"-config-dir", dir}, {"-consul"}} {
		out, problems, code := told(t, live, append(append([]string{"policy", "test"}, from...), table)...)
		if code != 0 || strings.Contains(out, "FAIL") || !strings.Contains(out, `allowed by permission 3 of intention "web → api" (precedence 9)`) {
			t.Errorf("%v: exit code %d:\n%s%s", from, code, out, problems)
		}
	}
	calls := everyCall(t)
	ofFiles, ofConsul := decisions(t, nil, "-config-dir", dir, calls), decisions(t, live, "-consul", calls)
	if diff := cmp.Diff(ofFiles, ofConsul); diff != "" {
		t.Errorf("decisions (-files +Consul):\n%s", diff)
	}
	allowed := map[bool]int{}
	for _, d := range ofFiles {
		allowed[d.Allowed]++
	}
	if allowed[true] < 200 || allowed[false] < 1000 {
		t.Errorf("%v: too few to mean something", allowed)
	}
	missingRightsAreNamed(t, consul, table)
}

func missingRightsAreNamed(t *testing.T, consul *realserver.Consul, table string) {
	t.Helper()
	_, problems, code := told(t, []string{"CONSUL_HTTP_ADDR=" + consul.Addr}, "policy", "test", "-consul", table)
	if code != 1 || !strings.Contains(problems, `intentions:read on service "api"`) {
		t.Errorf("exit code %d: %s", code, problems)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.txt")
	writeFile(t, wrong, "default = allow\nweb -> api GET / = allow\nweb -> api GET /nothing = allow\n")
	out, _, code := told(t, append(consul.Env(), "CONSUL_HTTP_ADDR="+consul.Addr), "policy", "test", "-consul", wrong)
	if code != 1 || !strings.Contains(out, "FAIL  "+wrong+":1: default = allow: Consul's default policy is deny") || !strings.HasSuffix(out, "1 of 3 hold.\n") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestSuggestionIsTakenByConsulAndCutsNobody(t *testing.T) {
	t.Parallel()
	consul := realserver.StartConsul(t)
	dir := filepath.Join(policies, "entries")
	writeEntries(t, consul, dir)
	live := append(consul.Env(), "CONSUL_HTTP_ADDR="+consul.Addr)
	seen := filepath.Join(policies, "edges.json")
	for _, flags := range [][]string{{}, {"-l7"}} {
		suggested := t.TempDir()
		args := append([]string{"intentions", "suggest", "-edges", seen, "-consul", "-dir", suggested}, flags...)
		out, problems, code := told(t, live, append(args, "shop", "db")...)
		if code != 0 || strings.Count(out, "\n") != 2 {
			t.Fatalf("%v: exit code %d: %s%s", flags, code, out, problems)
		}
		preview := []string{"intentions", "preview", "-edges", seen, "-consul", "-f", suggested}
		out, problems, code = told(t, live, preview...)
		if code != 0 || !strings.Contains(out, " 0 cut, 0 may be;") {
			t.Errorf("%v: preview of the suggestion: exit code %d:\n%s%s", flags, code, out, problems)
		}
		writeEntries(t, consul, suggested)
		out, problems, code = told(t, live, preview...)
		if code != 0 || !strings.Contains(out, "0 cut, 0 may be; 0 newly allowed, 0 may be") {
			t.Errorf("%v: preview of what is written already: exit code %d:\n%s%s", flags, code, out, problems)
		}
	}
	// What asks for tokens is left alone.
	_, problems, code := told(t, live, "intentions", "suggest", "-edges", seen, "-consul", "vault-ui")
	if code != 1 || !strings.Contains(problems, "asks for a JWT") {
		t.Errorf("exit code %d: %s", code, problems)
	}
}

// Not parallel, for the environment of the process.
func TestCallsThatWereSeenBecomeTheIntentionsTheyNeed(t *testing.T) {
	state := t.TempDir()
	t.Setenv("STATE_DIRECTORY", state)
	consul := realserver.StartConsul(t)
	entry(t, consul, `{"Kind":"service-defaults","Name":"ledger","Protocol":"http"}`)
	o, c := pair(t, consul, "ledger", service{}, service{app: serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))})
	for _, path := range []string{"/users/4711?token=s3cret", "/users/4712", "/reset/eyJhbGciOiJIUzI1NiJ9.s3cret"} {
		if got, err := c.send(t.Context(), "GET", path, ""); err != nil || got.status != 200 {
			t.Fatalf("GET %s: %v, %v", path, got.status, err)
		}
	}
	admin := []string{"-admin", "unix://" + o.admin}
	taken := filepath.Join(t.TempDir(), "taken.hcl")
	writeFile(t, taken, `Kind = "service-intentions"
Name = "ledger"
Sources = [{ Name = "web-ledger", Permissions = [{ Action = "allow", HTTP { PathPrefix = "/users" } }, { Action = "deny", HTTP { PathPrefix = "/" } }] }, { Name = "*", Action = "deny" }]`)
	out, problems, code := told(t, nil, append([]string{"intentions", "preview", "-f", taken}, admin...)...)
	if code != 1 || !strings.Contains(out, "cut                  web-ledger → ledger GET /reset/{id}") || strings.Contains(out, "/users/{id}") {
		t.Errorf("preview: exit code %d:\n%s%s", code, out, problems)
	}
	suggested := t.TempDir()
	out, problems, code = told(t, nil, append(append([]string{"intentions", "suggest", "-l7", "-dir", suggested}, admin...), "ledger")...)
	if code != 0 {
		t.Fatalf("suggest: exit code %d:\n%s%s", code, out, problems)
	}
	out, problems, code = told(t, nil, append([]string{"intentions", "preview", "-f", suggested}, admin...)...)
	if code != 0 || !strings.Contains(out, "0 cut, 0 may be; 0 newly allowed, 0 may be") {
		t.Errorf("preview of the suggestion: exit code %d:\n%s%s", code, out, problems)
	}
	writeEntries(t, consul, suggested)
	until(t, "the suggestion is in force", func() error {
		got, err := c.send(t.Context(), "GET", "/elsewhere", "")
		if err == nil && got.status != http.StatusForbidden {
			err = fmt.Errorf("GET /elsewhere: %d", got.status)
		}
		return err
	})
	if got, err := c.send(t.Context(), "GET", "/users/4713", ""); err != nil || got.status != 200 {
		t.Errorf("GET /users/4713: %v, %v", got.status, err)
	}
	o.end(t)
	file := filepath.Join(state, "edges.json")
	text, err := os.ReadFile(file)
	if err != nil || !bytes.Contains(text, []byte("/users/{id}")) || bytes.Contains(text, []byte("s3cret")) || bytes.Contains(text, []byte("471")) {
		t.Errorf("the file at the end: %v: %s", err, text)
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm() != 0o600 {
		t.Errorf("the file has the mode %v", info.Mode())
	}
	out, problems, code = told(t, nil, "intentions", "suggest", "-edges", file)
	if code != 0 || !strings.Contains(out, `"web-ledger"`) {
		t.Errorf("suggest of the file: exit code %d:\n%s%s", code, out, problems)
	}
}
