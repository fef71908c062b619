// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package assemble

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

func jwt(names ...string) *connect.JWTRequirement {
	r := &connect.JWTRequirement{}
	for _, name := range names {
		r.Providers = append(r.Providers, connect.JWTClaims{Provider: name})
	}
	return r
}

// coreHTTP is all that a service that speaks HTTP needs but its defaults and the
// JWT provider okta.
func (r *run) coreHTTP() {
	r.core()
	r.SetRegistration(connect.Service{Name: "web", Protocol: connect.HTTP}, nil)
	r.SetIntentions([]connect.Intention{{Permissions: []connect.Permission{{JWT: jwt("okta")}}}}, connect.Deny)
}

func TestProvidersAreThoseThatIntentionsName(t *testing.T) {
	got := Providers([]connect.Intention{
		{JWT: jwt("b", "a")},
		{Permissions: []connect.Permission{{JWT: jwt("c")}, {}, {JWT: jwt("a")}}},
		{},
	})
	if diff := cmp.Diff([]string{"a", "b", "c"}, got); diff != "" {
		t.Error(diff)
	}
	if Providers([]connect.Intention{{}}) != nil {
		t.Error("a name out of nothing")
	}
}

func TestFirstSnapshotWaitsForKeysAndDefaultsButNotForever(t *testing.T) {
	for name, tc := range map[string]struct {
		set     func(*run)
		waits   bool
		missing []string
	}{
		"neither":  {func(*run) {}, true, []string{"the service's defaults", `the keys of JWT provider "okta"`}},
		"defaults": {func(r *run) { r.SetDefaults(connect.RateLimits{}, nil) }, true, []string{`the keys of JWT provider "okta"`}},
		"another provider": {func(r *run) {
			r.SetDefaults(connect.RateLimits{}, nil)
			r.SetJWTProviders(map[string]connect.JWTProvider{"other": {}})
		}, true, []string{`the keys of JWT provider "okta"`}},
		"both, the provider without keys": {func(r *run) {
			r.SetDefaults(connect.RateLimits{}, nil)
			r.SetJWTProviders(map[string]connect.JWTProvider{"okta": {Problem: "down"}})
		}, false, nil},
		"a service that does not speak HTTP": {func(r *run) { r.SetRegistration(connect.Service{Name: "web"}, nil) }, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := start(t)
				after(time.Hour) // the time before the rest is known does not count
				r.coreHTTP()
				tc.set(r)
				after(DefaultPatience - time.Second)
				if waits := len(r.published()) == 0; waits != tc.waits {
					t.Errorf("waits: %v", waits)
				}
				if diff := cmp.Diff(tc.missing, r.Missing()); diff != "" {
					t.Error(diff)
				}
				after(2 * time.Second)
				if len(r.published()) != 1 || r.Missing() != nil {
					t.Fatalf("%d snapshots, missing %v", len(r.published()), r.Missing())
				}
				if p, there := r.last().JWTProviders["okta"]; there && p.Problem == "" {
					t.Errorf("a provider nobody has heard of: %+v", r.last().JWTProviders)
				}
				r.cancel()
			})
		})
	}
}

// What is withdrawn must be enforced at once, whatever the new rules need.
func TestLaterSnapshotsWaitForNoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.coreHTTP()
		r.SetDefaults(connect.RateLimits{}, nil)
		r.SetJWTProviders(map[string]connect.JWTProvider{"okta": {Keys: "k"}})
		after(time.Second)
		r.SetIntentions([]connect.Intention{{JWT: jwt("unheard")}}, connect.Deny)
		after(DefaultLatest + time.Millisecond)
		if len(r.published()) != 2 || len(r.last().JWTProviders) != 0 || r.Missing() != nil {
			t.Errorf("%d snapshots, missing %v, the last has %v", len(r.published()), r.Missing(), r.last().JWTProviders)
		}
		r.SetJWTProviders(map[string]connect.JWTProvider{"okta": {Keys: "k"}, "unheard": {Keys: "u"}})
		after(time.Second)
		if diff := cmp.Diff(map[string]connect.JWTProvider{"unheard": {Keys: "u"}}, r.last().JWTProviders); diff != "" {
			t.Errorf("only those that intentions name: %s", diff)
		}
		r.cancel()
	})
}

func TestDefaultsAndExposedChecksAreMergedIntoTheService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t)
		r.core()
		registered := []connect.ExposedPath{{Path: "/metrics", ListenerPort: 1}}
		web := connect.Service{Name: "web", Protocol: connect.GRPC, Expose: registered[:1:1]}
		r.SetRegistration(web, nil)
		r.SetDefaults(connect.RateLimits{Rate: 5}, []connect.Fault{{AbortStatus: 503}})
		r.SetExposed([]connect.ExposedPath{{Path: "/health", ListenerPort: 2, LocalOnly: true}})
		after(time.Second)
		want := web
		want.RateLimits, want.Faults = connect.RateLimits{Rate: 5}, []connect.Fault{{AbortStatus: 503}}
		want.Expose = []connect.ExposedPath{registered[0], {Path: "/health", ListenerPort: 2, LocalOnly: true}}
		if diff := cmp.Diff(want, r.last().Service); diff != "" {
			t.Error(diff)
		}
		first := r.last()
		// Without HTTP there are no requests to limit; what is exposed stays.
		r.SetRegistration(connect.Service{Name: "web", Protocol: connect.TCP}, nil)
		after(time.Second)
		if s := r.last().Service; s.RateLimits.Rate != 0 || s.Faults != nil || len(s.Expose) != 1 {
			t.Errorf("%+v", s)
		}
		r.SetExposed(nil)
		after(time.Second)
		if s := r.last().Service; s.Expose != nil || len(first.Service.Expose) != 2 {
			t.Errorf("%+v", s)
		}
		r.cancel()
	})
}
