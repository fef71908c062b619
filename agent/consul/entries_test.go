// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

func TestProvidersAreWatchedAndKeptWhileTheyCannotBeRead(t *testing.T) {
	const path = "/v1/config/jwt-provider"
	a := newAgent(t)
	a.answer(path, says(testdata(t, "jwt-providers.json")))
	w := NewWatches(a.client(t, nil), nil)
	sink, values := into[map[string]JWTSource]()
	w.JWTProviders.Reconcile("web", map[struct{}]func(map[string]JWTSource){{}: sink})
	background(t, w.Run)
	if got := receive(t, values); len(got) != 4 || got["okta"].Remote == nil {
		t.Fatalf("first %+v", got)
	}
	for _, bad := range []struct {
		answer http.HandlerFunc
		wants  string
	}{
		{fails(403, "Permission denied"), "lacks the ACL permission mesh:read"},
		{func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
			_, _ = w.Write([]byte(`[]`))
		}, "left some out that the token may not read: it needs mesh:read"},
		{says(`[{"Kind":"mesh"}]`), "read the JWT providers: an entry of kind"},
		{fails(404, "page not found"), "answered 404"},
	} {
		a.answer(path, bad.answer)
		eventually(t, "an error that says "+bad.wants, func() bool {
			s := w.Status()
			return len(s) == 1 && s[0].Err != nil && strings.Contains(s[0].Err.Error(), bad.wants)
		})
	}
	a.answer(path, says(`[]`))
	if got := receive(t, values); len(got) != 0 || len(values) != 0 {
		t.Errorf("after recovery %+v and %d more", got, len(values))
	}
}

func TestDefaultsThatAreNotThereAreWaitedFor(t *testing.T) {
	const path = "/v1/config/service-defaults/web"
	a := newAgent(t)
	a.answer(path, fails(404, `Config entry not found for "service-defaults" / "web"`))
	w := NewWatches(a.client(t, nil), nil)
	sink, values := into[ServiceDefaults]()
	key := ServiceDefaultsKey(connect.Service{Name: "web", Namespace: "default", Partition: "default"})
	w.Defaults.Reconcile("web", map[ServiceKey]func(ServiceDefaults){key: sink})
	background(t, w.Run)
	if got := receive(t, values); !cmp.Equal(got, ServiceDefaults{}) {
		t.Errorf("without an entry %+v", got)
	}
	eventually(t, "a query that waits for the entry", func() bool {
		seen := a.requests(path)
		return len(seen) == 2 && seen[1].URL.Query().Get("index") == "11" && !seen[0].URL.Query().Has("ns")
	})
	entry := func(limits string) http.HandlerFunc {
		return says(`{"Kind":"service-defaults","Name":"web","Meta":{"outrider-rate-limits":"` + strings.ReplaceAll(limits, `"`, `\"`) + `"}}`)
	}
	a.answer(path, entry(`{"instance_level":{"requests_per_second":5}}`))
	if got := receive(t, values); got.RateLimits.Rate != 5 {
		t.Errorf("then %+v", got)
	}
	for _, bad := range []struct {
		answer http.HandlerFunc
		wants  string
	}{
		{entry(`{"instance_level":{"requests_per_second":"many"}}`), `read the service-defaults of "web": key outrider-rate-limits of Meta`},
		{fails(403, "no"), `service:read on "web"`},
		{says(`{"Kind":"mesh"}`), `of kind "mesh"`},
	} {
		a.answer(path, bad.answer)
		eventually(t, "an error that says "+bad.wants, func() bool {
			s := w.Status()
			return s[0].Err != nil && strings.Contains(s[0].Err.Error(), bad.wants)
		})
	}
	a.answer(path, fails(404, "gone"))
	if got := receive(t, values); !cmp.Equal(got, ServiceDefaults{}) || len(values) != 0 {
		t.Errorf("after it was deleted %+v and %d more", got, len(values))
	}
}

func TestA404OfSomethingElseIsNoAnswer(t *testing.T) {
	a := newAgent(t)
	a.answer("/v1/config/service-defaults/web", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Del("X-Consul-Index")
		http.Error(w, "404 page not found", http.StatusNotFound)
	})
	_, _, err := a.client(t, nil).openDefaults(ServiceKey{Service: "web"})(t.Context(), watch.Cursor{})
	wantError(t, err, "answered 404")
	_, _, err = a.client(t, nil).openDefaults(ServiceKey{Service: "../mesh"})(t.Context(), watch.Cursor{})
	wantError(t, err, "service name")
}
