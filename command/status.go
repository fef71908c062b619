// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package command

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/outrider-mesh/outrider/agent"
)

const (
	defaultAdmin = "unix:///run/outrider/admin.sock"
	statusPath   = "/v1/status"
)

func runStatus(i invocation) int {
	var q statusQuery
	fs := i.flags("status", "[-json] [-failures [-v]] [-alloc ID]")
	fs.BoolVar(&q.asJSON, "json", false, "print JSON")
	fs.StringVar(&q.admin, "admin", os.Getenv("OUTRIDER_ADMIN"), "`ADDRESS` of one admin API to ask, and nothing else (OUTRIDER_ADMIN); else the agent at "+defaultAdmin+" and, on a Nomad client, every sidecar")
	fs.StringVar(&q.alloc, "alloc", "", "show the sidecars of this Nomad allocation in full; the beginning of its `ID` is enough")
	fs.BoolVar(&q.failures, "failures", false, "show the last failures of this host instead, the newest first")
	fs.BoolVar(&q.verbose, "v", false, "with -failures: what led to each of them")
	if code, ok := i.parse(fs); !ok {
		return code
	}
	switch {
	case fs.NArg() > 0:
		return i.misuse("status: unexpected argument %q", fs.Arg(0))
	case q.verbose && !q.failures:
		return i.misuse("status: -v goes with -failures")
	case q.failures && q.alloc != "":
		return i.misuse("status: give -failures or -alloc, not both; -failures -admin asks the sidecar at an address")
	case q.failures:
		return i.failures(context.Background(), q)
	case q.alloc != "":
		return i.allocStatus(context.Background(), q)
	case q.admin == "":
		return i.hostStatus(context.Background(), q)
	}
	body, err := askAgent(context.Background(), q.admin, statusPath)
	if err != nil {
		return i.fail("status: %v", err)
	}
	return i.agentStatus(body, q.asJSON)
}

// statusQuery is what the command line asks for.
type statusQuery struct {
	asJSON   bool
	admin    string // "" means the default and the sidecars of Nomad
	alloc    string // prefix; "" means all
	failures bool
	verbose  bool
}

// agentStatus prints what one agent answered.
func (i invocation) agentStatus(body []byte, asJSON bool) int {
	s, err := readStatus(body)
	if err != nil {
		return i.fail("status: %v", err)
	}
	if asJSON {
		_, _ = i.stdout.Write(harmless(body))
		return exitOK
	}
	printStatus(i.stdout, s, time.Now())
	return exitOK
}

func readStatus(body []byte) (agent.Status, error) {
	var s agent.Status
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("understand the agent's answer: %w; client and agent may be of different versions", err)
	}
	return s, nil
}

// askAgent gets a path, such as /v1/status, of the admin API of the agent at an
// address. The error says what to do.
func askAgent(ctx context.Context, address, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	host, dial := reachAdmin(address)
	body, err := askAdmin(ctx, dial, host, path, 64<<20)
	if err != nil {
		return nil, fmt.Errorf("ask the agent at %s: %w; is it running, and may you use its socket? -admin names another", address, err)
	}
	return body, nil
}

// reachAdmin returns the host of an admin address, and how to connect to it.
func reachAdmin(address string) (host string, dial func(context.Context, string, string) (net.Conn, error)) {
	if socket, ok := strings.CutPrefix(address, "unix://"); ok {
		return "outrider", func(ctx context.Context, _, _ string) (net.Conn, error) { return agent.DialAdmin(ctx, socket) }
	}
	return address, (&net.Dialer{}).DialContext
}

// askAdmin gets a path of the admin API behind dial, of at most limit bytes.
func askAdmin(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), host, path string, limit int64) ([]byte, error) {
	transport := &http.Transport{DialContext: dial, MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil)
	if err != nil {
		return nil, err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("the answer is longer than %d MB", limit>>20)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s: %.200s", res.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// printer writes a status for people.
type printer struct {
	out io.Writer
	now time.Time
}

// line writes one line, whatever the arguments hold: names come from Consul and
// from tasks of other people, and must neither steer the reader's terminal nor
// pass for a line of ours.
func (p printer) line(indent int, format string, args ...any) {
	_, _ = fmt.Fprintln(p.out, strings.Repeat("  ", indent)+printable(fmt.Sprintf(format, args...)))
}

// printable is text as one line without control characters.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, text)
}

// harmless is JSON with escapes for what a terminal could take for an order. Of
// that, strings may hold all but the first 32 characters as they are.
func harmless(valid []byte) []byte {
	out := make([]byte, 0, len(valid))
	for len(valid) > 0 {
		r, size := utf8.DecodeRune(valid)
		switch {
		case r == utf8.RuneError && size == 1, r > ' ' && unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r):
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = append(out, valid[:size]...)
		}
		valid = valid[size:]
	}
	return out
}

func printStatus(out io.Writer, s agent.Status, now time.Time) {
	p := printer{out, now}
	state := "up " + p.span(s.Started)
	if s.Draining {
		state = "draining"
	}
	p.line(0, "%s, %s; Consul at %s%s", s.Version, state, s.Consul, optional("; Vault at ", s.Vault))
	for _, sc := range s.Sidecars {
		p.line(0, "")
		p.sidecar(sc)
	}
	failing := false
	for _, w := range s.Watches {
		if w.Error == "" {
			continue
		}
		if !failing {
			p.line(0, "")
			p.line(0, "failing watches; the last good answers stay in force")
			failing = true
		}
		p.line(1, "%s: %d failures, last success %s: %s", w.Key, w.Failures, p.ago(w.LastSuccess), w.Error)
	}
}

func (p printer) sidecar(s agent.SidecarStatus) {
	p.line(0, "%s (%s)  %s", s.Service, s.ProxyID, readiness(s))
	if s.Problem != "" {
		p.line(1, "problem     %s", s.Problem)
	}
	p.leaf(s)
	for n, r := range s.Roots {
		active := ""
		if r.Active {
			active = ", active"
		}
		p.line(1, "%-11s %s, expires in %s%s", heading(n, "roots"), r.Name, p.until(r.NotAfter), active)
	}
	p.inbound(s)
	for n, u := range s.Proxy.Upstreams {
		p.line(1, "%-11s %s at %s, %d open of %d%s", heading(n, "upstreams"), u.ID, cmp.Or(u.Address, "no listener"), u.Active, u.Limit, optional(": ", u.Problem))
		for _, t := range u.Targets {
			p.line(4, "      target %s%s%s", t.ID, optional(" through ", t.Through), map[bool]string{true: ": no endpoint in Consul"}[len(t.Endpoints) == 0])
			for _, e := range t.Endpoints {
				p.line(5, "      %s on %s, weight %d, %d open%s%s", e.Address, e.Node, e.Weight, e.Active, optional("; not used: ", e.NotUsed), optional("; last failure: ", e.LastFailure))
			}
		}
	}
}

func (p printer) leaf(s agent.SidecarStatus) {
	if s.Leaf == nil {
		return
	}
	if s.Leaf.Identity != "" {
		p.line(1, "identity    %s", s.Leaf.Identity)
		next := ""
		if !s.Leaf.NextAttempt.IsZero() {
			next = ", renewed in " + p.until(s.Leaf.NextAttempt)
		}
		p.line(1, "leaf        from %s, expires in %s%s", s.Leaf.Issuer, p.until(s.Leaf.NotAfter), next)
	}
	if s.Leaf.Error != "" {
		p.line(1, "leaf error  %s", s.Leaf.Error)
	}
}

func (p printer) inbound(s agent.SidecarStatus) {
	in := s.Proxy.Inbound
	requests := ""
	if in.Requests > 0 {
		requests = fmt.Sprintf(", %d requests", in.Requests)
	}
	p.line(1, "inbound     %s, %d open of %d, %d so far%s%s", cmp.Or(in.Address, "no listener"), in.Active, in.Limit, in.Connections, requests, optional(": ", in.Problem))
	if len(s.Proxy.Refused) > 0 {
		var parts []string
		for _, reason := range slices.Sorted(maps.Keys(s.Proxy.Refused)) {
			parts = append(parts, fmt.Sprintf("%s %d", reason, s.Proxy.Refused[reason]))
		}
		p.line(1, "refused     %s", strings.Join(parts, ", "))
		for _, r := range s.Proxy.Recent[max(0, len(s.Proxy.Recent)-3):] {
			p.line(1, "            %s ago: %s: %s", p.span(r.Time), r.Reason, r.Text)
		}
	}
	for n, problem := range s.Proxy.Problems {
		p.line(1, "%-11s %s", heading(n, "not in force"), problem)
	}
	for n, j := range s.JWTProviders {
		p.line(1, "%-11s %s of %s%s", heading(n, "tokens"), j.Name, cmp.Or(j.Issuer, "any issuer"), optional(": nobody is let in by it: ", j.Problem))
	}
	for n, i := range s.Intentions {
		p.line(1, "%-11s %s → %s  %s  (precedence %d)", heading(n, "intentions"), i.Source, i.Target, i.Action, i.Precedence)
	}
	if s.DefaultPolicy != "" {
		p.line(1, "%-11s everybody else  %s  (default policy%s)", heading(len(s.Intentions), "intentions"), s.DefaultPolicy, optional(": ", s.DefaultFrom))
	}
}

// heading names the first line of a group only.
func heading(n int, name string) string {
	if n == 0 {
		return name
	}
	return ""
}

func optional(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

func (p printer) span(since time.Time) string { return p.now.Sub(since).Round(time.Second).String() }

func (p printer) ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return p.span(t) + " ago"
}

func (p printer) until(t time.Time) string {
	left := t.Sub(p.now)
	if left > 48*time.Hour {
		return fmt.Sprintf("%d days", int(left.Hours()/24))
	}
	return left.Round(time.Second).String()
}
