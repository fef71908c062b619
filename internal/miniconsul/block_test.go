// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func newServer(t *testing.T) *Server {
	t.Helper()
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ask calls a handler without a network, so that it works in a bubble.
func ask(ctx context.Context, s *Server, method, path, body string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, path, strings.NewReader(body)).WithContext(ctx)
	request.Host = "localhost"
	w := httptest.NewRecorder()
	s.serve(w, request)
	return w
}

func TestWaitTimesAreThoseConsulDocuments(t *testing.T) {
	t.Parallel()
	for wait, least := range map[string]time.Duration{
		"": 5 * time.Minute, "&wait=0s": 5 * time.Minute, "&wait=30s": 30 * time.Second, "&wait=10m": 10 * time.Minute, "&wait=1h": 10 * time.Minute,
	} {
		t.Run("wait"+wait, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newServer(t)
				began := time.Now()
				w := ask(t.Context(), s, http.MethodGet, "/v1/config/mesh?index=1000"+wait, "")
				if took := time.Since(began); took < least || took > least+least/16 {
					t.Errorf("took %s, want %s and up to a sixteenth more", took, least)
				}
				if w.Code != http.StatusOK || w.Body.String() != "[]" {
					t.Errorf("status %d: %s", w.Code, w.Body)
				}
			})
		})
	}
}

func TestAClientThatLeavesEndsItsQuery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan any, 1)
		go func() {
			defer func() { ended <- recover() }()
			ask(ctx, s, http.MethodGet, "/v1/config/mesh?index=1000", "")
		}()
		synctest.Wait()
		cancel()
		if got, _ := (<-ended).(error); !errors.Is(got, http.ErrAbortHandler) {
			t.Errorf("the handler ended with %v, want no answer", got)
		}
	})
}

func TestAChangeElsewhereWakesNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		began := time.Now()
		done := make(chan time.Duration, 1)
		at := s.state.at(configTopic)
		go func() {
			ask(t.Context(), s, http.MethodGet, fmt.Sprintf("/v1/discovery-chain/api?wait=60s&index=%d", at), "")
			done <- time.Since(began)
		}()
		for _, step := range []struct {
			after time.Duration
			entry string
		}{
			{10 * time.Second, `{"Kind":"service-resolver","Name":"other","ConnectTimeout":"1s"}`},
			{20 * time.Second, `{"Kind":"service-resolver","Name":"api","ConnectTimeout":"1s"}`},
		} {
			time.Sleep(step.after - time.Since(began))
			if w := ask(t.Context(), s, http.MethodPut, "/v1/config", step.entry); w.Code != http.StatusOK {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			synctest.Wait()
		}
		if took := <-done; took != 20*time.Second {
			t.Errorf("woken after %s, want 20s: at the change of its own chain", took)
		}
	})
}

func TestATTLCheckExpiresUnlessItIsHeardOf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.runChecks(ctx); close(ended) }()
		status := func() string {
			synctest.Wait()
			var views map[string]checkView
			if err := json.Unmarshal(ask(ctx, s, http.MethodGet, "/v1/agent/checks", "").Body.Bytes(), &views); err != nil {
				t.Fatal(err)
			}
			return views["service:api"].Status + "/" + views["service:alias"].Status
		}
		expect := func(when, want string) {
			if got := status(); got != want {
				t.Errorf("%s: check/alias are %s, want %s", when, got, want)
			}
		}
		for _, body := range []string{
			`{"Name":"api","Check":{"TTL":"30s","Status":"passing"}}`, `{"Name":"alias","Check":{"AliasService":"api"}}`,
		} {
			if w := ask(ctx, s, http.MethodPut, "/v1/agent/service/register", body); w.Code != http.StatusOK {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
		}
		time.Sleep(29 * time.Second)
		expect("before the TTL", "passing/passing")
		ask(ctx, s, http.MethodPut, "/v1/agent/check/warn/service:api", "")
		time.Sleep(29 * time.Second)
		expect("within the TTL of the heartbeat", "warning/warning")
		time.Sleep(time.Second)
		expect("after it", "critical/critical")
		ask(ctx, s, http.MethodPut, "/v1/agent/check/pass/service:api", "")
		expect("after another heartbeat", "passing/passing")
		time.Sleep(30 * time.Second)
		expect("and its TTL", "critical/critical")
		cancel()
		<-ended
	})
}

func TestALeafIsRenewedBeforeItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		read := func(index uint64) (leafView, time.Duration) {
			began := time.Now()
			w := ask(t.Context(), s, http.MethodGet, fmt.Sprintf("/v1/agent/connect/ca/leaf/api?wait=10m&index=%d", index), "")
			var v leafView
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
				t.Fatal(err)
			}
			return v, time.Since(began)
		}
		first, _ := read(0)
		for range 6 * 53 { // nearly 54 h, ten minutes each
			time.Sleep(10 * time.Minute)
		}
		if same, _ := read(0); same != first {
			t.Error("the leaf was renewed early")
		}
		time.Sleep(55 * time.Minute)
		second, took := read(first.ModifyIndex)
		if second.SerialNumber == first.SerialNumber || second.ModifyIndex <= first.ModifyIndex || second.PrivateKeyPEM == first.PrivateKeyPEM {
			t.Error("the leaf was not renewed after three quarters of its life")
		}
		if took < 4*time.Minute || took > 6*time.Minute {
			t.Errorf("the waiting query was answered after %s, want about 5m: when it was time", took)
		}
	})
}

func TestFailuresInARowAreCounted(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	body := `{"Name":"a","Check":{"TCP":"127.0.0.1:1","Interval":"1s","FailuresBeforeWarning":2,"FailuresBeforeCritical":3,"SuccessBeforePassing":2,"Status":"passing"}}`
	if w := ask(t.Context(), s, http.MethodPut, "/v1/agent/service/register", body); w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	c := s.state.checks["service:a"]
	for i, step := range [][2]string{
		{critical, passing}, {critical, warning}, {critical, critical}, {passing, critical}, {critical, critical}, {passing, critical}, {passing, passing},
	} {
		s.state.observe(c.id, c.generation, step[0], "")
		if c.status != step[1] {
			t.Errorf("after result %d, %s: %s, want %s", i+1, step[0], c.status, step[1])
		}
	}
	s.state.observe(c.id, c.generation+1, warning, "")
	if c.status != passing {
		t.Error("the result of a check that was replaced counted")
	}
}

func TestAliasesInACircleEnd(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, body := range []string{`{"Name":"a","Check":{"AliasService":"b"}}`, `{"Name":"b","Check":{"AliasService":"a"}}`} {
		if w := ask(t.Context(), s, http.MethodPut, "/v1/agent/service/register", body); w.Code != http.StatusOK {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	}
	if got := len(s.state.checks); got != 2 {
		t.Errorf("%d checks, want 2", got)
	}
}

func FuzzFilter(f *testing.F) {
	for _, seed := range []string{`Service.Meta.version == "1"`, "`x` not in Service.Tags and Service.Meta[\"a\"] != b", `"`, "Service.Meta.a == b and"} {
		f.Add(seed)
	}
	d := definition{Meta: map[string]string{"a": "b"}, Tags: []string{"x"}}
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := parseFilter(text)
		if err != nil && parsed != nil {
			t.Error("a filter with an error was returned")
		}
		if err == nil && len(parsed) == 0 && strings.TrimSpace(text) != "" {
			t.Errorf("%q was read as no filter at all", text)
		}
		parsed.match(d)
	})
}

func FuzzRequests(f *testing.F) {
	f.Add("/v1/config", `{"Kind":"service-resolver","Name":"a","Failover":{"*":{"Targets":[{"Service":"b"}]}},"Redirect":null}`)
	f.Add("/v1/config", `{"kind":"service-intentions","name":"*","sources":[{"name":"a","action":"deny"}]}`)
	f.Add("/v1/config", `{"Kind":"service-defaults","Name":"a","UpstreamConfig":{"Overrides":[null],"Defaults":{"Limits":{}}}}`)
	f.Add("/v1/agent/service/register", `{"Name":"a","Checks":[null],"Connect":{"SidecarService":{"Proxy":null,"Checks":[{"TTL":1}]}}}`)
	f.Add("/v1/agent/check/update/service:a", `{"Status":"passing"}`)
	f.Add("/v1/connect/ca/configuration", `{"Provider":"consul","Config":{"RootCert":"x","PrivateKey":"-----BEGIN X-----"}}`)
	s, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path, body string) {
		switch path {
		case "/v1/config", "/v1/agent/service/register", "/v1/agent/check/update/service:a", "/v1/connect/ca/configuration":
		default:
			return
		}
		ask(t.Context(), s, http.MethodPut, path, body)
		for _, read := range []string{"/v1/agent/services", "/v1/agent/checks", "/v1/health/connect/a", "/v1/discovery-chain/a", "/v1/connect/intentions", "/v1/config/service-resolver"} {
			if w := ask(t.Context(), s, http.MethodGet, read, ""); w.Code != http.StatusOK {
				t.Errorf("after PUT %s %q: GET %s: status %d: %s", path, body, read, w.Code, w.Body)
			}
		}
	})
}
