// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func surveyed(t *testing.T, token string, answers map[string]func(http.ResponseWriter)) (*Survey, error) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", "Sat, 21 Nov 2026 11:12:17 GMT")
		if answer := answers[r.URL.Path]; answer != nil {
			answer(w)
			return
		}
		http.Error(w, "Permission denied", http.StatusForbidden)
	}))
	t.Cleanup(server.Close)
	c, err := NewClient(Config{Address: server.URL, Token: token}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Survey(t.Context())
}

func tells(text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { _, _ = w.Write([]byte(text)) }
}

func denies(code int, text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { http.Error(w, text, code) }
}

func TestSurveyTellsWhatConsulTells(t *testing.T) {
	t.Parallel()
	got, err := surveyed(t, "secret-token", map[string]func(http.ResponseWriter){
		"/v1/status/leader": tells(`"10.0.0.1:8300"`), "/v1/agent/self": tells(`{"Config": {"Version": "1.22.3"}}`),
		"/v1/agent/connect/ca/roots": tells(`{"Roots": [{"ID": "a"}, {"ID": "b"}]}`),
		"/v1/acl/token/self":         tells(`{"AccessorID": "acc", "SecretID": "secret-token", "Policies": [{"Name": "p"}], "ServiceIdentities": [{"ServiceName": "web"}], "ExpirationTime": "2026-11-22T00:00:00Z"}`),
		"/v1/agent/checks": tells(`{
			"b": {"ServiceID": "web-sidecar-proxy", "Name": "b", "Status": "critical", "Output": "HTTP GET http://10.0.0.7:21500/: 500 Internal Server Error Output: password=hunter2"},
			"a": {"ServiceID": "web-sidecar-proxy", "Name": "a", "Status": "critical", "Output": "dial tcp 10.0.0.7:21000:\n\tconnect: connection refused"},
			"c": {"ServiceID": "web", "Name": "c", "Status": "passing", "Output": "fine"},
			"d": {"Name": "d", "Status": "warning", "Output": "` + strings.Repeat("long ", 60) + `"}}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &Survey{
		Address: got.Address, Leader: "10.0.0.1:8300", Date: time.Date(2026, 11, 21, 11, 12, 17, 0, time.UTC), Version: "1.22.3", Roots: 2,
		Token: &TokenSurvey{Accessor: "acc", Grants: []string{"policy p", "service identity web"}, Expires: time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)},
		Failing: []FailingCheck{
			{Name: "d", Status: "warning", Output: strings.Repeat("long ", 40) + "…"},
			{ServiceID: "web-sidecar-proxy", Name: "a", Status: "critical", Output: "dial tcp 10.0.0.7:21000: connect: connection refused"},
			{ServiceID: "web-sidecar-proxy", Name: "b", Status: "critical", Output: "HTTP GET http://10.0.0.7:21500/: 500 Internal Server Error"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("survey (-want +got):\n%s", diff)
	}
}

func TestSurveyKeepsEachRefusalWithoutTheToken(t *testing.T) {
	t.Parallel()
	got, err := surveyed(t, "secret-token", map[string]func(http.ResponseWriter){
		"/v1/status/leader":          tells(`"10.0.0.1:8300"`),
		"/v1/agent/connect/ca/roots": denies(http.StatusInternalServerError, "Connect must be enabled in order to use this endpoint"),
		"/v1/acl/token/self":         denies(http.StatusForbidden, "ACL not found"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for want, err := range map[string]error{"agent:read": got.VersionErr, "Connect must be enabled": got.RootsErr, "ACL not found": got.TokenErr} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret-token") {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestSurveyKnowsConsulWithoutACLs(t *testing.T) {
	t.Parallel()
	got, err := surveyed(t, "any", map[string]func(http.ResponseWriter){
		"/v1/status/leader": tells(`"10.0.0.1:8300"`), "/v1/acl/token/self": denies(http.StatusUnauthorized, "ACL support disabled"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.TokenErr != nil || got.Token == nil || !got.Token.Disabled {
		t.Errorf("token %+v, error %v; want one that is not looked at", got.Token, got.TokenErr)
	}
}

func TestSurveyOfNobodySaysWhatToCheck(t *testing.T) {
	t.Parallel()
	if _, err := surveyed(t, "", nil); err == nil || !strings.Contains(err.Error(), "ask Consul for its leader") {
		t.Errorf("error %v", err)
	}
}
