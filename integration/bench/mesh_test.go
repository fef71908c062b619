// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

// A protocol is what the service-defaults of the called service say, and how it
// is loaded.
type protocol struct {
	name  string
	loads []workload
}

// A workload is one kind of request, so many at a time.
type workload struct {
	name    string
	atATime int
	run     generator
	// thorough asks for the systems too that are not of every load, since each
	// takes its time.
	thorough bool
}

func protocols() []protocol {
	get, post := http1(http.MethodGet, 0), http1(http.MethodPost, 16<<10)
	return []protocol{
		{"http", []workload{
			{"GET 1 KB", 1, get, false}, {"GET 1 KB", 32, get, true}, {"GET 1 KB", 128, get, false}, {"POST 16 KB", 32, post, true},
		}},
		{"http2", []workload{
			{"GET 1 KB", 1, http2Gets, false}, {"GET 1 KB", 32, http2Gets, true}, {"GET 1 KB", 128, http2Gets, false},
		}},
		{"grpc", []workload{
			{"unary 1 KB", 1, grpcUnary(), false}, {"unary 1 KB", 32, grpcUnary(), true}, {"unary 1 KB", 128, grpcUnary(), false},
		}},
	}
}

// A system is one way from the client to the application.
type system struct {
	name     string
	address  string // where the client connects
	web, api int    // processes of the sidecars; 0 for none
	admin    [2]string
	logs     string // folder of the access logs, "" for none
	// rare is one of thorough loads only, outrider one of ours.
	rare, outrider bool
}

// A mesh is one application with all the ways to it.
type mesh struct {
	protocol   protocol
	app        int // its process
	systems    []system
	conditions conditions
}

const (
	direct     = "direct"
	logging    = ", access log" // after the name of one of ours
	envoyTwo   = "Envoy, 2 workers"
	envoyOne   = "Envoy, 1 worker"
	patience   = time.Minute
	pollEvery  = 20 * time.Millisecond
	probeLimit = 10 * time.Second
)

func newMesh(b *testing.B, p protocol, outriders []build) *mesh {
	b.Helper()
	consul := realserver.StartConsul(b)
	at, pid := startApplication(b)
	app := at.HTTP
	if p.name == "grpc" {
		app = at.GRPC
	}
	m := &mesh{protocol: p, app: pid, systems: []system{{name: direct, address: app}}}
	for i, o := range outriders {
		suffix := fmt.Sprintf("outrider-%d", i)
		m.systems = append(m.systems, outriderSystem(b, consul, suffix, p.name, app, o, ""),
			outriderSystem(b, consul, suffix+"-log", p.name, app, build{o.name + logging, o.path}, b.TempDir()))
	}
	for i, name := range []string{envoyOne, envoyTwo} {
		s, version := envoySystem(b, consul, fmt.Sprintf("envoy-%d", i+1), p.name, app, i+1)
		s.name, s.rare = name, i == 0
		m.systems = append(m.systems, s)
		m.conditions.envoy = version
	}
	m.conditions.read(b, consul.Command(b, "version"), outriders[0].path)
	selected, err := regexp.Compile(*systems)
	if err != nil {
		b.Fatalf("-systems: %v", err)
	}
	m.systems = slices.DeleteFunc(m.systems, func(s system) bool { return !selected.MatchString(s.name) })
	for _, s := range m.systems {
		m.answers(b, s)
	}
	return m
}

// answers waits until a system serves.
func (m *mesh) answers(b *testing.B, s system) {
	b.Helper()
	deadline := time.Now().Add(patience)
	for {
		_, err := load(b.Context(), m.protocol.loads[0].run, s.address, 1, 0, 100*time.Millisecond, func() usage { return usage{} })
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s did not serve within %v: %v", s.name, patience, err)
		}
		until(b.Context(), time.Now().Add(pollEvery))
	}
}

// registered writes the same configuration for web and api of a system, and
// returns where web's application would call api. Access logs are in the folder
// logs, "" for none.
func registered(b *testing.B, consul *realserver.Consul, suffix, protocol, app, logs string) string {
	b.Helper()
	web, api, call := "web-"+suffix, "api-"+suffix, realserver.FreeAddr(b)
	entry(b, consul, fmt.Sprintf(`{"Kind":"service-defaults","Name":%q,"Protocol":%q}`, api, protocol))
	// Both kinds of sidecar decide on each request.
	entry(b, consul, fmt.Sprintf(`{"Kind":"service-intentions","Name":%q,"Sources":[{"Name":%q,"Permissions":[
		{"Action":"deny","HTTP":{"PathPrefix":"/admin"}},{"Action":"allow","HTTP":{"PathPrefix":"/"}}]}]}`, api, web))
	register(b, consul, fmt.Sprintf(`{"Name":%q,"Address":"127.0.0.1","Port":%s,"Connect":{"SidecarService":{"Address":"127.0.0.1","Port":%s,
		"Proxy":{"AccessLogs":%s}}}}`, api, port(app), port(realserver.FreeAddr(b)), accessLogs(logs, api)))
	register(b, consul, fmt.Sprintf(`{"Name":%q,"Address":"127.0.0.1","Port":1,"Connect":{"SidecarService":{"Address":"127.0.0.1","Port":%s,
		"Proxy":{"AccessLogs":%s,"Upstreams":[{"DestinationName":%q,"LocalBindPort":%s}]}}}}`, web, port(realserver.FreeAddr(b)), accessLogs(logs, web), api, port(call)))
	return call
}

// accessLogs asks for Consul's default access log in a file of a folder.
func accessLogs(folder, name string) string {
	if folder == "" {
		return `{"Enabled":false}`
	}
	return fmt.Sprintf(`{"Enabled":true,"Type":"file","Path":%q}`, filepath.Join(folder, name+".log"))
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }

func entry(b *testing.B, consul *realserver.Consul, text string) {
	b.Helper()
	put(b, consul, "/v1/config", text)
}

func register(b *testing.B, consul *realserver.Consul, text string) {
	b.Helper()
	put(b, consul, "/v1/agent/service/register", text)
}

func put(b *testing.B, consul *realserver.Consul, path, body string) {
	b.Helper()
	request, err := http.NewRequestWithContext(b.Context(), http.MethodPut, "http://"+consul.Addr+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	if answer, err := ask(request, &http.Transport{}); err != nil {
		b.Fatalf("%v: %s: sent %s", err, answer, body)
	}
}

// ask returns the body of an answer, which is an error unless its status is 200.
func ask(request *http.Request, over *http.Transport) ([]byte, error) {
	over.DisableKeepAlives = true
	answer, err := (&http.Client{Transport: over}).Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s %s: %s", request.Method, request.URL, answer.Status)
	}
	return text, err
}

// outriderSystem has access logs in a folder, or none for "".
func outriderSystem(b *testing.B, consul *realserver.Consul, suffix, protocol, app string, o build, logs string) system {
	b.Helper()
	s := system{name: o.name, address: registered(b, consul, suffix, protocol, app, logs), outrider: true, rare: logs != "", logs: logs}
	s.api, s.admin[1] = sidecar(b, consul, o.path, "api-"+suffix, logs)
	s.web, s.admin[0] = sidecar(b, consul, o.path, "web-"+suffix, logs)
	return s
}

// sidecar runs one Outrider until the benchmark ends, and returns its process
// and the path of its admin socket. Its access logs are in a folder.
func sidecar(b *testing.B, consul *realserver.Consul, program, id, logs string) (pid int, admin string) {
	b.Helper()
	admin = filepath.Join(b.TempDir(), "admin.sock")
	cmd := exec.Command(program, "sidecar", "-sidecar-for", id, "-admin", "unix://"+admin)
	cmd.Env = append(append(os.Environ(), consul.Env()...), "LOGS_DIRECTORY="+logs)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		b.Fatalf("start the sidecar of %s: %v", id, err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if b.Failed() {
			b.Logf("log of the sidecar of %s:\n%s", id, log.String())
		}
	})
	return cmd.Process.Pid, admin
}

// envoySystem also returns Envoy's version.
func envoySystem(b *testing.B, consul *realserver.Consul, suffix, protocol, app string, workers int) (system, string) {
	b.Helper()
	s := system{address: registered(b, consul, suffix, protocol, app, "")}
	api := realserver.StartEnvoyWithWorkers(b, consul, "api-"+suffix+"-sidecar-proxy", workers)
	web := realserver.StartEnvoyWithWorkers(b, consul, "web-"+suffix+"-sidecar-proxy", workers)
	s.web, s.api = web.PID(), api.PID()
	return s, envoyVersion(b, web)
}

// takeProfiles loads each Outrider once more for every workload, and has both
// of its sidecars write where their time and their allocations go.
func (m *mesh) takeProfiles(b *testing.B) {
	b.Helper()
	if *profile == "" {
		return
	}
	if err := os.MkdirAll(*profile, 0o755); err != nil {
		b.Fatal(err)
	}
	for _, s := range m.systems {
		for _, w := range m.protocol.loads {
			if s.outrider && (*atATime == 0 || *atATime == w.atATime) {
				m.takeProfile(b, s, w)
			}
		}
	}
}

func (m *mesh) takeProfile(b *testing.B, s system, w workload) {
	b.Helper()
	name := strings.ToLower(strings.NewReplacer(" ", "", ",", "").Replace(fmt.Sprintf("%s-%s-%s-%d", s.name, m.protocol.name, w.name, w.atATime)))
	failed := make(chan error, 2)
	write := func(role int, kind, path string) error {
		request, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://outrider/debug/pprof/"+path, nil)
		if err != nil {
			return err
		}
		text, err := ask(request, &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", s.admin[role])
		}})
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(*profile, fmt.Sprintf("%s-%s.%s", name, [...]string{"web", "api"}[role], kind)), text, 0o644)
	}
	seconds := max(1, int(span.Seconds()))
	for role := range s.admin {
		go func() { failed <- write(role, "cpu", fmt.Sprintf("profile?seconds=%d", seconds)) }()
	}
	if _, err := load(b.Context(), w.run, s.address, w.atATime, 0, time.Duration(seconds+1)*time.Second, func() usage { return usage{} }); err != nil {
		b.Fatalf("load %s for a profile: %v", s.name, err)
	}
	for role := range s.admin {
		if err := <-failed; err != nil {
			b.Fatalf("take a CPU profile of %s: %v", s.name, err)
		}
		if err := write(role, "allocs", "allocs"); err != nil {
			b.Fatalf("take a profile of allocations of %s: %v", s.name, err)
		}
	}
}
