// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package dev

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// What the tour writes once api is to speak HTTP, as anybody would through
// Consul's API.
const (
	apiSpeaksHTTP = `{"Kind": "service-defaults", "Name": "api", "Protocol": "http"}`
	adminIsDenied = `{"Kind": "service-intentions", "Name": "api", "Sources": [{"Name": "web", "Permissions": [
		{"Action": "deny", "HTTP": {"PathPrefix": "/admin"}},
		{"Action": "allow", "HTTP": {"PathPrefix": "/"}}]}]}`
)

// tellRequestsApart makes api a service that speaks HTTP, and its intention one
// about paths.
func (w *world) tellRequestsApart(ctx context.Context) (string, error) {
	for _, entry := range []string{apiSpeaksHTTP, adminIsDenied} {
		if err := w.writeEntry(ctx, entry); err != nil {
			return "", err
		}
	}
	var said string
	err := poll(ctx, func() (err error) {
		said, err = w.deniedRequest(ctx, "/admin")
		return err
	})
	if err != nil {
		return "", err
	}
	body, err := w.callAPI(ctx)
	if err != nil {
		return "", fmt.Errorf("the rest is denied too: %w", err)
	}
	return said + "\nGET /: api says: " + body, nil
}

// writeEntry puts a config entry into the embedded control plane.
func (w *world) writeEntry(ctx context.Context, entry string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+w.consul.Addr().String()+"/v1/config", strings.NewReader(entry))
	if err != nil {
		return err
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10)) // the status says enough
		return fmt.Errorf("write a config entry: status %d: %s", res.StatusCode, text)
	}
	return nil
}

// deniedRequest asks api for a path that must be denied with a reason.
func (w *world) deniedRequest(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	res, err := w.get(ctx, path)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err != nil {
		return "", err
	}
	const header = "x-outrider-reason"
	reason := res.Header.Get(header)
	if res.StatusCode != http.StatusForbidden || reason != "intention_denied" {
		return "", fmt.Errorf("GET %s is answered %d with reason %q: %s", path, res.StatusCode, reason, body)
	}
	return fmt.Sprintf("GET %s: %d %s, %s: %s", path, res.StatusCode, strings.TrimSpace(string(body)), header, reason), nil
}
