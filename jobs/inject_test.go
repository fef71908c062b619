// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"

	"github.com/outrider-mesh/outrider/hcl"
)

var (
	update = flag.Bool("update", false, "rewrite the golden files")
	record = flag.Bool("record", false, "ask the Nomad at NOMAD_ADDR to parse, and keep its answers for later runs")
)

// A recorder stands for Nomad's parser: it answers what a real Nomad answered to
// exactly this text and these variables.
type recorder struct {
	t       *testing.T
	path    string
	answers map[string]recorded
}

type recorded struct {
	Status int
	Answer json.RawMessage
}

// recordedNomad returns a client of a Nomad that knows the answers in a file.
func recordedNomad(t *testing.T, path string) *Client {
	t.Helper()
	r := &recorder{t: t, path: path, answers: map[string]recorded{}}
	if text, err := os.ReadFile(path); err == nil && !*record {
		if err := json.Unmarshal(text, &r.answers); err != nil {
			t.Fatal(err)
		}
	}
	return clientOf(t, r)
}

func clientOf(t *testing.T, h http.Handler) *Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := api.NewClient(&api.Config{Address: server.URL, HttpClient: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	return &Client{api: c}
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var ask api.JobsParseRequest
	if err := json.NewDecoder(req.Body).Decode(&ask); err != nil || req.URL.Path != "/v1/jobs/parse" {
		http.Error(w, "not a parse request", http.StatusTeapot)
		return
	}
	key := ask.JobHCL + "\x00" + ask.Variables
	answer, known := r.answers[key]
	switch {
	case *record:
		answer = r.ask(ask)
		r.answers[key] = answer
		text, err := json.MarshalIndent(r.answers, "", " ")
		if err == nil {
			err = os.WriteFile(r.path, append(text, '\n'), 0o644)
		}
		if err != nil {
			r.t.Error(err)
		}
	case !known:
		http.Error(w, "this text was never parsed by Nomad: run with -record, and NOMAD_ADDR set", http.StatusTeapot)
		return
	}
	w.WriteHeader(answer.Status)
	var refused string
	if json.Unmarshal(answer.Answer, &refused) == nil {
		w.Write([]byte(refused))
		return
	}
	w.Write(answer.Answer)
}

// ask has a real Nomad parse.
func (r *recorder) ask(request api.JobsParseRequest) recorded {
	body, err := json.Marshal(request)
	if err != nil {
		r.t.Fatal(err)
	}
	post, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, os.Getenv("NOMAD_ADDR")+"/v1/jobs/parse", strings.NewReader(string(body)))
	if err != nil {
		r.t.Error(err)
		return recorded{Status: http.StatusTeapot}
	}
	res, err := new(http.Client).Do(post)
	if err != nil {
		r.t.Error(err)
		return recorded{Status: http.StatusTeapot}
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Error(err)
	}
	var job any
	if json.Unmarshal(text, &job) != nil {
		job = string(text)
	}
	small, err := json.Marshal(prune(job))
	if err != nil {
		r.t.Error(err)
	}
	return recorded{res.StatusCode, small}
}

func defaults(change func(*Settings)) Settings {
	s := DefaultSettings()
	if change != nil {
		change(&s)
	}
	return s
}

// shapes are jobs of many shapes with the settings of each.
func shapes() map[string]Settings {
	vault := func(s *Settings) {
		s.Vault = VaultSettings{Address: "https://vault:8200", PKIMount: "mesh", PKIRole: "mesh-${service}", AuthMount: "jwt-nomad", AuthRole: "mesh"}
		s.ConsulLogin = "nomad-workloads"
		s.ConsulAddress = "${attr.unique.network.ip-address}:8500"
	}
	return map[string]Settings{
		"shapes":           defaults(vault),
		"uneven":           defaults(vault),
		"carriage-returns": defaults(nil),
		"tabs": defaults(func(s *Settings) {
			s.Driver, s.Command, s.LogLevel, s.LogMaxFiles, s.LogMaxFileSize = driverExec, "/usr/bin/outrider", "debug", 2, 5
			s.KillTimeout = 2 * time.Minute
		}),
		"variables":         defaults(nil),
		"generated":         defaults(nil),
		"transparent":       defaults(nil),
		"by-hand":           defaults(nil),
		"no-newline":        defaults(nil),
		"refused-many":      defaults(nil),
		"refused-nothing":   defaults(nil),
		"refused-no-mesh":   defaults(nil),
		"refused-user":      defaults(nil),
		"refused-bystander": defaults(nil),
	}
}

func shape(t *testing.T, name string) Source {
	t.Helper()
	path := filepath.Join("testdata", "inject", name+".nomad.hcl")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	source := Source{Name: name + ".nomad.hcl", Text: text}
	if name == "variables" {
		source.Variables, err = hcl.Variables(text, nil, nil, []string{`n=5`, `dcs=["dc1"]`, `greeting=${hi} "you"`})
		if err != nil {
			t.Fatal(err)
		}
	}
	return source
}

func TestJobsGetTheirSidecarTasksAndKeepTheirText(t *testing.T) {
	t.Parallel()
	for name, settings := range shapes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			base := filepath.Join("testdata", "inject", name)
			client := recordedNomad(t, base+".parsed.json")
			got, err := client.InjectSource(t.Context(), shape(t, name), settings)
			golden(t, base+".golden", account(got, err))
			if err != nil || got.Unwritten != nil {
				return
			}
			diff := Diff("a", "b", got.Source.Text, got.Text, false)
			for line := range strings.Lines(diff) {
				if strings.HasPrefix(line, "-") && !strings.HasPrefix(line, "---") && strings.Contains(line, "#") && !strings.Contains(got.textWithoutBlanks(), strings.Join(strings.Fields(line[strings.Index(line, "#"):]), "")) {
					t.Errorf("a comment is lost: %s", line)
				}
			}
		})
	}
}

func (i Injected) textWithoutBlanks() string { return strings.Join(strings.Fields(string(i.Text)), "") }

// account is everything that a person sees.
func account(got Injected, err error) string {
	var out strings.Builder
	if err != nil {
		fmt.Fprintf(&out, "error: %v\n", err)
	}
	if got.Unwritten != nil {
		fmt.Fprintf(&out, "unwritten: %v\n", got.Unwritten)
	}
	for _, n := range got.Changes.Notices {
		fmt.Fprintf(&out, "notice: %s\n", n)
	}
	fmt.Fprintf(&out, "changed %d, ready %d\n", len(got.Changes.Services), got.Changes.Ready)
	if got.Text != nil {
		fmt.Fprintf(&out, "---\n%s", got.Text)
	}
	return out.String()
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func TestInjectingTwiceIsInjectingOnce(t *testing.T) {
	t.Parallel()
	written := 0
	for name, settings := range shapes() {
		client := recordedNomad(t, filepath.Join("testdata", "inject", name+".parsed.json"))
		once, err := client.InjectSource(t.Context(), shape(t, name), settings)
		if err != nil {
			continue
		}
		again, err := Inject(once.Job.job, settings)
		if err != nil || len(again.Services) != 0 {
			t.Errorf("%s: the injected job changes again: %+v, %v", name, again.Services, err)
		}
		if once.Unwritten != nil {
			continue
		}
		written++
		source := once.Source
		source.Text = once.Text
		twice, err := client.InjectSource(t.Context(), source, settings)
		if err != nil || string(twice.Text) != string(once.Text) || !twice.Job.equal(once.Job) {
			t.Errorf("%s: the text changes again: %v\n%s", name, err, twice.Text)
		}
	}
	if written < 7 {
		t.Errorf("%d texts were compared", written)
	}
}

func TestJSONKeepsWhatThisProgramDoesNotKnow(t *testing.T) {
	t.Parallel()
	const text = `{"Job": {"ID": "j", "Future": {"A": 12345678901234567890}, "TaskGroups": [{"Name": "g",
		"Networks": [{"Mode": "bridge"}],
		"Services": [{"Name": "web", "Connect": {"SidecarService": {}, "SidecarTask": {
			"Driver": "docker", "Config": {"image": "envoy"}, "Tomorrow": true, "Identities": [{"Name": "mine", "New": 1}]}}}]}]}}`
	settings := defaults(func(s *Settings) { s.ConsulLogin = "m" })
	got, err := (&Client{}).InjectSource(t.Context(), Source{Name: "j.json", Text: []byte(text), JSON: true}, settings)
	if err != nil {
		t.Fatal(err)
	}
	task := descend(got.Job.raw, "TaskGroups", 0, "Services", 0, "Connect", "SidecarTask")
	want := map[string]any{
		"Driver": "raw_exec", "Config": map[string]any{"command": "outrider", "args": []any{"sidecar"}},
		"Tomorrow": true, "KillTimeout": json.Number("10000000000"),
		"Resources": map[string]any{"CPU": json.Number("50"), "MemoryMB": json.Number("32")},
		"Env":       map[string]any{"CONSUL_LOGIN_AUTH_METHOD": "m", "OUTRIDER_KILL_TIMEOUT": "10s"},
		"Identities": []any{
			map[string]any{"Name": "mine", "New": json.Number("1")},
			map[string]any{"Name": "outrider_consul", "Audience": []any{"consul.io"}, "File": true, "TTL": json.Number("3600000000000")},
		},
	}
	pruned, _ := prune(task).(map[string]any)
	resources, _ := pruned["Resources"].(map[string]any)
	for key := range resources {
		if !slices.Contains([]string{"CPU", "MemoryMB"}, key) {
			delete(resources, key)
		}
	}
	for _, w := range pruned["Identities"].([]any) {
		delete(w.(map[string]any), "x")
	}
	if diff := cmp.Diff(want, pruned); diff != "" {
		t.Errorf("sidecar task (-want +got):\n%s", diff)
	}
	if !strings.Contains(string(got.Text), "12345678901234567890") {
		t.Errorf("a number lost digits:\n%s", got.Text)
	}
	again, err := (&Client{}).InjectSource(t.Context(), Source{Name: "j.json", Text: got.Text, JSON: true}, settings)
	if err != nil || string(again.Text) != string(got.Text) {
		t.Errorf("injecting again changes the JSON: %v", err)
	}
}

func TestJobMadeByNomadIsRefused(t *testing.T) {
	t.Parallel()
	const text = `{"ID": "j", "TaskGroups": [{"Name": "g", "Networks": [{"Mode": "cni/x"}],
		"Services": [{"Name": "web", "Connect": {"SidecarService": {}}}],
		"Tasks": [{"Name": "connect-proxy-web", "Kind": "connect-proxy:web", "Driver": "docker", "Config": {"image": "${meta.connect.sidecar_image}"}}]}]}`
	_, err := (&Client{}).InjectSource(t.Context(), Source{Name: "j", Text: []byte(text), JSON: true}, DefaultSettings())
	var refused *Refusal
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "was put there by Nomad") {
		t.Errorf("error: %v", err)
	}
}

func TestBrokenJSONIsRefusedWithoutHarm(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{`:                              "as JSON",
		`[]`:                             "as JSON",
		`{"ID":"a"} {}`:                  "behind the job",
		`{"Name":"x"}`:                   "no ID",
		`{"ID":"a","TaskGroups":[null]}`: "null",
		`{"ID":"a","TaskGroups":{}}`:     "as a Nomad job",
		`{"ID":"a","TaskGroups":[{"Services":[null]}]}`:                                                          "null",
		`{"ID":"a","TaskGroups":[{"Services":[{"Connect":{"SidecarService":{"Proxy":{"Upstreams":[null]}}}}]}]}`: "null",
	} {
		if _, err := ReadJSON([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", text, err, want)
		}
	}
}

func TestSettingsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Settings){
		"driver":      func(s *Settings) { s.Driver = "docker" },
		"no command":  func(s *Settings) { s.Command = "" },
		"minimum":     func(s *Settings) { s.Memory = 1 },
		"drains":      func(s *Settings) { s.KillTimeout = 0 },
		"negative":    func(s *Settings) { s.LogMaxFiles = -1 },
		"none of":     func(s *Settings) { s.LogLevel = "loud" },
		"uid without": func(s *Settings) { s.UID = "7" },
		"as root":     func(s *Settings) { s.Driver, s.User = driverExec, "root" },
		"PKI role":    func(s *Settings) { s.Vault.Address = "http://v" },
	} {
		if _, err := Inject(&api.Job{}, defaults(change)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
