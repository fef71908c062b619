// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package explain

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

// update rewrites the golden files: go test ./connect/explain -update.
var update = flag.Bool("update", false, "rewrite the golden files")

// made is a host that says what a test has it say.
type made struct {
	out *Outbound
	in  map[string]Inbound // by service
}

func (m made) Outbound(context.Context, Question) *Outbound { return m.out }
func (m made) Inbound(_ context.Context, a Arrival) Inbound { return m.in[a.Service.Name] }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// toward is a way to one target with two endpoints.
func toward(share int, id connect.TargetID, service string) Way {
	return Way{
		Share: share, Node: "resolver:" + string(id), Target: id, Called: connect.Target{ID: id, Service: service}, Arrives: &connect.Head{Path: "/admin"},
		Balance: Setting{"balancing", "peak_ewma", "default"},
		Targets: []Target{{
			ID: id, Service: service, Called: true, SNI: service + ".sni", Expects: []string{"spiffe://td/" + service}, Connect: Setting{"connect timeout", "5s", "default"},
			Endpoints: []Endpoint{
				{ID: "a", Node: "n1", Address: "10.0.0.1:21000", Weight: 1, Chosen: true},
				{ID: "b", Node: "n2", Address: "10.0.0.2:21000", NotUsed: `check "db" is critical`, LastFailure: "refused"},
			},
		}},
	}
}

func web() *Outbound {
	return &Outbound{
		Service: "web", ProxyID: "web-sidecar-proxy", Snapshot: 7, Identity: "spiffe://td/web", Upstream: "api", Listener: "127.0.0.1:9191", Protocol: "http",
		Settings: []Setting{{"request timeout", "3s", "route 2 of the service-router"}, {"retries", "none", "default"}},
	}
}

func api() Inbound {
	return Inbound{
		Service: "api", From: "the sidecar api-sidecar-proxy on this host, snapshot 9", Protocol: "http", Caller: "spiffe://td/web", Path: "/admin",
		Allowed: true, Why: `allowed by intention "web → api" (precedence 9)`, Intention: "web → api", Precedence: 9, Application: "127.0.0.1:8080",
		Settings: []Setting{{"response timeout", "15s", "default"}},
		Written: &Written{
			Entry: `service-intentions "api"`, By: "terraform", Description: "web reads", Meta: map[string]string{"team": "payments"}, Created: 18, Modified: 20,
		},
	}
}

// cases are explanations of every shape.
func cases() map[string]made {
	split := web()
	split.Rule = &Rule{Number: 2, Of: 3, Match: `path prefix "/admin"`, Path: "/new"}
	gone := toward(1000, "v2.api", "api")
	gone.Splitter, gone.Reason, gone.Why, gone.Target, gone.Targets[0].Called = "splitter:api", connect.NoHealthyEndpoint, "no usable endpoint", "", false
	gone.Targets[0].Endpoints = nil
	gone.Targets = append(gone.Targets, Target{
		ID: "v2.api.dc2", Subset: "v2", Filter: "Service.Meta.version == 2", Failover: 1, Through: `mesh gateways of datacenter "dc2"`, Connect: Setting{Value: "2s", Origin: "service-resolver: connect_timeout"},
	})
	most := toward(9000, "v1.api", "api")
	most.Splitter = "splitter:api"
	split.Ways = []Way{most, gone}

	plain := web()
	plain.Ways = []Way{toward(Whole, "api", "api")}
	denied := api()
	denied.Allowed, denied.Reason, denied.Why, denied.Permission = false, connect.IntentionDenied, `denied by permission 2 of intention "web → api" (precedence 9)`, 2
	denied.Permissions = []Permission{{Number: 1, Match: "GET", Action: "allow", Tokens: []string{`of provider "okta"`}}, {Number: 2, Match: "every request", Action: "deny", Decides: true}, {Number: 3, Match: "POST", Action: "allow"}}
	failing := web()
	failing.Ways = plain.Ways
	failing.Lately = &Lately{At: noon.Add(-3 * time.Second), Reason: connect.IdentityMismatch, Why: "the endpoint is somebody else", Endpoint: "10.0.0.1:21000"}
	recovered := api()
	recovered.Lately = &Lately{At: noon.Add(-time.Minute), Reason: connect.AppUnreachable, Why: "connection refused", Since: 12}
	blind := Inbound{Service: "api", Unknown: "the token may not read its intentions"}
	stopped := web()
	stopped.Reason, stopped.Why = connect.NotReady, "its discovery chain has not been heard of yet"
	return map[string]made{
		"served":    {plain, map[string]Inbound{"api": recovered}},
		"split":     {split, map[string]Inbound{"api": api()}},
		"denied":    {plain, map[string]Inbound{"api": denied}},
		"failing":   {failing, map[string]Inbound{"api": api()}},
		"unknown":   {plain, map[string]Inbound{"api": blind}},
		"stopped":   {stopped, map[string]Inbound{"api": api()}},
		"no source": {nil, map[string]Inbound{"api": denied}},
	}
}

func compose(t *testing.T, m made) Explanation {
	t.Helper()
	q, err := New("web", "api", "GET", "/admin?token=s3cret", "", []string{"Authorization: Bearer s3cret"})
	if err != nil {
		t.Fatal(err)
	}
	return Compose(t.Context(), m, q)
}

func TestTextIsAStepPerLineWithTheVerdictLast(t *testing.T) {
	for name, m := range cases() {
		e := compose(t, m)
		var text strings.Builder
		lines := e.Lines(noon)
		for _, l := range lines {
			fmt.Fprintf(&text, "%-12s%s\n", l.Step, l.Text)
		}
		if last := lines[len(lines)-1]; last.Step != "verdict" || last.Text != e.Verdict.Words() {
			t.Errorf("%s: the last line is %+v", name, last)
		}
		path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".txt")
		if *update {
			if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), text.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestVerdictSumsUpWhatTheSidesSay(t *testing.T) {
	for name, want := range map[string]struct {
		served, unknown int
		reason          connect.Reason
		observed        bool
	}{
		"served":    {Whole, 0, "", false},
		"split":     {9000, 0, connect.NoHealthyEndpoint, false},
		"denied":    {0, 0, connect.IntentionDenied, false},
		"failing":   {Whole, 0, connect.IdentityMismatch, true},
		"unknown":   {0, Whole, "", false},
		"stopped":   {0, 0, connect.NotReady, false},
		"no source": {0, 0, connect.IntentionDenied, false},
	} {
		v := compose(t, cases()[name]).Verdict
		if v.Served != want.served || v.Unknown != want.unknown || v.Reason != want.reason || v.Observed != want.observed {
			t.Errorf("%s: %+v, want %+v", name, v, want)
		}
	}
}

// What is judged for the call that is asked about is no guess from the one before,
// and who has seen a failure himself knows more of it.
func TestLatestFailureCountsWhereNothingElseTells(t *testing.T) {
	at := func(seconds int, reason connect.Reason, remote bool, since int64) *Lately {
		return &Lately{At: noon.Add(time.Duration(seconds) * time.Second), Reason: reason, Why: "seen", Remote: remote, Since: since}
	}
	for name, tc := range map[string]struct {
		out, in *Lately
		unknown bool
		want    connect.Reason
	}{
		"of the source":                        {out: at(1, connect.IdentityMismatch, false, 0), want: connect.IdentityMismatch},
		"of the destination":                   {in: at(1, connect.AppUnreachable, false, 0), want: connect.AppUnreachable},
		"of both, the later":                   {out: at(2, connect.RequestTimeout, false, 0), in: at(1, connect.AppUnreachable, false, 0), want: connect.RequestTimeout},
		"of both, who knows more":              {out: at(2, connect.RequestTimeout, true, 0), in: at(1, connect.AppUnreachable, false, 0), want: connect.AppUnreachable},
		"one was served since":                 {out: at(1, connect.IdentityMismatch, false, 1)},
		"another path was denied":              {out: at(1, connect.IntentionDenied, true, 0), in: at(1, connect.IntentionDenied, false, 0)},
		"endpoints that were ill are well":     {out: at(1, connect.NoHealthyEndpoint, false, 0)},
		"endpoints of the other side":          {out: at(1, connect.NoHealthyEndpoint, true, 0), want: connect.NoHealthyEndpoint},
		"a denial by whom nothing is known of": {out: at(1, connect.IntentionDenied, true, 0), unknown: true, want: connect.IntentionDenied},
		"nothing, of whom nothing is known of": {unknown: true},
	} {
		m := cases()["served"]
		out, in := *m.out, api()
		out.Lately, in.Lately = tc.out, tc.in
		if tc.unknown {
			in = Inbound{Service: "api", Unknown: "it is elsewhere"}
		}
		v := compose(t, made{&out, map[string]Inbound{"api": in}}).Verdict
		if v.Reason != tc.want || v.Observed != (tc.want != "") || tc.unknown && !strings.HasPrefix(v.Words(), "cannot be told here") {
			t.Errorf("%s: %+v, want %q", name, v, tc.want)
		}
	}
}

// What a question holds is not told again: it may be somebody's token.
func TestExplanationRepeatsNoSecretOfTheQuestion(t *testing.T) {
	for name, m := range cases() {
		e := compose(t, m)
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range e.Lines(noon) {
			text = append(text, l.Text...)
		}
		if strings.Contains(string(text), "s3cret") {
			t.Errorf("%s: %s", name, text)
		}
	}
}

// Two ways to one service with one request are judged once; another service, or
// another request, is judged for itself.
func TestEachServiceIsJudgedForWhatComesToIt(t *testing.T) {
	out := web()
	out.Ways = []Way{toward(2000, "v1.api", "api"), toward(2000, "v2.api", "api"), toward(2000, "other", "other"), toward(2000, "v3.api", "api"), toward(2000, "v4.api", "api")}
	out.Ways[3].Arrives = &connect.Head{Path: "/admin", Header: connect.Header{"X-User": {"ann"}}}
	out.Ways[4].Arrives = &connect.Head{Path: "/admin", Header: connect.Header{"X-User": {"ann"}}}
	denied := Inbound{Service: "other", Reason: connect.IntentionDenied, Why: "no"}
	e := compose(t, made{out, map[string]Inbound{"api": api(), "other": denied}})
	var services []string
	for _, in := range e.Inbound {
		services = append(services, in.Service)
	}
	if diff := cmp.Diff([]string{"api", "other", "api"}, services); diff != "" {
		t.Errorf("judged (-want +got):\n%s", diff)
	}
	if e.Verdict.Served != 8000 || e.Verdict.Reason != connect.IntentionDenied || len(e.Verdict.Outcomes) != 5 {
		t.Errorf("verdict %+v", e.Verdict)
	}
}
