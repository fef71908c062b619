// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package jobs

import (
	"net/http"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/nomad/api"
)

// A text is given out only when Nomad has read it again and found the injected job.
func TestTextThatMeansAnotherJobIsNotGivenOut(t *testing.T) {
	t.Parallel()
	const text = "job \"j\" {\n  group \"g\" {\n    service {\n      name = \"web\"\n      connect {\n        sidecar_service {}\n      }\n    }\n  }\n}\n"
	before := inGroup(bridged, meshedWeb)
	document, err := ReadJSON([]byte(before))
	if err != nil {
		t.Fatal(err)
	}
	changes, err := Inject(document.job, DefaultSettings())
	if err != nil {
		t.Fatal(err)
	}
	injected, err := document.with(changes.Services)
	if err != nil {
		t.Fatal(err)
	}
	after, err := injected.JSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ again, want string }{
		"the injected job":  {string(after), ""},
		"the job as before": {before, "would mean another job"},
		"one more change":   {strings.Replace(string(after), `"bridge"`, `"host"`, 1), "would mean another job"},
		"no job":            {"there is an error", "is not a job to Nomad"},
	} {
		nomad := clientOf(t, &script{answers: map[string][]string{"/v1/jobs/parse": {before, tc.again}}})
		got, err := nomad.InjectSource(t.Context(), Source{Name: "j.nomad.hcl", Text: []byte(text)}, DefaultSettings())
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want == "" && (got.Unwritten != nil || !strings.Contains(string(got.Text), "sidecar_task {")):
			t.Errorf("%s: unwritten %v, text %s", name, got.Unwritten, got.Text)
		case tc.want != "" && (got.Unwritten == nil || !strings.Contains(got.Unwritten.Error(), tc.want) || got.Text != nil):
			t.Errorf("%s: unwritten %v, text %q; want no text and %q", name, got.Unwritten, got.Text, tc.want)
		}
		if !got.Job.equal(injected) {
			t.Errorf("%s: the job to be registered is another one", name)
		}
	}
}

func TestAnEmptyBlockIsNotTheAbsenceOfOne(t *testing.T) {
	t.Parallel()
	for other, want := range map[string]bool{
		`{"ID":"j","A":null,"B":"","C":false,"D":[],"Connect":{"SidecarService":{}}}`: true,
		`{"ID":"j","Connect":{}}`: false,
		`{"ID":"j"}`:              false,
		`{"ID":"j","Connect":{"SidecarService":{"Port":"1"}}}`: false,
		`{"ID":"j","N":0,"Connect":{"SidecarService":{}}}`:     false,
	} {
		a, err := ReadJSON([]byte(`{"ID":"j","Connect":{"SidecarService":{}}}`))
		if err != nil {
			t.Fatal(err)
		}
		b, err := ReadJSON([]byte(other))
		if err != nil {
			t.Fatal(err)
		}
		if got := a.equal(b); got != want {
			t.Errorf("%s: equal %t", other, got)
		}
	}
	if _, err := ReadJSON([]byte(`{"ID":"j"}` + strings.Repeat(" ", maxJob))); err == nil || !strings.Contains(err.Error(), "more than the limit") {
		t.Errorf("a job without an end: %v", err)
	}
}

func alloc(id, desired, client, more string) string {
	return `{"ID":"` + id + `","JobVersion":3,"TaskGroup":"g","DesiredStatus":"` + desired + `","ClientStatus":"` + client + `"` + more + `}`
}

func TestFollowingKnowsWhenAJobHasArrived(t *testing.T) {
	t.Parallel()
	runs := alloc("b", "run", "running", `,"TaskStates":{"app":{"State":"running"}}`)
	for name, tc := range map[string]struct {
		eval, deploy, allocs []string
		looks                int // at allocations, at least
		fails                string
	}{
		"a failure that Nomad will replace": {
			allocs: []string{
				"[" + alloc("a", "run", "failed", `,"FollowupEvalID":"f"`) + "]",
				"[" + alloc("a", "run", "failed", `,"NextAllocation":"b"`) + "," + runs + "]",
			}, looks: 2,
		},
		"a failure of one that was stopped":  {allocs: []string{"[" + alloc("a", "stop", "failed", "") + "," + runs + "]"}},
		"a task that has not begun":          {allocs: []string{"[" + alloc("b", "run", "running", `,"TaskStates":{"app":{"State":"pending"}}`) + "]", "[" + runs + "]"}, looks: 2},
		"a failure that nobody will replace": {allocs: []string{"[" + alloc("a", "run", "failed", "") + "," + runs + "]"}, fails: "failed and is not replaced"},
		"one that is complete":               {allocs: []string{"[" + alloc("a", "run", "complete", `,"TaskStates":{"app":{"State":"dead"}}`) + "]"}},
		"an agent that goes away twice": {
			eval: []string{
				"gone", "gone", "gone", "gone", "gone", "gone", `{"ID":"e","Status":"pending"}`,
				"gone", "gone", "gone", "gone", "gone", "gone", evalAlone,
			}, allocs: []string{"[" + runs + "]"},
		},
		"an evaluation that is cancelled": {eval: []string{`{"ID":"e","Status":"canceled","StatusDescription":"too late"}`}, fails: "too late"},
		"a deployment that is cancelled": {
			eval: []string{evalDone}, allocs: []string{"[]"}, deploy: []string{deployment("cancelled", "Cancelled due to newer version of job", group("1", "0", ""))},
			fails: "newer version",
		},
		"canaries that are not healthy yet": {
			eval: []string{evalDone}, allocs: []string{"[]", "[]", "[]"}, looks: 2,
			deploy: []string{deployment("running", "waits", group("1", "0", `,"DesiredCanaries":1`)), deployment("running", "waits", group("1", "1", `,"DesiredCanaries":1`))},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tc.eval == nil {
				tc.eval = []string{evalAlone}
			}
			s := &script{answers: map[string][]string{"/v1/evaluation/eval": tc.eval, "/v1/deployment/dep-0000-1": tc.deploy, "/v1/job/j/allocations": tc.allocs}}
			lines, err := followed(t, s)
			if (err == nil) != (tc.fails == "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("error %v, want one with %q; lines %q", err, tc.fails, lines)
			}
			if n := s.asked["/v1/job/j/allocations"]; n < tc.looks {
				t.Errorf("it arrived after %d looks, want %d", n, tc.looks)
			}
		})
	}
}

func TestPromotionWaitsForEveryGroup(t *testing.T) {
	t.Parallel()
	ready := &api.DeploymentState{DesiredCanaries: 1, HealthyAllocs: 1, DesiredTotal: 3}
	for name, tc := range map[string]struct {
		groups map[string]*api.DeploymentState
		want   bool
	}{
		"canaries are healthy":        {map[string]*api.DeploymentState{"a": ready, "b": nil}, true},
		"a canary is not":             {map[string]*api.DeploymentState{"a": ready, "b": {DesiredCanaries: 2, HealthyAllocs: 1}}, false},
		"a group without is not yet":  {map[string]*api.DeploymentState{"a": ready, "b": {DesiredTotal: 2, HealthyAllocs: 1}}, false},
		"a group without is, as well": {map[string]*api.DeploymentState{"a": ready, "b": {DesiredTotal: 2, HealthyAllocs: 2}}, true},
		"promoted":                    {map[string]*api.DeploymentState{"a": {DesiredCanaries: 1, HealthyAllocs: 1, DesiredTotal: 1, Promoted: true}}, false},
	} {
		if got := waitsForPromotion(tc.groups); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestOnlyAPlacementThatCanComeIsWaitedFor(t *testing.T) {
	t.Parallel()
	missing := map[string]int{"missing drivers": 1}
	for name, tc := range map[string]struct {
		metric *api.AllocationMetric
		waits  bool
	}{
		"no word":               {nil, true},
		"no node":               {&api.AllocationMetric{}, true},
		"none has it":           {&api.AllocationMetric{NodesEvaluated: 1, ConstraintFiltered: missing}, false},
		"one has it, no room":   {&api.AllocationMetric{NodesEvaluated: 2, NodesExhausted: 1, ConstraintFiltered: missing}, true},
		"one has it, no quota":  {&api.AllocationMetric{NodesEvaluated: 2, QuotaExhausted: []string{"cpu"}, ConstraintFiltered: missing}, true},
		"all have it, no place": {&api.AllocationMetric{NodesEvaluated: 1}, true},
	} {
		if words, waits := explainPlacement(tc.metric); waits != tc.waits || words == "" {
			t.Errorf("%s: %q, waits %t", name, words, waits)
		}
	}
	oom := eventWords(&api.TaskEvent{DisplayMessage: "OOM Killed", Details: map[string]string{"oom_killed": "true"}})
	if !strings.Contains(oom, "more memory than resources") {
		t.Errorf("out of memory: %q", oom)
	}
}

// Root opens what such a name leads to.
func TestNamesThatLeadOutOfAFolderAreNone(t *testing.T) {
	t.Parallel()
	p := places{allocs: "/allocs"}
	for _, bad := range []string{"", ".", "..", "a/b", "a/../..", "/etc", `a\b`, "a\x00b"} {
		if got := p.socket(bad, "task"); got != "" {
			t.Errorf("allocation %q: %s", bad, got)
		}
		if got := p.socket("alloc", bad); got != "" {
			t.Errorf("task %q: %s", bad, got)
		}
	}
	if got := p.socket("alloc", "..task"); got != "/allocs/alloc/..task/secrets/outrider.sock" {
		t.Errorf("a plain name: %q", got)
	}
}

func TestTheTableOfMountsIsReadToALimit(t *testing.T) {
	t.Parallel()
	const mount = "64 43 0:40 / /tmp/n/alloc/task/secrets rw - tmpfs tmpfs rw\n"
	filler := strings.Repeat("1 1 0:1 / /"+strings.Repeat("x", 60000)+" rw\n", 300)
	for name, tc := range map[string]struct {
		text string
		want map[string]string
	}{
		"within":               {mount, map[string]string{"alloc/task": "/tmp/n/alloc/task"}},
		"beyond":               {filler + mount, map[string]string{}},
		"no folder of secrets": {strings.Replace(mount, "/secrets", "/xsecrets", 1), map[string]string{}},
	} {
		got := secretMounts(fstest.MapFS{"proc/self/mountinfo": {Data: []byte(tc.text)}})
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestTheDefaultConsulIsThatOfTheNodeWhereverItStands(t *testing.T) {
	for _, list := range []string{
		`{"Name":"east","Addr":"e:1"},{"Name":"default","Addr":"d:1"}`,
		`{"Name":"default","Addr":"d:1"},{"Name":"east","Addr":"e:1"}`,
	} {
		c := fakeNomad(t, map[string]string{"/v1/agent/self": `{"config":{"Consuls":[` + list + `]}}`})
		if n, err := c.Node(t.Context()); err != nil || n.ConsulAddress != "d:1" {
			t.Errorf("%s: %+v, %v", list, n, err)
		}
	}
}

func TestWordsOfOthersAreFitForATerminal(t *testing.T) {
	t.Parallel()
	if got := clean("a\nb\tc\x1b[2Jd\u202ee\u0085"); got != "a b c[2Jde" {
		t.Errorf("%q", got)
	}
	if got := clean(strings.Repeat("é", 5000)); len(got) > 2010 || !utf8.ValidString(got) || !strings.HasSuffix(got, "…") {
		t.Errorf("%d bytes, valid %t", len(got), utf8.ValidString(got))
	}
	forbidden := clientOf(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "\x1b[2J", http.StatusForbidden) }))
	if _, err := forbidden.Node(t.Context()); err == nil || strings.Contains(err.Error(), "\x1b") || !strings.Contains(err.Error(), "NOMAD_TOKEN") {
		t.Errorf("error %q", err)
	}
}
