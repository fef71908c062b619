// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package proxy

import (
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

// towards is a snapshot whose only target has the given name, and the endpoints
// it had before.
func towards(s *connect.Snapshot, name connect.TargetID) *connect.Snapshot {
	return next(s, func(s *connect.Snapshot) {
		chain := *s.Chains["api"]
		old := chain.Nodes["r"].Resolver.Target
		target := chain.Targets[old]
		target.ID = name
		chain.Nodes = map[string]connect.Node{"r": {Kind: connect.ResolverNode, Resolver: &connect.Resolver{Target: name}}}
		chain.Targets = map[connect.TargetID]connect.Target{name: target}
		s.Chains = map[connect.UpstreamID]*connect.Chain{"api": &chain}
		endpoints := s.Endpoints[old]
		s.Endpoints = maps.Clone(s.Endpoints)
		s.Endpoints[name] = endpoints
	})
}

// A request is served by what was in force when it came, or by what came into
// force meanwhile: targets that appear and vanish under load cost nothing.
func TestNoRequestFailsWhileTargetsComeAndGo(t *testing.T) {
	for _, protocol := range []connect.Protocol{connect.HTTP, connect.HTTP2} {
		t.Run(string(protocol), func(t *testing.T) {
			r := newHTTPPair(t, protocol, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(w, r.Body)
			}))
			client, url, done := r.client(t), r.url(t, "/"), make(chan struct{})
			var all sync.WaitGroup
			defer all.Wait()
			for range 4 {
				all.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
						}
						if err := echoed(t, client, url); err != "" {
							t.Error(err)
							return
						}
					}
				})
			}
			for i := range 200 {
				r.webSnap = towards(r.webSnap, connect.TargetID([]string{"one", "two"}[i%2]))
				apply(t, r.web, r.webSnap)
			}
			close(done)
		})
	}
}

// echoed sends a body that may not be sent twice, and says what is wrong.
func echoed(t *testing.T, c *http.Client, url string) string {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("body"))
	if err != nil {
		return err.Error()
	}
	resp, err := c.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || string(text) != "body" {
		return resp.Status + ": " + string(text) + " " + resp.Header.Get(reasonHeader)
	}
	return ""
}
