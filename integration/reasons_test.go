// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/realserver"
)

// A cause is one way in which calls fail.
type cause struct {
	upstream string
	status   int
	reason   connect.Reason
	remote   bool // the sidecar of the other side gives the reason
}

func causes() []cause {
	return []cause{
		{"stopped", 503, connect.AppUnreachable, true},
		{"denied", 403, connect.IntentionDenied, true},
		{"expired", 503, connect.TLSFailed, false},
		{"wrong", 503, connect.IdentityMismatch, false},
		{"empty", 503, connect.NoHealthyEndpoint, false},
		{"limited", 429, connect.LimitExceeded, true},
		{"slow", 504, connect.RequestTimeout, true},
	}
}

// A scene is a mesh in which calls fail for every cause.
type scene struct {
	near, far *outrider
	ports     map[string]int
	spans     *collector
	accessLog string
}

func newScene(t *testing.T) *scene {
	t.Helper()
	m := newVaultCA(t)
	entry(t, m.consul, `{"Kind":"proxy-defaults","Name":"global","Config":{"protocol":"http"}}`)
	entry(t, m.consul, `{"Kind":"service-intentions","Name":"denied","Sources":[{"Name":"caller","Action":"deny"}]}`)
	entry(t, m.consul, `{"Kind":"service-resolver","Name":"empty","DefaultSubset":"v9","Subsets":{"v9":{"Filter":"Service.Meta.version == v9"}}}`)
	entry(t, m.consul, `{"Kind":"service-defaults","Name":"limited","Protocol":"http","Meta":{"outrider-rate-limits":%s}}`,
		quoted(t, `{"instance_level":{"requests_per_second":1,"requests_max_burst":1}}`))
	hold := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			<-r.Context().Done()
		}
	}
	s := &scene{ports: map[string]int{}, spans: &collector{}, accessLog: filepath.Join(t.TempDir(), "access.log")}
	inbound := freePort(t)
	var far strings.Builder
	for _, name := range []string{"stopped", "denied", "empty", "limited", "slow", "other"} {
		callee := service{name: name, app: serve(t, http.HandlerFunc(hold))}
		switch name {
		case "stopped":
			callee.app = nil
		case "slow":
			callee.proxy = "config {\n local_request_timeout_ms = 300\n}\n"
		case "other":
			callee.inbound = inbound
		}
		far.WriteString(callee.stanza(t))
	}
	s.far = start(t, m.consul, far.String())
	// What answers in the name of wrong is other.
	put(t, m.consul, "/v1/agent/service/register", `{"ID":"wrong","Name":"wrong","Port":1}`)
	put(t, m.consul, "/v1/agent/service/register", fmt.Sprintf(`{"ID":"wrong-proxy","Name":"wrong-sidecar-proxy","Kind":"connect-proxy","Address":"127.0.0.1","Port":%d,
		"Proxy":{"DestinationServiceName":"wrong","DestinationServiceID":"wrong"}}`, inbound))
	const life = "20s"
	m.allow(t, "expired", life)
	late := start(t, m.consul, m.block("expired", life)+service{name: "expired", app: serve(t, http.HandlerFunc(hold))}.stanza(t))
	caller := service{name: "caller"}
	for _, c := range causes() {
		s.ports[c.upstream] = freePort(t)
		caller.more = append(caller.more, listen{c.upstream, s.ports[c.upstream]})
	}
	s.near = start(t, m.consul, fmt.Sprintf("telemetry { otlp_endpoint = \"http://%s\" }\naccess_log {\n enabled = true\n type = \"file\"\n path = %q\n}\n", serve(t, s.spans), s.accessLog)+caller.stanza(t))
	s.near.endpoints(t, "caller", 6) // all but those of empty; wrong's and other's are one
	m.vault.Pause(t)
	t.Cleanup(func() { m.vault.Resume(t) })
	untilWithin(t, renewal+patience, "the leaf expires", func() error {
		if leaf := late.status(t).Leaf; time.Now().Before(leaf.NotAfter.Add(time.Second)) {
			return fmt.Errorf("it is good until %s", leaf.NotAfter)
		}
		return nil
	})
	return s
}

// call makes a call that is to fail, traced by its number.
func (s *scene) call(t *testing.T, c cause, number int) reply {
	t.Helper()
	path := "/"
	if c.upstream == "slow" {
		path = "/hold"
	}
	var got reply
	until(t, c.upstream+" fails as it should", func() error {
		var err error
		got, err = newCaller(t, s.ports[c.upstream], false).get(t.Context(), path, "Traceparent", fmt.Sprintf("00-%s-%s-01", traceOf(number), callerSpan))
		if err != nil {
			return err
		}
		if got.status != c.status {
			return fmt.Errorf("status %d, want %d; %s", got.status, c.status, got.text)
		}
		return nil
	})
	return got
}

func traceOf(number int) string { return fmt.Sprintf("%032x", 0xabc000+number) }

// Whatever goes wrong, everything that tells of it gives the same reason.
func TestEveryWitnessNamesTheSameReason(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for number, c := range causes() {
		t.Run(c.upstream, func(t *testing.T) {
			if got := s.call(t, c, number).refused(); got != string(c.reason) {
				t.Errorf("the header says %q, want %q", got, c.reason)
			}
			for witness, ask := range map[string]func(*testing.T, cause, int) error{
				"access log": s.inAccessLog, "metrics": s.inMetrics, "trace": s.inTrace, "explain": s.inExplain, "recorder": s.inFailures, "log": s.inLog,
			} {
				until(t, "the "+witness+" says "+string(c.reason), func() error { return ask(t, c, number) })
			}
		})
	}
}

func (s *scene) inAccessLog(t *testing.T, c cause, _ int) error {
	t.Helper()
	text, err := os.ReadFile(s.accessLog)
	if err != nil {
		return err
	}
	var said []string
	for line := range strings.Lines(string(text)) {
		var fields struct {
			Upstream string `json:"upstream_cluster"`
			Status   int    `json:"response_code"`
			Reason   string `json:"reason"`
		}
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		if strings.Contains(fields.Upstream, c.upstream) && fields.Status == c.status {
			if said = append(said, fields.Reason); fields.Reason == string(c.reason) {
				return nil
			}
		}
	}
	return fmt.Errorf("it says %q: %s", said, text)
}

func (s *scene) inMetrics(t *testing.T, c cause, _ int) error {
	t.Helper()
	text, err := s.near.ask("/metrics")
	if err != nil {
		return err
	}
	side := "local"
	if c.remote {
		side = "remote"
	}
	return hasSeries(string(text), "outrider_edge_failures_total", `[1-9]\d*`, fmt.Sprintf("upstream=%q", c.upstream), fmt.Sprintf("reason=%q", c.reason), fmt.Sprintf("side=%q", side), `source="caller"`)
}

func (s *scene) inTrace(_ *testing.T, c cause, number int) error {
	spans := s.spans.below(traceOf(number), callerSpan)
	for _, span := range spans {
		if span.bad && span.about["outrider.reason"] == string(c.reason) {
			return nil
		}
	}
	return fmt.Errorf("its spans are %+v", spans)
}

func (s *scene) inExplain(t *testing.T, c cause, _ int) error {
	t.Helper()
	body, err := s.near.ask("/v1/explain?" + url.Values{"source": {"caller"}, "destination": {c.upstream}, "method": {"GET"}, "path": {"/"}}.Encode())
	if err != nil {
		return err
	}
	var answer agent.ExplainAnswer
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	if answer.Verdict.Reason != c.reason {
		return fmt.Errorf("%q: %s", answer.Verdict.Reason, answer.Verdict.Why)
	}
	return nil
}

func (s *scene) inFailures(t *testing.T, c cause, _ int) error {
	t.Helper()
	body, err := s.near.ask("/v1/failures?upstream=" + c.upstream)
	if err != nil {
		return err
	}
	var all struct {
		Failures []struct {
			Reason connect.Reason
			Why    string
		}
	}
	if err := json.Unmarshal(body, &all); err != nil {
		return err
	}
	for _, f := range all.Failures {
		if f.Reason == c.reason && f.Why != "" {
			return nil
		}
	}
	return errors.New(string(body))
}

// inLog looks where the reason was found.
func (s *scene) inLog(_ *testing.T, c cause, _ int) error {
	o := s.near
	if c.remote {
		o = s.far
	}
	for line := range strings.Lines(o.text()) {
		if strings.Contains(line, "refused a request") && strings.Contains(line, "reason="+string(c.reason)) {
			return nil
		}
	}
	return errors.New("there is no such line")
}

// newVaultCA is a mesh whose CA is Vault, and which has no service yet.
func newVaultCA(t *testing.T) *vaultMesh {
	t.Helper()
	m := &vaultMesh{vault: realserver.StartVault(t), trustDomain: trustDomain, creds: map[string]string{}}
	m.mesh = &mesh{consul: realserver.StartConsul(t, realserver.HCL(vaultProvider(m.vault)))}
	m.vault.Command(t, "auth", "enable", "approle")
	return m
}
