// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/internal/realserver"
)

func asked(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c, err := NewClient(Config{Address: server.URL, Token: "secret-token"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRightsAreThoseOfARealConsul(t *testing.T) {
	t.Parallel()
	const management = "aaaaaaaa-0000-0000-0000-000000000001"
	server := realserver.StartConsul(t, realserver.Token(management), realserver.HCL(`acl {
		enabled = true
		default_policy = "deny"
		tokens {
			initial_management = "`+management+`"
			agent              = "`+management+`"
		}
	}`))
	var token struct{ SecretID string }
	if err := json.Unmarshal([]byte(server.Command(t, "acl", "token", "create", "-format=json", "-service-identity=web")), &token); err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(Config{Address: server.Addr, Token: management}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wants := []Right{
		{"service", "write", "web"}, {"service", "write", "web-sidecar-proxy"}, {"service", "write", "api"}, {"service", "read", "api"},
		{"node", "read", "any"}, {"intention", "read", "web"}, {"agent", "read", "x"},
	}
	for secret, want := range map[string][]bool{
		"":             {true, true, true, true, true, true, true},
		token.SecretID: {true, true, false, true, true, true, false},
	} {
		got, err := c.Rights(t.Context(), secret, wants)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("rights (-want +got): %v\n%s", err, diff)
		}
	}
	if many, err := c.Rights(t.Context(), token.SecretID, slices.Repeat(wants, 20)); err != nil || len(many) != 140 || !many[133] || many[135] {
		t.Errorf("many at once: %v, %v", many, err)
	}
	if _, err := c.Rights(t.Context(), "bbbbbbbb-0000-0000-0000-00000000dead", wants); err == nil || !strings.Contains(err.Error(), "deleted") {
		t.Errorf("a token that is none: %v", err)
	}
}

func TestRightsThatDoNotAnswerTheQuestionAreRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nothing":          `[]`,
		"no JSON":          `<html>`,
		"another question": `[{"Resource": "service", "Access": "write", "Segment": "other", "Allow": true}]`,
	} {
		c := asked(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
		if got, err := c.Rights(t.Context(), "", []Right{{"service", "write", "web"}}); err == nil || got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestRightsNeverShowTheToken(t *testing.T) {
	t.Parallel()
	c := asked(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Consul-Token") != "other-token" {
			t.Errorf("token %q", r.Header.Get("X-Consul-Token"))
		}
		http.Error(w, "no", http.StatusForbidden)
	})
	_, err := c.Rights(t.Context(), "other-token", []Right{{"service", "write", "web"}})
	if err == nil || strings.Contains(err.Error(), "-token") {
		t.Errorf("error %v", err)
	}
}
