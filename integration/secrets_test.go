// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// What must not be told to anybody: what callers send, and what the process has
// been given.
const (
	callersToken  = "eyJhbGciOiJub25lIn0.callers-bearer-token"
	callersCookie = "callers-session-cookie"
	callersQuery  = "callers-query-token"
	callersKey    = "callers-api-key"
	tracesToken   = "collectors-bearer-token"
)

// TestNothingSecretIsTold has requests with secrets served, denied and failed,
// and looks for them, for the tokens of the process and for keys, in everything
// that the process lets out, its last words included.
func TestNothingSecretIsTold(t *testing.T) {
	t.Parallel()
	m := &vaultMesh{vault: realserver.StartVault(t), trustDomain: trustDomain, creds: map[string]string{}}
	m.mesh = &mesh{consul: aclConsul(t, realserver.HCL(vaultProvider(m.vault)))}
	m.vault.Command(t, "auth", "enable", "approle")
	m.allow(t, "till", "1h")
	spans := &collector{}
	dir, state := t.TempDir(), t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, text := range []string{
		`{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http"}}`,
		`{"Kind":"service-intentions","Name":"till","Sources":[{"Name":"buyer","Permissions":[
			{"Action":"deny","HTTP":{"PathPrefix":"/admin"}},{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`,
	} {
		writeFile(t, path("entry.json"), text)
		m.consul.Command(t, "config", "write", path("entry.json"))
	}
	writeFile(t, path("otlp-headers"), "Authorization: Bearer "+tracesToken+"\n")
	till, buyer := tokenFor(t, m.consul, "till"), tokenFor(t, m.consul, "buyer")
	run := func(name, token, more string) *outrider {
		writeFile(t, path(name+".token"), token+"\n")
		o := &outrider{admin: path(name + ".sock")}
		writeFile(t, path(name+".hcl"), fmt.Sprintf("consul {\n address = %q\n token_file = %q\n}\nadmin { address = \"unix://%s\" }\nlog { level = \"trace\" }\n"+
			"telemetry {\n otlp_endpoint = \"http://%s\"\n otlp_headers_file = %q\n}\n"+
			"access_log {\n enabled = true\n type = \"file\"\n path = %q\n text_format = \"%%REQ(:PATH)%% %%REQ(AUTHORIZATION)%% %%REQ(COOKIE)%% %%REQ(X-API-KEY)%% %%REQ(USER-AGENT)%%\"\n}\n%s",
			m.consul.Addr, path(name+".token"), o.admin, serve(t, spans), path("otlp-headers"), path(name+".access"), more))
		if err := os.MkdirAll(filepath.Join(state, name), 0o700); err != nil {
			t.Fatal(err)
		}
		o.runWith(t, []string{"PATH=" + os.Getenv("PATH"), "STATE_DIRECTORY=" + filepath.Join(state, name)}, "agent", "-config", path(name+".hcl"))
		return o
	}
	app := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Set-Cookie", callersCookie) })
	port := freePort(t)
	far := run("till", till, m.block("till", "1h")+service{name: "till", app: serve(t, app)}.stanza(t))
	near := run("buyer", buyer, service{name: "buyer", more: []listen{{"till", port}, {"nobody", freePort(t)}}}.stanza(t))
	far.waitReady(t)
	near.waitReady(t)
	call := func(status int, target string) error {
		got, err := newCaller(t, port, false).send(t.Context(), http.MethodPost, target+"?access_token="+callersQuery, "a body",
			"Authorization", "Bearer "+callersToken, "Cookie", "session="+callersCookie, "X-Api-Key", callersKey)
		if err == nil && got.status != status {
			err = fmt.Errorf("status %d, want %d", got.status, status)
		}
		return err
	}
	until(t, "calls pass", func() error { return call(200, "/") })

	var out outputs
	hosts := map[string]*outrider{"till": far, "buyer": near}
	for name, o := range hosts {
		out.tapped(t, name, o, func() error { return call(200, "/") })
	}
	if err := call(403, "/admin"); err != nil {
		t.Fatal(err)
	}
	until(t, "spans have arrived", func() error {
		spans.mu.Lock()
		defer spans.mu.Unlock()
		if len(spans.spans) < 6 {
			return fmt.Errorf("%d", len(spans.spans))
		}
		return nil
	})
	for name, o := range hosts {
		for _, what := range []string{
			"/v1/status", "/v1/snapshot", "/v1/failures", "/v1/edges", "/v1/series", "/metrics", "/", "/debug/pprof/goroutine?debug=2",
			"/v1/explain?source=buyer&destination=till&method=GET&path=/admin%3Faccess_token%3D" + callersQuery + "&header=authorization:+Bearer+" + callersToken,
		} {
			body, err := o.ask(what)
			if err != nil {
				t.Errorf("%s of %s: %v", what, name, err)
			}
			out.add(name+" "+what, string(body))
		}
		if o == near {
			quit(t, o)
		} else {
			o.end(t) // only a gentle end writes what was seen
		}
		out.add(name+" log", o.text())
		out.addFiles(t, filepath.Join(state, name))
		out.addFiles(t, path(name+".access"))
	}
	out.add("traces", spans.text.String())
	out.mustNotHold(t, map[string]string{
		"the Authorization of a caller": callersToken, "a cookie": callersCookie, "a query parameter": callersQuery, "an API key": callersKey,
		"the token for the collector": tracesToken, "a key": "PRIVATE KEY", "Consul's token": till, "Consul's other token": buyer, "the management token": management,
		"the AppRole's secret": strings.TrimSpace(secretOf(t, m.creds["till"])),
	})
	out.mustHold(t, "till /v1/failures", "intention_denied", "buyer /v1/edges", "/admin", "buyer crash", "goroutine", "till edges", "buyer",
		"buyer tap", "POST", "traces", "outrider.reason", "till access", "[redacted]", "till log", "refused a request")
}

// secretOf is what is in the file of an auth block.
func secretOf(t *testing.T, block string) string {
	t.Helper()
	_, rest, _ := strings.Cut(block, `secret_id_file = "`)
	file, _, _ := strings.Cut(rest, `"`)
	text, err := os.ReadFile(file)
	if err != nil || len(strings.TrimSpace(string(text))) < 8 {
		t.Fatalf("the secret of %q: %q, %v", block, text, err)
	}
	return string(text)
}

// quit ends a process the way that leaves last words.
func quit(t *testing.T, o *outrider) {
	t.Helper()
	if err := o.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-o.done
}

// outputs are what processes have let out, by name.
type outputs struct {
	mu  sync.Mutex
	all map[string]string
}

func (u *outputs) add(name, text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.all == nil {
		u.all = map[string]string{}
	}
	u.all[name] += text
}

// addFiles adds a file, or all of a directory.
func (u *outputs) addFiles(t *testing.T, path string) {
	t.Helper()
	err := filepath.WalkDir(path, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		name := filepath.Base(filepath.Dir(path)) + " " + strings.SplitN(filepath.Base(path), "-", 2)[0]
		if who, kind, ok := strings.Cut(filepath.Base(path), "."); ok && kind == "access" {
			name = who + " access"
		} else if kind == "json" && who == "edges" {
			name = filepath.Base(filepath.Dir(path)) + " edges"
		}
		u.add(name, string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// tapped watches a call with all headers, as far as they are shown.
func (u *outputs) tapped(t *testing.T, name string, o *outrider, call func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", o.admin)
	}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://outrider/v1/tap?headers=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("tap: %v, %v", res, err)
	}
	defer func() { _ = res.Body.Close() }()
	if err := call(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		u.add(name+" tap", lines.Text()+"\n")
		if strings.Contains(lines.Text(), "POST") {
			return
		}
	}
	t.Fatalf("the tap of %s ended: %v", name, lines.Err())
}

func (u *outputs) mustNotHold(t *testing.T, secrets map[string]string) {
	t.Helper()
	for name, text := range u.all {
		for what, secret := range secrets {
			if secret == "" {
				t.Fatalf("%s is not known", what)
			}
			if at := strings.Index(text, secret); at >= 0 {
				t.Errorf("%s holds %s: …%q", name, what, text[max(0, at-80):min(len(text), at+len(secret)+20)])
			}
		}
	}
}

// mustHold proves that outputs are what they are called: names and what is in
// them, in turn.
func (u *outputs) mustHold(t *testing.T, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(u.all[pairs[i]], pairs[i+1]) {
			names := ""
			for name := range u.all {
				names += name + "; "
			}
			t.Errorf("%s does not hold %q (there are %s): %.2000s", pairs[i], pairs[i+1], names, u.all[pairs[i]])
		}
	}
}
