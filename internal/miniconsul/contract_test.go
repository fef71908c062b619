// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package miniconsul_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/outrider-mesh/outrider/internal/miniconsul"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAnswersAreThoseOfConsul runs every scenario against a real Consul and
// against the embedded one and compares everything that was noted.
func TestAnswersAreThoseOfConsul(t *testing.T) {
	t.Parallel()
	for name, scenario := range scenarios() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			real := &session{T: t, base: "http://" + realserver.StartConsul(t).Addr}
			scenario(real)
			mini := &session{T: t, base: "http://" + startMini(t, miniconsul.Options{NodeName: "lab", DefaultAllow: true}).addr}
			scenario(mini)
			for i := range max(len(real.notes), len(mini.notes)) {
				if diff := cmp.Diff(real.at(i), mini.at(i)); diff != "" {
					t.Errorf("note %d differs (-Consul +embedded):\n%s", i, diff)
				}
			}
			if len(real.notes) == 0 {
				t.Error("the scenario noted nothing")
			}
		})
	}
}

func scenarios() map[string]func(*session) {
	return map[string]func(*session){
		"registration":         registration,
		"registration refused": registrationRefused,
		"central defaults":     centralDefaults,
		"checks":               checks,
		"checks kept":          checksKept,
		"maintenance":          maintenance,
		"filters":              filters,
		"roots and leaves":     rootsAndLeaves,
		"rotation":             rotation,
		"intentions":           intentions,
		"intentions refused":   intentionsRefused,
		"config entries":       configEntries,
		"chains":               chains,
		"chains refused":       chainsRefused,
		"routers":              routers,
		"routers refused":      routersRefused,
		"splitters":            splitters,
		"splitters refused":    splittersRefused,
		"permissions refused":  permissionsRefused,
		"JWT":                  jwts,
		"JWT refused":          jwtsRefused,
		"HTTP settings":        httpSettings,
		"blocking":             blocking,
		"hash blocking":        hashBlocking,
		"odd requests":         oddRequests,
	}
}

// A mini is a running embedded server.
type mini struct {
	*miniconsul.Server
	addr string
	stop func() error
}

// startMini runs a server until the test ends and checks that it ends well.
func startMini(t *testing.T, opts miniconsul.Options) *mini {
	t.Helper()
	s, err := miniconsul.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	stopped := false
	stop := func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return &mini{Server: s, addr: l.Addr().String(), stop: stop}
}

// A session talks to one server and notes what it hears.
type session struct {
	*testing.T
	base  string
	notes []string
}

type response struct {
	status int
	header http.Header
	body   string
	took   time.Duration
}

func (s *session) at(i int) string {
	if i < len(s.notes) {
		return s.notes[i]
	}
	return "(nothing)"
}

func (s *session) call(method, path, body string) response {
	s.Helper()
	r, err := s.try(method, path, body)
	if err != nil {
		s.Fatalf("%s: %v", s.base, err)
	}
	return r
}

func (s *session) try(method, path, body string) (response, error) {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.base+path, strings.NewReader(body))
	if err != nil {
		return response{}, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	began := time.Now()
	answer, err := client.Do(request)
	if err != nil {
		return response{}, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return response{answer.StatusCode, answer.Header, string(content), time.Since(began)}, err
}

func (s *session) get(path string) response { s.Helper(); return s.call(http.MethodGet, path, "") }

// put writes something that must be accepted.
func (s *session) put(path, body string) {
	s.Helper()
	if r := s.call(http.MethodPut, path, body); r.status != http.StatusOK {
		s.Fatalf("%s: PUT %s %s: status %d: %s", s.base, path, body, r.status, r.body)
	}
}

func (s *session) entry(body string) { s.Helper(); s.put("/v1/config", body) }

func (s *session) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

// noteAnswer notes the status and the text of an answer.
func (s *session) noteAnswer(method, path, body string) {
	s.Helper()
	r := s.call(method, path, body)
	s.note("%s %s %s\nstatus %d: %s", method, path, body, r.status, r.body)
}

// noteJSON notes the answer of a GET without what differs from run to run and
// without what is empty: readers do not tell null from absent.
func (s *session) noteJSON(path string, ignore ...string) {
	s.Helper()
	r := s.get(path)
	s.note("GET %s\nstatus %d: %s", path, r.status, s.normal(r.body, ignore...))
}

func (s *session) normal(body string, ignore ...string) string {
	s.Helper()
	var v any
	if err := json.Unmarshal([]byte(strings.ReplaceAll(body, s.trustDomain(), "<trust domain>")), &v); err != nil {
		s.Fatalf("%s: decode %.300q: %v", s.base, body, err)
	}
	// Consul's agent learns the virtual address from its servers some time
	// after the registration; which one it is depends on what came first.
	drop := map[string]bool{"consul-virtual": true}
	for _, key := range append(ignore, "CreateIndex", "ModifyIndex", "Hash", "ContentHash", "Output") {
		drop[key] = true
	}
	out, err := json.MarshalIndent(prune(v, drop), "", "  ")
	if err != nil {
		s.Fatal(err)
	}
	return string(out)
}

func prune(v any, drop map[string]bool) any {
	switch value := v.(type) {
	case map[string]any:
		for key := range value {
			if value[key] = prune(value[key], drop); drop[key] || empty(value[key]) {
				delete(value, key)
			}
		}
	case []any:
		for i := range value {
			value[i] = prune(value[i], drop)
		}
	}
	return v
}

func empty(v any) bool {
	switch value := v.(type) {
	case nil:
		return true
	case bool:
		return !value
	case float64:
		return value == 0
	case string:
		return value == ""
	case []any:
		return len(value) == 0
	case map[string]any:
		return len(value) == 0
	}
	return false
}

func (s *session) trustDomain() string {
	s.Helper()
	return into[struct{ TrustDomain string }](s, s.get("/v1/agent/connect/ca/roots")).TrustDomain
}

func into[V any](s *session, r response) V {
	s.Helper()
	var v V
	if err := json.NewDecoder(bytes.NewReader([]byte(r.body))).Decode(&v); err != nil {
		s.Fatalf("%s: decode %.300q: %v", s.base, r.body, err)
	}
	return v
}

// until asks until the answer is as it should be: Consul's agent brings what is
// registered to its servers in its own time.
func (s *session) until(path string, ok func(response) bool) response {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		r := s.get(path)
		if ok(r) {
			return r
		}
		select {
		case <-ctx.Done():
			s.Fatalf("%s: GET %s is still: status %d: %s", s.base, path, r.status, r.body)
		case <-ticker.C:
		}
	}
}

// statuses are those of the checks of a service's instances, by check ID.
func statuses(s *session, r response) map[string]string {
	s.Helper()
	out := map[string]string{}
	for _, instance := range into[[]struct {
		Checks []struct{ CheckID, Status string }
	}](s, r) {
		for _, c := range instance.Checks {
			out[c.CheckID] = c.Status
		}
	}
	return out
}

// untilStatus waits until a check of a service in the mesh has a status.
func (s *session) untilStatus(service, check, status string) response {
	s.Helper()
	return s.until("/v1/health/connect/"+service, func(r response) bool { return statuses(s, r)[check] == status })
}

func index(r response) string { return r.header.Get("X-Consul-Index") }

func query(path string, pairs ...string) string {
	values := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		values.Add(pairs[i], pairs[i+1])
	}
	mark := "?"
	if strings.Contains(path, "?") {
		mark = "&"
	}
	return path + mark + values.Encode()
}
