// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/outrider-mesh/outrider/agent/watch"
)

func TestOnlyATokenThatDoesNotExistCountsAsUnknown(t *testing.T) {
	for _, tt := range []struct {
		code int
		body string
		want bool
	}{
		{403, "ACL not found", true},
		{403, "rpc error making call: ACL not found\n", true},
		{401, "ACL not found", true},
		{403, "Permission denied: token with AccessorID 'x' lacks permission 'service:read' on \"web\"", false},
		{403, "Permission denied: anonymous token lacks permission 'service:read' on \"ACL not found\"", false},
		{403, `ACL not found: auth method "wi" not found`, false},
		{404, "ACL not found", false},
		{500, "ACL not found", false},
		{401, "Unauthorized", false},
	} {
		if got := unknownToken(tt.code, tt.body); got != tt.want {
			t.Errorf("%d %q: %t, want %t", tt.code, tt.body, got, tt.want)
		}
	}
}

// given makes a token file, its source and what that logs.
func given(t *testing.T, content string) (*token, *seat, *journal) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "si_token")
	if content != "" {
		put(t, file, content)
	}
	log, s := &journal{}, newSeat()
	return newToken(Config{TokenFile: file}, s, hclog.New(&hclog.LoggerOptions{Output: log})), s, log
}

func TestATokenThatDiedIsExplainedOnceAndAnotherInItsFileIsTakenUpWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, s, log := given(t, "secret-1\n")
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() { source.run(ctx); close(done) }()
		if st := source.status(); st != nil {
			t.Errorf("status %+v of a token that is fine", st)
		}
		changed := s.changed()
		for range 100 {
			source.unknown("secret-1")
			source.unknown("another")
			time.Sleep(time.Second)
		}
		st := source.status()
		if len(st) != 1 || !strings.Contains(st[0].Source, "si_token") || st[0].Err == nil || !strings.Contains(st[0].Err.Error(), "login block") {
			t.Errorf("status %+v", st)
		}
		if n := strings.Count(log.String(), "[WARN]"); n != 1 || !strings.Contains(log.String(), "si_token") || !strings.Contains(log.String(), "MaxTokenTTL") {
			t.Errorf("%d warnings, want one with file and remedy:\n%s", n, log)
		}
		put(t, source.file, "secret-2\n")
		began := time.Now()
		<-changed // nobody asks for the token meanwhile
		if waited := time.Since(began); waited > lookAgain {
			t.Errorf("taken up after %s", waited)
		}
		if token, _, _ := s.get(); token != "secret-2" || source.status() != nil {
			t.Errorf("token %q, status %+v", token, source.status())
		}
		cancel()
		<-done
		if strings.Contains(log.String(), "secret") {
			t.Errorf("a token is in the log:\n%s", log)
		}
	})
}

func TestAFileThatComesLaterIsTakenUpWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, s, _ := given(t, "")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { source.run(ctx); close(done) }()
		_, err := source.current(ctx)
		wantError(t, err, "si_token", "create the file or correct token_file")
		time.Sleep(time.Minute)
		put(t, source.file, "secret-1\n")
		began := time.Now()
		<-s.changed()
		if waited := time.Since(began); waited > lookAgain {
			t.Errorf("taken up after %s", waited)
		}
		cancel()
		<-done
	})
}

func TestARequestWithAnUnknownTokenSaysSoAndTellsTheSource(t *testing.T) {
	a := newAgent(t)
	a.answer("/x", fails(http.StatusForbidden, "ACL not found"))
	c := a.client(t, func(cfg *Config) { cfg.Token = "secret-token" })
	_, err := c.get(t.Context(), request{doing: "read the thing", path: "/x", needs: "x:read"}, watch.Cursor{}, new(any))
	wantError(t, err, "read the thing", "403", "the token was deleted, has expired")
	if st := c.TokenStatus(); len(st) != 1 || st[0].Failures != 1 {
		t.Errorf("status %+v, want one failure", st)
	}
	// The token of one service is not that of the client.
	own, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.server.URL+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	own.Header.Set("X-Consul-Token", "own-token")
	response, err := c.http.Do(own)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if st := c.TokenStatus(); st[0].Failures != 1 {
		t.Errorf("the token of a service was reported as ours: %+v", st)
	}
}

// Consul's agent publishes the health of a service with the token that it was
// registered with, so a token that may end has to be replaced there too.
func TestWithAnotherTokenServicesAreRegisteredAgainExceptThoseWithTheirOwn(t *testing.T) {
	c, client := newCatalog(t)
	own := definition("db", 90)
	own.Token = "own-token"
	for range 2 {
		if err := client.NewRegistrar([]Definition{definition("web", 80), own}, nil).reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r := client.NewRegistrar([]Definition{definition("web", 80), own}, nil)
	background(t, r.Run)
	if err := r.Wait(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if n := len(c.written()); n != 2 {
		t.Fatalf("%d writes, want 2: with the token of the configuration nothing is new", n)
	}
	client.seat.take("another-token", 0)
	eventually(t, "web is registered again", func() bool { return len(c.written()) == 3 })
	want := []string{"register web replace=true", "register db replace=true", "register web replace=true"}
	if diff := cmp.Diff(want, c.written()); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	if n := client.seat.held(); n != 1 {
		t.Errorf("%d services hold the token, want web", n)
	}
	if err := r.deregister(t.Context(), "web"); err != nil || client.seat.held() != 0 {
		t.Errorf("%v; %d services hold the token after the end of web", err, client.seat.held())
	}
}

func TestAfterALoginTheRegistrationsOfEarlierProcessesGetTheNewToken(t *testing.T) {
	c, client := newCatalog(t)
	definitions := []Definition{definition("web", 80)}
	if err := client.NewRegistrar(definitions, nil).reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	client.cfg.Login = &Login{}
	r := client.NewRegistrar(definitions, nil)
	for range 3 {
		if err := r.reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.written()); n != 2 {
		t.Errorf("%d writes, want one by each process", n)
	}
}
