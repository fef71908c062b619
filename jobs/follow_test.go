// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A script stands for Nomad: the n-th question to a path gets the n-th answer, and
// the last one from then on. An answer that is no JSON is a refusal.
type script struct {
	mu      sync.Mutex
	answers map[string][]string
	asked   map[string]int
	bodies  []string
	queries []string
}

func (s *script) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodPut {
		var body json.RawMessage
		_ = json.NewDecoder(r.Body).Decode(&body)
		s.bodies = append(s.bodies, string(body))
	}
	s.queries = append(s.queries, r.URL.RequestURI())
	answers := s.answers[r.URL.Path]
	if len(answers) == 0 {
		http.Error(w, "unknown path "+r.URL.Path, http.StatusNotFound)
		return
	}
	if s.asked == nil {
		s.asked = map[string]int{}
	}
	n := min(s.asked[r.URL.Path], len(answers)-1)
	s.asked[r.URL.Path]++
	if !strings.HasPrefix(answers[n], "{") && !strings.HasPrefix(answers[n], "[") {
		http.Error(w, answers[n], http.StatusInternalServerError)
		return
	}
	w.Write([]byte(answers[n]))
}

const (
	evalDone   = `{"ID":"eval-000-1","Status":"complete","DeploymentID":"dep-0000-1"}`
	evalAlone  = `{"ID":"eval-000-1","Status":"complete"}`
	allocBegin = `[{"ID":"allo-000-1","Name":"j.g[0]","NodeName":"n1","JobVersion":3,"TaskGroup":"g","DesiredStatus":"run","ClientStatus":"pending",
		"TaskStates":{"app":{"State":"pending"},"side":{"State":"running"}}}, {"ID":"old","JobVersion":2,"DesiredStatus":"run","ClientStatus":"failed"}]`
	allocRuns = `[{"ID":"allo-000-1","Name":"j.g[0]","NodeName":"n1","JobVersion":3,"TaskGroup":"g","DesiredStatus":"run","ClientStatus":"running",
		"DeploymentStatus":{"Healthy":true},"TaskStates":{"app":{"State":"running"},"side":{"State":"running"},"after":{"State":"pending"}}}]`
	allocFails = `[{"ID":"allo-000-1","Name":"j.g[0]","NodeName":"n1\u001b[2J","JobVersion":3,"TaskGroup":"g","DesiredStatus":"run","ClientStatus":"failed",
		"TaskStates":{"side":{"State":"dead","Failed":true,"Restarts":2,"Events":[{"Type":"Started","Time":1,"DisplayMessage":"fine"},
			{"Type":"Driver Failure","Time":2,"DisplayMessage":"failed to launch: \"outrider\": executable file not found in $PATH"},
			{"Type":"Not Restarting","Time":3,"DisplayMessage":"Error was unrecoverable"}]},
			"app":{"State":"dead","Events":[{"Type":"Terminated","Time":4,"DisplayMessage":"Exit Code: 0","Details":{"exit_code":"0"}}]}}}]`
	allocExits = `[{"ID":"allo-000-1","JobVersion":3,"DesiredStatus":"run","ClientStatus":"failed","TaskStates":{"app":{"State":"dead",
		"Events":[{"Type":"Terminated","Time":1,"DisplayMessage":"Exit Code: 3","Details":{"exit_code":"3"}}]}}}]`
)

func group(placed, healthy string, more string) string {
	return `{"g":{"DesiredTotal":1,"PlacedAllocs":` + placed + `,"HealthyAllocs":` + healthy + more + `}}`
}

func deployment(status, words, groups string) string {
	return `{"ID":"dep-0000-1","Status":"` + status + `","StatusDescription":"` + words + `","TaskGroups":` + groups + `}`
}

func followed(t *testing.T, s *script) (lines []string, err error) {
	t.Helper()
	job := `{"ID":"j","Region":"eu","Namespace":"apps","TaskGroups":[{"Name":"g","Tasks":[{"Name":"after","Lifecycle":{"Hook":"poststop"}}]}]}`
	document, err := ReadJSON([]byte(job))
	if err != nil {
		t.Fatal(err)
	}
	c := clientOf(t, s)
	if s.answers["/v1/jobs"] == nil {
		s.answers["/v1/jobs"] = []string{`{"EvalID":"eval","JobModifyIndex":7,"Warnings":"careful"}`}
	}
	s.answers["/v1/job/j"] = []string{`{"Version":3,"JobModifyIndex":7}`}
	index := uint64(5)
	reg, err := c.Register(t.Context(), Injected{Job: document, Text: []byte(job), Source: Source{JSON: true}}, &index)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = c.follow(ctx, reg, func(line string) { lines = append(lines, line) }, time.Millisecond)
	return lines, err
}

func TestFollowingTellsEachChangeOnce(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		eval, deploy, allocs []string
		more                 map[string][]string
		want                 []string
		fails                string
	}{
		"a deployment that succeeds, though the agent goes away for a moment": {
			eval:   []string{`{"ID":"eval-000-1","Status":"pending"}`, evalDone, "no leader", evalDone},
			allocs: []string{"[]", allocBegin, allocBegin, allocRuns},
			deploy: []string{deployment("running", "Deployment is running", group("0", "0", "")), deployment("running", "Deployment is running", group("1", "0", "")), deployment("running", "Deployment is running", group("1", "0", "")), deployment("successful", "Deployment completed successfully", group("1", "1", ""))},
			want: []string{
				"evaluation eval-000: pending", "evaluation eval-000: complete",
				`deployment dep-0000: group "g": 0 of 1 placed, 0 healthy`, "deployment dep-0000: Deployment is running",
				"Nomad answered: no leader",
				"allocation allo-000 j.g[0] on n1: pending; app pending, side running",
				`deployment dep-0000: group "g": 1 of 1 placed, 0 healthy`,
				"allocation allo-000 j.g[0] on n1: running, healthy; after pending, app running, side running",
				`deployment dep-0000: group "g": 1 of 1 placed, 1 healthy`, "deployment dep-0000: Deployment completed successfully",
			},
		},
		"a sidecar that does not start": {
			eval: []string{evalDone}, allocs: []string{allocFails},
			deploy: []string{deployment("running", "Deployment is running", group("1", "0", "")), deployment("failed", "Failed due to unhealthy allocations", group("1", "0", `,"UnhealthyAllocs":1`))},
			want: []string{
				"evaluation eval-000: complete", "allocation allo-000 j.g[0] on n1[2J: failed; app dead, side failed (2 restarts)",
				`task "side" of allocation allo-000: Driver Failure: failed to launch: "outrider": executable file not found in $PATH (is outrider on the client, for driver exec inside its chroot_env? -command gives another path)`,
				`task "side" of allocation allo-000: Not Restarting: Error was unrecoverable`,
				`deployment dep-0000: group "g": 1 of 1 placed, 0 healthy`, "deployment dep-0000: Deployment is running",
				`deployment dep-0000: group "g": 1 of 1 placed, 0 healthy, 1 unhealthy`,
			},
			fails: `deployment dep-0000: Failed due to unhealthy allocations; the last trouble: task "side" of allocation allo-000: Driver Failure`,
		},
		"canaries that wait for a person": {
			eval: []string{evalDone}, allocs: []string{"[]"},
			deploy: []string{deployment("running", "Deployment is running but requires manual promotion", group("1", "1", `,"DesiredCanaries":1,"PlacedCanaries":["x"]`))},
			want: []string{
				"evaluation eval-000: complete", `deployment dep-0000: group "g": 1 of 1 placed, 1 healthy; 1 of 1 canaries placed`,
				"the canaries are healthy; the rest follows with: nomad deployment promote dep-0000",
			},
		},
		"a client without the driver": {
			eval:  []string{`{"ID":"e","Status":"complete","FailedTGAllocs":{"g":{"NodesEvaluated":2,"NodesFiltered":2,"ConstraintFiltered":{"missing drivers":2}}}}`},
			want:  []string{"evaluation e: complete"},
			fails: `group "g" found no client: missing drivers not fulfilled by 2 of 2 (enable it in the clients' configuration`,
		},
		"no room now, and then there is": {
			eval:   []string{`{"ID":"e","Status":"complete","BlockedEval":"b","FailedTGAllocs":{"g":{"NodesEvaluated":1,"NodesExhausted":1,"DimensionExhausted":{"memory":1}}}}`},
			more:   map[string][]string{"/v1/evaluation/b": {`{"Status":"blocked"}`, `{"Status":"complete"}`}},
			allocs: []string{"[]", allocRuns},
			want: []string{
				"evaluation e: complete", `group "g" found no client: memory exhausted on 1`,
				"allocation allo-000 j.g[0] on n1: running, healthy; after pending, app running, side running",
			},
		},
		"a batch job": {
			eval: []string{evalAlone}, allocs: []string{allocBegin, allocRuns},
			want: []string{
				"evaluation eval-000: complete", "allocation allo-000 j.g[0] on n1: pending; app pending, side running",
				"allocation allo-000 j.g[0] on n1: running, healthy; after pending, app running, side running",
			},
		},
		"a batch job that fails": {
			eval: []string{evalAlone}, allocs: []string{allocFails}, fails: `allocation allo-000 failed and is not replaced; the last trouble: task "side" of allocation allo-000: Driver Failure`,
		},
		"a task that exits": {
			eval: []string{evalAlone}, allocs: []string{allocExits},
			want: []string{
				"evaluation eval-000: complete", "allocation allo-000  on : failed; app dead", `task "app" of allocation allo-000: Terminated: Exit Code: 3`,
				"  its own words: nomad alloc logs -stderr -task app allo-000",
			},
			fails: "Exit Code: 3",
		},
		"an evaluation that fails": {
			eval: []string{`{"ID":"e","Status":"failed","StatusDescription":"maximum attempts reached"}`}, fails: "the evaluation failed: maximum attempts reached",
		},
		"an agent that stays away": {eval: []string{"gone"}, fails: "Nomad answered: gone"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &script{answers: map[string][]string{"/v1/evaluation/eval": tc.eval, "/v1/deployment/dep-0000-1": tc.deploy, "/v1/job/j/allocations": tc.allocs}}
			maps.Copy(s.answers, tc.more)
			got, err := followed(t, s)
			if (err == nil) != (tc.fails == "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("error %v, want one with %q", err, tc.fails)
			}
			if tc.want != nil {
				if diff := cmp.Diff(tc.want, got); diff != "" {
					t.Errorf("lines (-want +got):\n%s", diff)
				}
			}
			for _, q := range s.queries {
				if !strings.Contains(q, "region=eu") || !strings.Contains(q, "namespace=apps") {
					t.Errorf("asked elsewhere than where the job lives: %s", q)
				}
			}
		})
	}
}

func TestRegistrationCarriesTheJobItsTextAndTheIndex(t *testing.T) {
	t.Parallel()
	s := &script{answers: map[string][]string{"/v1/evaluation/eval": {evalAlone}, "/v1/job/j/allocations": {"[]"}}}
	lines, err := followed(t, s)
	if err != nil || !strings.Contains(strings.Join(lines, "\n"), "no allocation is wanted") {
		t.Errorf("error %v, lines %q", err, lines)
	}
	var got struct {
		Job            map[string]any
		EnforceIndex   bool
		JobModifyIndex int
		Submission     struct{ Format, Source string }
	}
	if err := json.Unmarshal([]byte(s.bodies[0]), &got); err != nil {
		t.Fatal(err)
	}
	if got.Job["ID"] != "j" || !got.EnforceIndex || got.JobModifyIndex != 5 || got.Submission.Format != "json" || got.Submission.Source == "" {
		t.Errorf("registered %+v", got)
	}
}

func TestFollowingEndsWhenSomebodyElseRegistersTheJob(t *testing.T) {
	t.Parallel()
	document, err := ReadJSON([]byte(`{"ID":"j"}`))
	if err != nil {
		t.Fatal(err)
	}
	for index, want := range map[uint64]bool{6: true, 7: false, 8: false} { // Nomad gives a new index to a registration that changes nothing
		s := &script{answers: map[string][]string{"/v1/job/j": {`{"Version":3,"JobModifyIndex":7}`}, "/v1/evaluation/eval": {evalAlone}, "/v1/job/j/allocations": {allocRuns}}}
		reg := Registration{EvalID: "eval", job: document.job, index: index}
		_, err := clientOf(t, s).version(t.Context(), reg)
		if superseded := err != nil && strings.Contains(err.Error(), "somebody else"); superseded != want {
			t.Errorf("index %d: error %v", index, err)
		}
	}
}

func TestPeriodicJobIsNotFollowed(t *testing.T) {
	t.Parallel()
	lines, err := followed(t, &script{answers: map[string][]string{"/v1/jobs": {`{"EvalID":""}`}}})
	if err != nil || len(lines) != 1 || !strings.Contains(lines[0], "starts this job later") {
		t.Errorf("error %v, lines %q", err, lines)
	}
}

func TestFollowingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := &script{answers: map[string][]string{"/v1/job/j": {`{"Version":3,"JobModifyIndex":7}`}, "/v1/evaluation/eval": {`{"ID":"e","Status":"pending"}`}}}
	document, err := ReadJSON([]byte(`{"ID":"j"}`))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = clientOf(t, s).Follow(ctx, Registration{EvalID: "eval", job: document.job, index: 7}, func(string) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestRefusalsOfNomadNameTheRemedy(t *testing.T) {
	forbidden := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "Permission denied", http.StatusForbidden) }))
	if _, err := forbidden.Parse(t.Context(), nil, ""); err == nil || !strings.Contains(err.Error(), "Permission denied; set NOMAD_TOKEN") {
		t.Errorf("error %v", err)
	}
	files := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "filesystem function disabled", http.StatusBadRequest)
	}))
	if _, err := files.Parse(t.Context(), nil, ""); err == nil || !strings.Contains(err.Error(), "nomad job run -output") {
		t.Errorf("error %v", err)
	}
	t.Setenv("NOMAD_ADDR", "http://127.0.0.1:1")
	c, err := NewClient()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Parse(t.Context(), nil, ""); err == nil || !strings.Contains(err.Error(), "reach the Nomad agent at http://127.0.0.1:1: dial tcp") || !strings.Contains(err.Error(), "NOMAD_ADDR") {
		t.Errorf("error %v", err)
	}
}
