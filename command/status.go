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

	"github.com/outrider-mesh/outrider/agent"
)

const defaultAdmin = "unix:///run/outrider/admin.sock"

func runStatus(i invocation) int {
	fs := i.flags("status", "[-json]")
	asJSON := fs.Bool("json", false, "print JSON")
	admin := fs.String("admin", "", "`ADDRESS` of the agent's admin API; else OUTRIDER_ADMIN, else "+defaultAdmin)
	if code, ok := i.parse(fs); !ok {
		return code
	}
	address := cmp.Or(*admin, os.Getenv("OUTRIDER_ADMIN"), defaultAdmin)
	body, err := askAdmin(address, "/v1/status")
	if err != nil {
		return i.fail("status: ask the agent at %s: %v; is it running, and may you use its socket? -admin names another", address, err)
	}
	if *asJSON {
		_, _ = i.stdout.Write(body)
		return exitOK
	}
	var s agent.Status
	if err := json.Unmarshal(body, &s); err != nil {
		return i.fail("status: understand the agent's answer: %v; client and agent may be of different versions", err)
	}
	printStatus(i.stdout, s, time.Now())
	return exitOK
}

// askAdmin gets a path of the admin API.
func askAdmin(address, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	host, transport := address, &http.Transport{}
	if socket, ok := strings.CutPrefix(address, "unix://"); ok {
		host = "outrider"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, nil) //nolint:gosec // the address is the choice of who runs the command
	if err != nil {
		return nil, err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}

// printer writes a status for people.
type printer struct {
	out io.Writer
	now time.Time
}

func (p printer) line(indent int, format string, args ...any) {
	_, _ = fmt.Fprintf(p.out, strings.Repeat("  ", indent)+format+"\n", args...)
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
	state := "ready"
	if !s.Ready {
		state = "not ready"
		if len(s.Missing) > 0 {
			state += ": waits for " + strings.Join(s.Missing, ", ")
		}
	}
	p.line(0, "%s (%s)  %s", s.Service, s.ProxyID, state)
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
