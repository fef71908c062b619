// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package dev

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/outrider-mesh/outrider/agent"
	"github.com/outrider-mesh/outrider/connect"
)

// patience bounds each wait of the tour.
const patience = 30 * time.Second

// tour shows, step by step, what the mesh does; each step checks what it says.
func (w *world) tour(ctx context.Context) error {
	w.say("A mesh in one process: an embedded control plane, one Outrider agent with two")
	w.say("sidecars, and two applications, web and api, that know nothing of it.")
	w.say("")
	w.say("   web ─▶ 127.0.0.1:%d ─▶ sidecar of web ══ mTLS ══▶ sidecar of api ─▶ api", w.ports.upstream)
	w.say("")
	for _, step := range []struct {
		title string
		run   func(context.Context) (string, error)
	}{
		{"the sidecars have registered, got their leaves, and are ready", w.becomeReady},
		{"nobody may call api yet: the default policy denies web", w.deniedByDefault},
		{"an intention allows web → api: the call goes through", w.allow},
		{"the CA is replaced: an open stream goes on, new calls go through", w.rotate},
		{"the intention is changed to deny: the open stream is cut", w.cut},
		{"the next call is denied, and the sidecar of api says why", w.deniedByName},
		{"the intention is changed back: calls go through again", w.allowAgain},
		{"api speaks HTTP, and its intention denies /admin: only that is denied", w.tellRequestsApart},
	} {
		began := time.Now()
		ctx, cancel := context.WithTimeout(ctx, patience)
		detail, err := step.run(ctx)
		cancel()
		if err != nil {
			w.say(" ✗ %s", step.title)
			return fmt.Errorf("dev: %s: %w", step.title, err)
		}
		w.say(" ✓ %s (%s)", step.title, time.Since(began).Round(time.Millisecond))
		if detail != "" {
			w.say("     %s", strings.ReplaceAll(strings.TrimSpace(detail), "\n", "\n     "))
		}
	}
	w.say("")
	return nil
}

func (w *world) say(format string, args ...any) { _, _ = fmt.Fprintf(w.opts.Out, format+"\n", args...) }

func (w *world) instructions() {
	w.say("The mesh stays up until Ctrl-C. Try:")
	w.say("")
	w.say("  curl http://127.0.0.1:%d/          # web, which asks api through the mesh", port(w.web))
	w.say("  curl %s          # api through web's upstream", w.upstreamURL("/"))
	w.say("  curl -i %s  # what api's intention denies", w.upstreamURL("/admin"))
	w.say("  outrider status -admin %s", w.admin())
	w.say("")
	w.say("Deny and allow again:")
	for _, action := range []string{"deny", "allow"} {
		w.say("  curl -X PUT -d '{\"SourceType\":\"consul\",\"Action\":\"%s\"}' 'http://%s/v1/connect/intentions/exact?source=web&destination=api'", action, w.consul.Addr())
	}
}

// poll repeats a question until it is answered with nil, or ctx ends.
func poll(ctx context.Context, ask func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", patience, err)
		case <-tick.C:
		}
	}
}

func (w *world) becomeReady(ctx context.Context) (string, error) {
	var status agent.Status
	err := poll(ctx, func() (err error) {
		if status, err = w.status(ctx); err != nil {
			return err
		}
		for _, s := range status.Sidecars {
			if !s.Ready {
				return fmt.Errorf("%s waits for %s", s.Service, strings.Join(s.Missing, ", "))
			}
		}
		return endpointsInUse(status)
	})
	if err != nil {
		return "", err
	}
	var identities []string
	for _, s := range status.Sidecars {
		identities = append(identities, s.Leaf.Identity)
	}
	return strings.Join(identities, "\n"), nil
}

func (w *world) deniedByDefault(ctx context.Context) (string, error) {
	return w.denied(ctx, "default policy")
}

func (w *world) deniedByName(ctx context.Context) (string, error) {
	return w.denied(ctx, "web → api")
}

// denied makes a call that must fail, and returns what api's sidecar says of it.
func (w *world) denied(ctx context.Context, by string) (why string, err error) {
	began := time.Now()
	if body, err := w.callAPI(ctx); err == nil {
		return "", fmt.Errorf("the call went through: %s", body)
	}
	err = poll(ctx, func() error {
		status, err := w.status(ctx)
		if err != nil {
			return err
		}
		for _, s := range status.Sidecars {
			for _, r := range s.Proxy.Recent {
				if r.Reason == connect.IntentionDenied && r.Time.After(began) && strings.Contains(r.Text, by) {
					why = fmt.Sprintf("%s: %s", r.Reason, r.Text)
					return nil
				}
			}
		}
		return fmt.Errorf("no sidecar says that %q denied the call", by)
	})
	return why, err
}

func (w *world) allow(ctx context.Context) (body string, err error) {
	if err := w.mini.SetIntention("web", "api", "allow"); err != nil {
		return "", err
	}
	err = poll(ctx, func() error {
		body, err = w.callAPI(ctx)
		return err
	})
	return "api says: " + body, err
}

func (w *world) allowAgain(ctx context.Context) (string, error) { return w.allow(ctx) }

// rotate replaces the CA and waits until both sidecars serve a leaf of the new
// one, with a stream open all the while.
func (w *world) rotate(ctx context.Context) (string, error) {
	s, err := w.openStream(ctx)
	if err != nil {
		return "", err
	}
	defer s.close()
	before, err := w.status(ctx)
	if err != nil {
		return "", err
	}
	if err := w.mini.RotateCA(); err != nil {
		return "", err
	}
	err = poll(ctx, func() error {
		now, err := w.status(ctx)
		if err != nil {
			return err
		}
		for i, sc := range now.Sidecars {
			if sc.Leaf.Serial == before.Sidecars[i].Leaf.Serial {
				return fmt.Errorf("%s still has its old leaf", sc.Service)
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if err := s.next(); err != nil {
		return "", fmt.Errorf("the open stream: %w", err)
	}
	if _, err := w.callAPI(ctx); err != nil {
		return "", fmt.Errorf("a new call: %w", err)
	}
	return "", nil
}

func (w *world) cut(ctx context.Context) (string, error) {
	s, err := w.openStream(ctx)
	if err != nil {
		return "", err
	}
	defer s.close()
	changed := time.Now()
	if err := w.mini.SetIntention("web", "api", "deny"); err != nil {
		return "", err
	}
	for err == nil {
		err = s.next()
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("the stream was not cut within %v", patience)
	}
	return fmt.Sprintf("cut %d ms after the change", time.Since(changed).Milliseconds()), nil
}

// tail is an open stream of api's lines.
type tail struct {
	lines *bufio.Scanner
	close func()
}

func (w *world) openStream(ctx context.Context) (*tail, error) {
	res, err := w.get(ctx, "/stream") //nolint:bodyclose // the tail closes it
	if err != nil {
		return nil, err
	}
	t := &tail{bufio.NewScanner(res.Body), func() { _ = res.Body.Close() }}
	if err := t.next(); err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	return t, nil
}

func (t *tail) next() error {
	if t.lines.Scan() {
		return nil
	}
	if err := t.lines.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the stream has ended")
}

// status asks the agent's admin API, as "outrider status" does.
func (w *world) status(ctx context.Context) (s agent.Status, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(w.dir, "admin.sock"))
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://outrider/v1/status", nil)
	if err != nil {
		return s, err
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return s, err
	}
	defer func() { _ = res.Body.Close() }()
	return s, json.NewDecoder(res.Body).Decode(&s)
}

// endpointsInUse reports whether every upstream has an endpoint that may be
// given traffic.
func endpointsInUse(s agent.Status) error {
	upstreams := 0
	for _, sc := range s.Sidecars {
		for _, u := range sc.Proxy.Upstreams {
			upstreams++
			if u.Problem != "" {
				return fmt.Errorf("upstream %s: %s", u.ID, u.Problem)
			}
			for _, t := range u.Targets {
				if len(t.Endpoints) == 0 || t.Endpoints[0].NotUsed != "" {
					return fmt.Errorf("target %s has no endpoint in use", t.ID)
				}
			}
		}
	}
	if upstreams == 0 {
		return fmt.Errorf("the upstream of web is not known yet")
	}
	return nil
}
