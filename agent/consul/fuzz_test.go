// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/outrider-mesh/outrider/connect"
)

func seed(f *testing.F, names ...string) {
	for _, name := range names {
		content, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(content)
	}
	f.Add([]byte(`{}`))
	f.Add([]byte(`null`))
}

func FuzzChain(f *testing.F) {
	seed(f, "chain.json", "chain-default.json", "chain-http.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		var w struct{ Chain *wireChain }
		if json.Unmarshal(text, &w) != nil || w.Chain == nil {
			return
		}
		chain, err := convertChain(w.Chain, w.Chain.ServiceName, "")
		if err != nil {
			return
		}
		// What was accepted can be followed without a check.
		if _, ok := chain.Nodes[chain.Start]; !ok {
			t.Fatal("no start node")
		}
		for _, n := range chain.Nodes {
			sum := 0
			for _, s := range n.Splits {
				sum += s.Weight
			}
			if n.Kind == connect.SplitterNode && sum < 9900 && len(n.Splits) < 100 {
				t.Fatalf("weights make %d", sum)
			}
			for _, r := range n.Routes {
				checkMatch(t, r.Match)
			}
			if n.Kind != connect.ResolverNode {
				continue
			}
			for _, id := range append([]connect.TargetID{n.Resolver.Target}, n.Resolver.Failover...) {
				if chain.Targets[id].ID != id {
					t.Fatalf("target %q is missing", id)
				}
			}
		}
	})
}

// checkMatch checks that each matcher says what it compares and can be used.
func checkMatch(t *testing.T, m connect.RequestMatch) {
	t.Helper()
	kinds := map[connect.MatchKind]string{m.Path.Kind: m.Path.Value}
	for _, h := range m.Headers {
		kinds[h.Kind] = h.Value
		if h.Kind == "" || h.Name == "" {
			t.Fatalf("accepted %+v", m)
		}
	}
	for _, q := range m.Query {
		if q.Kind == "" || q.Name == "" {
			t.Fatalf("accepted %+v", m)
		}
	}
	if text, ok := kinds[connect.MatchRegex]; ok {
		if _, err := regexp.Compile(text); err != nil {
			t.Fatalf("accepted %+v", m)
		}
	}
}

func FuzzRoots(f *testing.F) {
	seed(f, "roots.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		var w wireRoots
		if json.Unmarshal(text, &w) != nil {
			return
		}
		if b, err := convertRoots(w); err == nil && (b.TrustDomain == "" || len(b.Roots) == 0) {
			t.Fatalf("accepted a bundle that trusts nobody: %+v", b)
		}
	})
}

func FuzzIntentions(f *testing.F) {
	seed(f, "intentions.json", "intentions-http.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		var w map[string][]wireIntention
		if json.Unmarshal(text, &w) != nil {
			return
		}
		for name, list := range w {
			rules, err := convertIntentions(name, list)
			if err != nil {
				continue
			}
			for _, r := range rules {
				if r.Source.Name == "" || r.Precedence < 1 || r.Precedence > 9 {
					t.Fatalf("accepted %+v", r)
				}
				for _, p := range r.Permissions {
					checkMatch(t, p.HTTP)
				}
			}
		}
	})
}

func FuzzRegistration(f *testing.F) {
	seed(f, "registration.json", "registration-http.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		var w wireService
		if json.Unmarshal(text, &w) != nil {
			return
		}
		r, err := convertRegistration(w, "dc1")
		if err != nil {
			return
		}
		seen := make(map[connect.UpstreamID]bool)
		for _, u := range r.Upstreams {
			if seen[u.ID] || (u.BindPort == 0 && u.BindSocketPath == "") {
				t.Fatalf("accepted upstream %+v", u)
			}
			seen[u.ID] = true
		}
		for _, p := range r.Service.Expose {
			if p.ListenerPort < 1 || p.LocalPathPort < 1 || p.Path == "" || p.Path[0] != '/' || p.Protocol == "" {
				t.Fatalf("accepted %+v", p)
			}
		}
	})
}
