// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package vault

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/internal/meshca"
)

// surveyed asks a server that answers paths with texts, and fails on every write but
// the question what the token may do.
func surveyed(t *testing.T, auth Auth, answers map[string]string) (*Survey, []string, error) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = append(seen, r.Method+" "+r.URL.Path)
		mu.Unlock()
		if r.Method != http.MethodGet && r.URL.Path != "/v1/sys/capabilities-self" {
			t.Errorf("it writes: %s %s", r.Method, r.URL.Path)
		}
		w.Header().Set("Date", "Sat, 21 Nov 2026 11:12:17 GMT")
		code, text, _ := strings.Cut(answers[strings.TrimPrefix(r.URL.Path, "/v1/")], " ")
		switch code {
		case "200":
			_, _ = io.WriteString(w, text)
		case "403":
			http.Error(w, `{"errors": ["permission denied"]}`, http.StatusForbidden)
		default:
			http.Error(w, `{"errors": []}`, http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	c, err := NewClient(Config{Address: server.URL, Auth: auth}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := c.Survey(ctx, []PKI{{Mount: "pki", Role: "mesh-web"}})
	return s, seen, err
}

const healthy = `200 {"initialized": true, "sealed": false, "version": "1.21.0"}`

func TestSurveyOfVaultTellsWhatItTells(t *testing.T) {
	t.Parallel()
	ca := meshca.New("the issuer")
	s, _, err := surveyed(t, Auth{Method: TokenMethod, Token: "hvs.secret-token"}, map[string]string{
		"sys/health": healthy, "auth/token/lookup-self": `200 {"data": {"ttl": 3600, "creation_ttl": 7200, "renewable": true}}`,
		"sys/capabilities-self": `200 {"data": {"capabilities": ["update"], "pki/sign/mesh-web": ["update"]}}`,
		"pki/ca_chain":          "200 " + meshca.PEM(ca.Cert), "pki/roles/mesh-web": `200 {"data": {"allowed_uri_sans": ["spiffe://*/svc/web"], "require_cn": true, "key_type": "rsa"}}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := s.PKIs[0]
	switch {
	case s.Version != "1.21.0" || s.Sealed || !s.Initialized || s.Date.Hour() != 11:
		t.Errorf("survey %+v", s)
	case s.Token == nil || s.Token.TTL != time.Hour || !s.Token.Renewable:
		t.Errorf("token %+v, %v", s.Token, s.TokenErr)
	case !p.MaySign || p.Role == nil || !p.Role.RequireCN || p.Role.KeyType != "rsa" || !p.Role.Allows("spiffe://x/svc/web") || p.Role.Allows("spiffe://x/svc/api"):
		t.Errorf("role %+v, %v, %v", p, p.RoleErr, p.MaySignErr)
	case len(p.Chain) != 1 || !p.Chain[0].Equal(ca.Cert):
		t.Errorf("chain %v, %v", p.Chain, p.ChainErr)
	}
}

func TestSurveyDoesNotLogIn(t *testing.T) {
	t.Parallel()
	s, seen, err := surveyed(t, Auth{Method: AppRoleMethod, RoleID: "role", SecretID: "secret"}, map[string]string{"sys/health": healthy})
	if err != nil || s.Token != nil || s.TokenErr != nil || len(seen) == 0 {
		t.Errorf("survey %+v, %v after %v", s, err, seen)
	}
	if s.PKIs[0].ChainErr == nil {
		t.Error("a mount that is not there has a chain")
	}
}

func TestSurveyOfASealedVaultAsksNothingMore(t *testing.T) {
	t.Parallel()
	s, seen, err := surveyed(t, Auth{Method: TokenMethod, Token: "hvs.secret-token"}, map[string]string{"sys/health": `200 {"initialized": true, "sealed": true}`})
	if err != nil || !s.Sealed || len(seen) != 1 {
		t.Errorf("survey %+v, %v after %v", s, err, seen)
	}
}

func TestSurveyKeepsRefusalsOfVaultWithoutTheToken(t *testing.T) {
	t.Parallel()
	s, _, err := surveyed(t, Auth{Method: TokenMethod, Token: "hvs.secret-token"}, map[string]string{"sys/health": healthy, "auth/token/lookup-self": "403 ", "pki/ca_chain": "200 nonsense"})
	if err != nil || s.TokenErr == nil || strings.Contains(s.TokenErr.Error(), "secret-token") || s.Token != nil {
		t.Errorf("survey %+v, %v", s, err)
	}
	if e := s.PKIs[0].ChainErr; e == nil || !strings.Contains(e.Error(), "PKI mount") {
		t.Errorf("chain %v", e)
	}
}

func TestRoleThatIsNotThereIsToldFromOneThatMayNotBeRead(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]bool{"404 ": true, "403 ": false} {
		s, _, err := surveyed(t, Auth{Method: TokenMethod, Token: "hvs.secret-token"}, map[string]string{
			"sys/health": healthy, "auth/token/lookup-self": `200 {"data": {"ttl": 0, "creation_ttl": 0}}`, "pki/roles/mesh-web": answer,
		})
		if err != nil {
			t.Fatal(err)
		}
		if p := s.PKIs[0]; p.Role != nil || (p.RoleErr != nil) != want {
			t.Errorf("%s: %v", answer, p.RoleErr)
		}
	}
}

func TestSomethingElseThanVaultIsNamed(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{"200 <html>", "200 {}", "404 "} {
		if s, _, err := surveyed(t, Auth{Method: TokenMethod, Token: "t"}, map[string]string{"sys/health": answer}); err == nil {
			t.Errorf("%q is taken for Vault: %+v", answer, s)
		}
	}
}

func TestStarsStandForAnything(t *testing.T) {
	t.Parallel()
	for pattern, matches := range map[string]map[string]bool{
		"spiffe://a/svc/web": {"spiffe://a/svc/web": true, "spiffe://a/svc/web2": false},
		"spiffe://a/*":       {"spiffe://a/svc/web": true, "spiffe://b/svc/web": false},
		"*/svc/web":          {"spiffe://a/svc/web": true, "/svc/web/x": false},
		"a*b*a":              {"aba": true, "axbya": true, "ab": false, "aa": false},
		"a*a":                {"a": false, "aa": true},
		"*":                  {"": true, "x": true},
	} {
		for text, want := range matches {
			if glob(pattern, text) != want {
				t.Errorf("%q and %q: %t", pattern, text, !want)
			}
		}
	}
}
