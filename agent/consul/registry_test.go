// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

const testJWT = "eyJ.secret.jwt"

// A registry is the ACL system of a Consul, behind a transport without a
// network: tokens are made by logins, end, and can be deleted.
type registry struct {
	t    *testing.T
	life time.Duration // 0: tokens do not end

	mu      sync.Mutex
	status  int           // of logins; 0 means that they succeed
	text    string        // with status
	lag     time.Duration // until a new token is known
	made    int
	logins  []time.Time
	bearers []string
	live    map[string]time.Time // since when
}

func (r *registry) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	token := req.Header.Get("X-Consul-Token")
	switch req.URL.Path {
	case "/v1/acl/login":
		if token != "" {
			r.t.Errorf("a login carries the token %q", token)
		}
		return r.login(req)
	case "/v1/acl/logout":
		if !r.known(token) {
			return reply(403, "ACL not found"), nil
		}
		delete(r.live, token)
		return reply(200, "true"), nil
	}
	switch {
	case !r.known(token):
		return reply(403, "rpc error making call: ACL not found\n"), nil
	case req.URL.Path == "/denied":
		return reply(403, "Permission denied: token with AccessorID 'a' lacks permission 'agent:read' on \"lab\""), nil
	}
	return reply(200, "{}"), nil
}

func (r *registry) known(token string) bool {
	since, ok := r.live[token]
	age := time.Since(since)
	return ok && age >= r.lag && (r.life == 0 || age < r.life)
}

func (r *registry) login(req *http.Request) (*http.Response, error) {
	var in struct {
		AuthMethod, BearerToken string
		Meta                    map[string]string
	}
	if err := json.NewDecoder(req.Body).Decode(&in); err != nil || in.AuthMethod != "wi" || in.Meta["client"] == "" {
		r.t.Errorf("login of %+v: %v", in, err)
	}
	r.logins, r.bearers = append(r.logins, time.Now()), append(r.bearers, in.BearerToken)
	if r.status != 0 {
		return reply(r.status, r.text), nil
	}
	r.made++
	token := fmt.Sprintf("secret-token-%d", r.made)
	r.live[token] = time.Now()
	answer := map[string]any{"SecretID": token, "AccessorID": fmt.Sprintf("accessor-%d", r.made)}
	if r.life > 0 {
		// The clock of this server is wrong by a day; the difference counts.
		made := time.Now().Add(-24 * time.Hour)
		answer["CreateTime"], answer["ExpirationTime"] = made, made.Add(r.life)
	}
	text, err := json.Marshal(answer)
	return reply(200, string(text)), err
}

func reply(code int, text string) *http.Response {
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text))}
}

func (r *registry) set(edit func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	edit()
}

func (r *registry) times() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.logins)
}

func (r *registry) jwts() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.bearers)
}

func (r *registry) alive() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for token := range r.live {
		if r.known(token) {
			all = append(all, token)
		}
	}
	return all
}

// A journal is a log that is kept.
type journal struct {
	mu   sync.Mutex
	text strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// A desk is a guard that logs in at a registry, in a synctest bubble.
type desk struct {
	*registry
	*login
	guard *guard
	log   *journal
	stop  func()
}

func newDesk(t *testing.T, life time.Duration) *desk {
	t.Helper()
	d := &desk{registry: &registry{t: t, life: life, live: map[string]time.Time{}}, log: &journal{}}
	file := filepath.Join(t.TempDir(), "jwt")
	put(t, file, testJWT+"\n")
	b, err := parseAddress("")
	if err != nil {
		t.Fatal(err)
	}
	logger := hclog.New(&hclog.LoggerOptions{Output: d.log, Level: hclog.Trace})
	if d.login, err = newLogin(Config{Login: &Login{AuthMethod: "wi", TokenFile: file}}, b, newSeat(), d.registry, logger); err != nil {
		t.Fatal(err)
	}
	d.guard = &guard{next: d.registry, from: d.login, limit: maxBody}
	return d
}

func put(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs the login until the test or stop ends it, and then proves that no
// secret was logged.
func (d *desk) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { d.run(ctx); close(done) }()
	var once sync.Once
	d.stop = func() {
		once.Do(func() {
			cancel()
			<-done
			if log := d.log.String(); strings.Contains(log, "secret") {
				t.Errorf("a secret is in the log:\n%s", log)
			}
		})
	}
	t.Cleanup(d.stop)
}

// ask makes one request and returns the status, or 0 with an error.
func (d *desk) ask(ctx context.Context, path string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://consul"+path, nil)
	if err != nil {
		return 0, err
	}
	response, err := d.guard.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	_, err = io.ReadAll(response.Body)
	return response.StatusCode, errors.Join(err, response.Body.Close())
}
