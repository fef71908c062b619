// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/connect/explain"
	"github.com/outrider-mesh/outrider/connect/flow"
	"github.com/outrider-mesh/outrider/hcl"
)

// calling is the configuration of web, which calls api and db, and of api.
func (w *world) calling(t *testing.T, admin string) *hcl.Config {
	t.Helper()
	p := freePorts(t, 6)
	text := fmt.Sprintf(`
consul { address = %q }
admin  { address = "unix://%s" }
drain {
  propagation = "0s"
  timeout = "1s"
}
service {
  name    = "web"
  address = "127.0.0.1"
  port    = %d
  connect {
    sidecar_service {
      port = %d
      proxy {
        upstreams {
          destination_name = "api"
          local_bind_port  = %d
        }
        upstreams {
          destination_name = "db"
          local_bind_port  = %d
        }
      }
    }
  }
}
service {
  name    = "api"
  address = "127.0.0.1"
  port    = %d
  connect {
    sidecar_service {
      port = %d
    }
  }
}`, w.address, admin, p[0], p[1], p[2], p[3], p[4], p[5])
	cfg, err := hcl.Parse("test.hcl", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// explainRig is web and api under one agent, of which api has an intention with
// permissions. db runs nowhere here, and has one too.
func explainRig(t *testing.T, w *world, front *world) *rig {
	t.Helper()
	for _, body := range []string{
		`{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http"}}`,
		`{"Kind":"service-intentions","Name":"api","Meta":{"external-source":"terraform","team":"payments"},"Sources":[{"Name":"web","Description":"reads","Permissions":[
			{"Action":"deny","HTTP":{"PathPrefix":"/admin"}},{"Action":"allow","HTTP":{"PathPrefix":"/","Methods":["GET"]}}]}]}`,
		`{"Kind":"service-intentions","Name":"db","Sources":[{"Name":"web","Action":"deny"}]}`,
		`{"Kind":"service-router","Name":"api","Routes":[{"Match":{"HTTP":{"PathPrefix":"/old"}},"Destination":{"PrefixRewrite":"/admin","RequestTimeout":"3s"}}]}`,
	} {
		w.entry(t, body)
	}
	r := startWith(t, front, func(admin string) *hcl.Config { return front.calling(t, admin) })
	r.waitReady(t)
	until(t, "the chain of api has come to web", func() error {
		if e := r.explain(t, "unix", "source=web&destination=api&method=GET&path=/old"); e.Outbound == nil || e.Outbound.Rule == nil {
			return fmt.Errorf("%+v", e.Outbound)
		}
		return nil
	})
	return r
}

// waitEndpoint waits until the check of api's sidecar has passed, which takes its
// interval.
func (r *rig) waitEndpoint(t *testing.T) {
	t.Helper()
	until(t, "api can be called", func() error {
		if e := r.explain(t, "unix", "source=web&destination=api&method=GET&path=/"); e.Outbound.Ways[0].Target == "" {
			return fmt.Errorf("%+v", e.Outbound.Ways[0])
		}
		return nil
	})
}

// explain asks the handler over a network.
func (r *rig) explain(t *testing.T, network, query string) ExplainAnswer {
	t.Helper()
	code, body := r.explained(t, newExplainer(r.Agent), network, query)
	var out ExplainAnswer
	if err := json.Unmarshal([]byte(body), &out); err != nil || code != http.StatusOK {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	return out
}

func (r *rig) explained(t *testing.T, e *explainer, network, query string) (int, string) {
	t.Helper()
	var at net.Addr = &net.TCPAddr{}
	if network == "unix" {
		at = &net.UnixAddr{Net: "unix"}
	}
	req := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, at), http.MethodGet, "/v1/explain?"+query, nil)
	rec := httptest.NewRecorder()
	e.ServeHTTP(rec, req)
	return rec.Code, rec.Body.String()
}

func (e *ExplainAnswer) text() string {
	var b strings.Builder
	for _, l := range e.Lines {
		b.WriteString(l.Step + " " + l.Text + "\n")
	}
	return b.String()
}

func TestExplainFollowsACallThroughBothSidecarsOfTheHost(t *testing.T) {
	w := newWorld(t)
	r := explainRig(t, w, w)
	r.waitEndpoint(t)
	for name, tc := range map[string]struct {
		query  string
		reason connect.Reason
		says   []string
	}{
		"rewritten into what is denied": {"method=GET&path=/old/x%3Ftoken=s3cret", connect.IntentionDenied, []string{
			`route 1 of 2 of the service-router: path prefix "/old"; the path becomes /admin/x`, "request timeout: 3s (route 1 of the service-router)", "for /admin/x",
		}},
		"a path that is denied": {"method=GET&path=/admin", connect.IntentionDenied, []string{
			"route 2 of 2", `intention "web → api", precedence 9`, `permission 1, deny: path prefix "/admin": decides`, "permission 2, allow: GET, path prefix \"/\": not asked",
		}},
		"a method that no permission is about": {"method=PUT&path=/", "", []string{"permission 2, allow: GET, path prefix \"/\": does not match", "allowed by the default policy"}},
		"one that is allowed":                  {"method=GET&path=/", "", []string{"permission 2, allow: GET, path prefix \"/\": decides", "verdict served"}},
		"a name that is no upstream":           {"method=GET&path=/", connect.NoRoute, []string{"upstream none: web has no upstream \"none\""}},
	} {
		t.Run(name, func(t *testing.T) {
			destination := "api"
			if tc.reason == connect.NoRoute {
				destination = "none"
			}
			e := r.explain(t, "unix", "source=web&destination="+destination+"&"+tc.query)
			if e.Verdict.Reason != tc.reason {
				t.Errorf("verdict %+v, want %q", e.Verdict, tc.reason)
			}
			for _, line := range tc.says {
				if !strings.Contains(e.text(), line) {
					t.Errorf("no %q in\n%s", line, e.text())
				}
			}
			if strings.Contains(e.text()+asJSON(t, e), "s3cret") {
				t.Error("the query is told again")
			}
		})
	}
	t.Run("what happens then", r.happens)
}

// Whoever calls from another host is asked about by name.
func TestExplainSaysWhoWroteTheIntention(t *testing.T) {
	w := newWorld(t)
	r := explainRig(t, w, w)
	e := r.explain(t, "unix", "source=shop&destination=api&method=GET&path=/")
	if e.Outbound != nil || e.Verdict.Reason != "" || e.Inbound[0].Intention != "default policy" {
		t.Errorf("shop has no intention, and gets %+v", e.Verdict)
	}
	e = r.explain(t, "unix", "source=web&destination=api&method=POST&path=/admin/x&header=X-Key:+s3cret")
	in := e.Inbound[0]
	want := &explain.Written{
		Entry: `service-intentions "api"`, Description: "reads", By: "terraform", Meta: map[string]string{"external-source": "terraform", "team": "payments"},
		Created: in.Written.Created, Modified: in.Written.Modified,
	}
	if diff := cmp.Diff(want, in.Written); diff != "" || in.Written.Created == 0 {
		t.Errorf("written (-want +got):\n%s", diff)
	}
	if in.Permission != 1 || in.Reason != connect.IntentionDenied || !strings.Contains(in.From, "api-sidecar-proxy on this host") {
		t.Errorf("%+v", in)
	}
	if strings.Contains(e.text(), "s3cret") {
		t.Error("a header is told again")
	}
}

// db has no sidecar here: the agent asks Consul with its token, for those only
// who may use the socket.
func TestExplainReadsIntentionsOfOthersForTheSocketOnly(t *testing.T) {
	w := newWorld(t)
	r := explainRig(t, w, w)
	const query = "source=api&destination=db&method=GET&path=/"
	direct := "source=shop&destination=db&method=GET&path=/"
	over := r.explain(t, "unix", direct)
	if in := over.Inbound[0]; in.Unknown != "" || in.Intention != "default policy" || !strings.Contains(in.From, "the intentions in Consul") {
		t.Errorf("over the socket: %+v", in)
	}
	w.entry(t, `{"Kind":"service-intentions","Name":"db","Sources":[{"Name":"shop","Action":"deny","Description":"no shop"}]}`)
	if in := r.explain(t, "unix", direct).Inbound[0]; in.Reason != connect.IntentionDenied || in.Written == nil || in.Written.Description != "no shop" {
		t.Errorf("over the socket: %+v", in)
	}
	if in := r.explain(t, "tcp", direct).Inbound[0]; !strings.Contains(in.Unknown, "admin socket") || in.Intention != "" {
		t.Errorf("over TCP: %+v", in)
	}
	if e := r.explain(t, "unix", query); e.Verdict.Reason != connect.NoRoute {
		t.Errorf("api calls nobody, and gets %+v", e.Verdict)
	}
}

func TestTokenThatMayNotReadIsSaidSo(t *testing.T) {
	w := newWorld(t)
	var forbid func(*http.Request) bool
	front := w.behind(t, func(rw http.ResponseWriter, r *http.Request) bool {
		if forbid != nil && forbid(r) {
			http.Error(rw, "Permission denied", http.StatusForbidden)
			return true
		}
		return false
	})
	r := explainRig(t, w, &world{mini: w.mini, address: front.address})
	host := &explainHost{sidecars: r.Agent.explained(), consul: r.consul}
	forbid = func(q *http.Request) bool {
		return strings.Contains(q.URL.RawQuery, "name=db") || strings.Contains(q.URL.Path, "/service-intentions/")
	}
	q, err := explain.New("shop", "db", "GET", "/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	e := explain.Compose(t.Context(), host, q)
	if in := e.Inbound[0]; !strings.Contains(in.Unknown, `intentions:read on service "db"`) || e.Verdict.Unknown != explain.Whole {
		t.Errorf("%+v", in)
	}
	q.Source, q.Destination, q.Path = "web", "api", "/admin"
	if by := host.Inbound(t.Context(), explain.Arrival{Question: q, Service: connect.ServiceName{Name: "api"}}).Written; by == nil || !strings.Contains(by.Problem, `intentions:read on service "api"`) {
		t.Errorf("written %+v", by)
	}
}

// What the admin API saves is enough to ask the same questions later, elsewhere.
func TestSavedAnswerExplainsWhatTheAgentDid(t *testing.T) {
	w := newWorld(t)
	r := explainRig(t, w, w)
	code, saved, err := r.ask("/v1/snapshot")
	if err != nil || code != http.StatusOK {
		t.Fatal(code, err)
	}
	for _, path := range []string{"/admin", "/", "/old/x"} {
		q, err := explain.New("web", "api", "GET", path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ExplainSaved(t.Context(), strings.NewReader(saved), q, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		want := r.explain(t, "unix", url.Values{"source": {"web"}, "destination": {"api"}, "method": {"GET"}, "path": {path}}.Encode())
		for _, e := range []*ExplainAnswer{&got, &want} {
			e.Lines = nil
			for i := range e.Inbound {
				e.Inbound[i].From, e.Inbound[i].Written = "", nil
			}
		}
		if diff := cmp.Diff(asJSON(t, want), asJSON(t, got)); diff != "" {
			t.Errorf("%s (-running +saved):\n%s", path, diff)
		}
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFileThatIsNoAnswerOfTheAgentIsRefused(t *testing.T) {
	q, err := explain.New("web", "api", "", "", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ text, want string }{
		"empty":         {"", "GET /v1/snapshot"},
		"a list":        {"[]", "GET /v1/snapshot"},
		"no sidecar":    {"{}", "there is none"},
		"null":          {`{"web":null}`, "there is none"},
		"another thing": {`{"web":{}}`, `sidecar "web": it names no trust domain`},
		"no identity":   {`{"web":{"TrustDomain":"x.consul"}}`, `sidecar "web": its leaf`},
		"an action":     {`{"web":{"DefaultAction":"maybe"}}`, `action is "maybe"`},
	} {
		if _, err := ExplainSaved(t.Context(), strings.NewReader(tc.text), q, time.Now()); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	endless := io.MultiReader(bytes.NewReader([]byte("{")), io.LimitReader(blanks{}, maxSaved))
	if _, err := ExplainSaved(t.Context(), endless, q, time.Now()); err == nil || !strings.Contains(err.Error(), "longer than 64 MB") {
		t.Errorf("a file without end: %v", err)
	}
}

type blanks struct{}

func (blanks) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestQuestionsThatCannotBeAnsweredAreRefused(t *testing.T) {
	w := newWorld(t)
	r := start(t, w, "api")
	e := newExplainer(r.Agent)
	if code, body := r.explained(t, e, "unix", "source=web"); code != http.StatusBadRequest || !strings.Contains(body, "a source and a destination") {
		t.Errorf("%d %s", code, body)
	}
	for range maxQuestions {
		e.busy <- struct{}{}
	}
	if code, body := r.explained(t, e, "unix", "source=web&destination=api"); code != http.StatusTooManyRequests || !strings.Contains(body, "ask again") {
		t.Errorf("%d %s", code, body)
	}
}

func outboundRecord(upstream connect.UpstreamID, reason connect.Reason, at time.Time) *flow.Record {
	return &flow.Record{Kind: flow.Request, Direction: flow.Outbound, ProxyID: "web-proxy", Upstream: upstream, Reason: reason, Why: "because", Start: at, Endpoint: "10.0.0.1:1"}
}

func TestLatestFailureIsRememberedWithWhatWasServedSince(t *testing.T) {
	l := newLately()
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	l.Done(outboundRecord("api", "", noon))
	if l.outbound("web-proxy", "api") != nil || l.some.Load() {
		t.Error("what was served is remembered as a failure")
	}
	l.Done(outboundRecord("api", connect.ConnectFailed, noon))
	l.Done(outboundRecord("api", connect.IdentityMismatch, noon.Add(time.Second)))
	gone := outboundRecord("api", connect.StreamReset, noon.Add(time.Minute))
	gone.Gone = true
	l.Done(gone)
	want := &explain.Lately{At: noon.Add(time.Second), Reason: connect.IdentityMismatch, Why: "because", Endpoint: "10.0.0.1:1"}
	if diff := cmp.Diff(want, l.outbound("web-proxy", "api")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	l.Done(outboundRecord("api", "", noon))
	l.Done(&flow.Record{Kind: flow.Connection, Direction: flow.Outbound, ProxyID: "web-proxy", Upstream: "api", Requests: 3, Sent: 9}) // of HTTP
	l.Done(&flow.Record{Kind: flow.Connection, Direction: flow.Outbound, ProxyID: "web-proxy", Upstream: "api"})                       // nothing was said
	if got := l.outbound("web-proxy", "api").Since; got != 1 {
		t.Errorf("%d were served since, want 1", got)
	}
	id := connect.Identity{Service: "web", Peer: "east"}
	l.Done(&flow.Record{Kind: flow.Request, Direction: flow.Inbound, ProxyID: "api-proxy", Source: id, Reason: connect.AppUnreachable})
	if got := l.inbound("api-proxy", id); got == nil || got.Reason != connect.AppUnreachable {
		t.Errorf("inbound: %+v", got)
	}
	for _, other := range []*explain.Lately{l.inbound("api-proxy", connect.Identity{Service: "web"}), l.outbound("api-proxy", "api"), l.outbound("web-proxy", "db"), (*lately)(nil).outbound("web-proxy", "api")} {
		if other != nil {
			t.Errorf("somebody else's failure: %+v", other)
		}
	}
}

func TestFailuresAreRememberedOfSoManyPairsAndTheNewestStay(t *testing.T) {
	l := newLately()
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := range maxLately + 10 {
		l.Done(outboundRecord(connect.UpstreamID(fmt.Sprint(i)), connect.ConnectFailed, noon.Add(time.Duration(i)*time.Second)))
	}
	if n := len(*l.seen.Load()); n != maxLately {
		t.Errorf("%d pairs are remembered, want %d", n, maxLately)
	}
	if l.outbound("web-proxy", "9") != nil || l.outbound("web-proxy", "10") == nil {
		t.Error("it was not the oldest that were forgotten")
	}
}

// One failure must not make all that is served wait for each other.
func TestWhatIsServedTakesNoLockAfterAFailure(t *testing.T) {
	l := newLately()
	l.Done(outboundRecord("api", connect.ConnectFailed, time.Now()))
	l.mu.Lock() // as by whoever fails for the first time
	served := make(chan struct{})
	go func() {
		defer close(served)
		l.Done(outboundRecord("api", "", time.Now()))
	}()
	select {
	case <-served:
	case <-time.After(10 * time.Second):
		t.Error("it waits for a lock")
	}
	l.mu.Unlock()
	if got := l.outbound("web-proxy", "api").Since; got != 1 {
		t.Errorf("%d were served since, want 1", got)
	}
	r := outboundRecord("api", "", time.Now())
	if n := testing.AllocsPerRun(100, func() { l.Done(r) }); n > 0 {
		t.Errorf("%.0f allocations", n)
	}
}

// Header and explain agree, before the call on what is configured, and after it on
// what happened: nobody listens where the application should be.
func (r *rig) happens(t *testing.T) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]connect.Reason{"/admin": connect.IntentionDenied, "/": connect.AppUnreachable} {
		query := "/v1/explain?source=web&destination=api&method=GET&path=" + path
		before := r.asked(t, query)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+before.Outbound.Listener+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := connect.Reason(res.Header.Get("X-Outrider-Reason")); got != want {
			t.Errorf("%s: the header says %q (%d), want %q", path, got, res.StatusCode, want)
		}
		after := r.asked(t, query)
		if after.Verdict.Reason != want || (want == connect.IntentionDenied) != (before.Verdict.Reason == want) || after.Verdict.Observed != (want == connect.AppUnreachable) {
			t.Errorf("%s: explained as %+v before and %+v after, want %q", path, before.Verdict, after.Verdict, want)
		}
	}
}

// asked is the answer of the admin API on its socket.
func (r *rig) asked(t *testing.T, path string) ExplainAnswer {
	t.Helper()
	code, body, err := r.ask(path)
	var out ExplainAnswer
	if err != nil || code != http.StatusOK || json.Unmarshal([]byte(body), &out) != nil {
		t.Fatalf("%d %s %v", code, body, err)
	}
	return out
}

// An application that does not answer is nothing that any configuration tells.
func TestVerdictNamesWhatHappenedToTheLatestCall(t *testing.T) {
	w := newWorld(t)
	r := start(t, w, "api")
	r.waitReady(t)
	e := newExplainer(r.Agent)
	snapshot := r.Agent.explained()[0].snapshot
	caller := explain.Question{Source: "shop"}.Caller(snapshot.Service, snapshot.Bundle.TrustDomain, nil)
	e.Done(&flow.Record{Kind: flow.Connection, Direction: flow.Inbound, ProxyID: "api-sidecar-proxy", Source: caller, Reason: connect.AppUnreachable, Why: "connection refused", Start: time.Now()})
	code, body := r.explained(t, e, "unix", "source=shop&destination=api")
	var got ExplainAnswer
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != http.StatusOK {
		t.Fatal(code, body, err)
	}
	if v := got.Verdict; v.Reason != connect.AppUnreachable || !v.Observed || v.Served != explain.Whole {
		t.Errorf("%+v", v)
	}
	if text := got.text(); !strings.Contains(text, "verdict nothing in the configuration refuses it, but the latest one failed: connection refused: app_unreachable\n") {
		t.Errorf("text\n%s", text)
	}
}
