// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
	"github.com/outrider-mesh/outrider/internal/meshca"
)

// into returns a sink and the channel it fills.
func into[V any]() (func(V), <-chan V) {
	values := make(chan V, 100)
	return func(v V) { values <- v }, values
}

// A watch of each kind gets a good answer, then bad ones, then another good
// one: it must keep what it has, say what is wrong, and recover.
func TestBadAnswersKeepTheLastGoodValueAndRecover(t *testing.T) {
	first, second := meshca.New("first"), meshca.New("second")
	roots := func(cas ...*meshca.CA) string {
		var list []wireRoot
		for _, ca := range cas {
			list = append(list, wireRoot{ID: meshca.KeyID(ca.Cert), RootCert: meshca.PEM(ca.Cert)})
		}
		return rootsJSON(t, meshca.TrustDomain, list...)
	}
	notCA := rootsJSON(t, meshca.TrustDomain, wireRoot{ID: "x", RootCert: meshca.PEM(first.Leaf("web", nil).Chain[0])})
	a := newAgent(t)
	path := "/v1/agent/connect/ca/roots"
	a.answer(path, says(roots(first)))
	w := NewWatches(a.client(t, nil), nil)
	sink, values := into[*connect.TrustBundle]()
	w.Roots.Reconcile("web", map[struct{}]func(*connect.TrustBundle){{}: sink})
	background(t, w.Run)
	if got := receive(t, values); len(got.Roots) != 1 {
		t.Fatalf("first bundle %+v", got)
	}
	for _, bad := range []struct {
		answer http.HandlerFunc
		wants  string
	}{
		{says(roots()), "the list of CA roots is empty"},
		{says(notCA), "is not a CA certificate"},
		{fails(403, "Permission denied"), "the token may be missing"},
		{fails(500, "no leader"), "no leader"},
		{says("{"), "not the JSON"},
	} {
		a.answer(path, bad.answer)
		eventually(t, "an error that says "+bad.wants, func() bool {
			s := w.Status()
			return len(s) == 1 && s[0].Err != nil && strings.Contains(s[0].Err.Error(), bad.wants) && s[0].Failures > 0
		})
	}
	a.answer(path, says(roots(first, second)))
	if got := receive(t, values); len(got.Roots) != 2 {
		t.Errorf("after recovery %+v", got)
	}
	if s := w.Status(); s[0].Err != nil || len(values) != 0 {
		t.Errorf("status %+v, %d values too many", s[0], len(values))
	}
}

func TestAnIndexThatGoesBackwardsIsReadFromTheStart(t *testing.T) {
	a := newAgent(t)
	a.answer("/v1/config/mesh", says(`[]`))
	w := NewWatches(a.client(t, nil), nil)
	sink, values := into[connect.Mesh]()
	w.Mesh.Reconcile("web", map[struct{}]func(connect.Mesh){{}: sink})
	background(t, w.Run)
	if got := receive(t, values); !cmp.Equal(got, connect.Mesh{}) {
		t.Errorf("mesh %+v, want the defaults", got)
	}
	a.rewind(2)
	eventually(t, "a query from zero, then one from the new index", func() bool {
		var indexes []string
		for _, r := range a.requests("/v1/config/mesh") {
			indexes = append(indexes, r.URL.Query().Get("index"))
		}
		return cmp.Equal(indexes, []string{"", "11", "", "2"})
	})
	a.answer("/v1/config/mesh", says(`[{"Kind":"mesh","TLS":{"Incoming":{"TLSMinVersion":"TLSv1_3"}}}]`))
	if got := receive(t, values); got.Incoming.MinVersion == 0 {
		t.Errorf("mesh %+v, want the new minimum", got)
	}
}

func TestIntentionsFailClosed(t *testing.T) {
	const match = "/v1/connect/intentions/match"
	rules := func(list string) http.HandlerFunc { return says(`{"web":[` + list + `]}`) }
	allow := `{"SourceName":"api","DestinationName":"web","Action":"allow","Precedence":9}`
	a := newAgent(t)
	a.answer(match, rules(allow))
	w := NewWatches(a.client(t, nil), nil)
	sink, values := into[Intentions]()
	w.Intentions.Reconcile("web", map[IntentionsKey]func(Intentions){{Service: "web", Namespace: "default", Partition: "default"}: sink})
	background(t, w.Run)
	got := receive(t, values)
	if len(got.Rules) != 1 || got.Default != connect.Deny || !strings.Contains(got.DefaultFrom, "Consul does not say") {
		t.Errorf("intentions %+v", got)
	}
	if query := a.requests(match)[0].URL.RawQuery; query != "by=destination&name=web" {
		t.Errorf("asked %q", query)
	}
	for _, bad := range []struct {
		answer http.HandlerFunc
		wants  string
	}{
		{rules(allow + `,{"SourceName":"db","DestinationName":"web","Action":"alow","Precedence":9}`), `action is "alow"`},
		{says(`{}`), "does not speak of the service"},
		{func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
			rules(allow)(w, r)
		}, `intentions:read on service "web"`},
	} {
		a.answer(match, bad.answer)
		eventually(t, "an error that says "+bad.wants, func() bool {
			s := w.Status()
			return s[0].Err != nil && strings.Contains(s[0].Err.Error(), bad.wants)
		})
	}
	a.answer(match, rules(``))
	if got := receive(t, values); len(got.Rules) != 0 || len(values) != 0 {
		t.Errorf("after recovery %+v and %d more", got, len(values))
	}
}

func TestTheDefaultPolicyDeniesWhenInDoubt(t *testing.T) {
	const self, check = "/v1/agent/self", "/v1/connect/intentions/check"
	setting := func(policy string) http.HandlerFunc {
		return says(fmt.Sprintf(`{"DebugConfig":{"DefaultIntentionPolicy":%q}}`, policy))
	}
	for _, tt := range []struct {
		name            string
		override        string
		header          string
		self, check     http.HandlerFunc
		want            connect.Action
		from            string
		fails           string
		wantNoQuestions bool
	}{
		{name: "operator allows", override: "allow", header: "deny", want: connect.Allow, from: "set in the configuration", wantNoQuestions: true},
		{name: "operator denies", override: "deny", header: "allow", want: connect.Deny, from: "set in the configuration", wantNoQuestions: true},
		{name: "setting denies", header: "allow", self: setting("deny"), want: connect.Deny, from: "the agent's default_intention_policy"},
		{name: "setting allows, servers agree", header: "deny", self: setting("allow"), check: says(`{"Allowed":true}`), want: connect.Allow, from: "the agent's default_intention_policy"},
		{name: "setting allows, servers do not", self: setting("allow"), check: says(`{"Allowed":false}`), want: connect.Deny, from: "servers deny"},
		{name: "header denies", header: "deny", self: setting(""), want: connect.Deny, from: "the default ACL policy"},
		{name: "header denies, setting unreadable", header: "deny", self: fails(403, "no"), want: connect.Deny, from: "the default ACL policy"},
		{name: "header allows, servers agree", header: "allow", self: setting(""), check: says(`{"Allowed":true}`), want: connect.Allow, from: "the default ACL policy"},
		{name: "header allows, servers do not", header: "allow", self: setting(""), check: says(`{"Allowed":false}`), want: connect.Deny, from: "servers deny"},
		{name: "header allows, setting unreadable", header: "allow", self: fails(403, "no"), check: says(`{"Allowed":true}`), want: connect.Deny, from: "agent:read"},
		{name: "header allows, servers not to be asked", header: "allow", self: setting(""), check: fails(403, "no"), want: connect.Deny, from: "service:read"},
		{name: "nobody says", self: setting(""), want: connect.Deny, from: "Consul does not say"},
		{name: "setting makes no sense", header: "allow", self: setting("yes"), fails: `action is "yes"`},
		{name: "header makes no sense", header: "extend-cache", self: setting(""), fails: `action is "extend-cache"`},
		{name: "agent broken", header: "allow", self: fails(500, "oops"), fails: "oops"},
		{name: "check broken", header: "allow", self: setting(""), check: fails(500, "oops"), fails: "oops"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAgent(t)
			a.answer(self, tt.self)
			a.answer(check, tt.check)
			c := a.client(t, func(cfg *Config) { cfg.DefaultIntentionPolicy = tt.override })
			got, err := c.defaultPolicy(t.Context(), tt.header)
			if tt.fails != "" {
				wantError(t, err, tt.fails)
				return
			}
			if err != nil || got.action != tt.want || !strings.Contains(got.from, tt.from) {
				t.Errorf("%v from %q, %v; want %v from %q", got.action, got.from, err, tt.want, tt.from)
			}
			if tt.wantNoQuestions && len(a.requests(self)) != 0 {
				t.Error("Consul was asked although the operator has spoken")
			}
		})
	}
}

func TestAChangedDefaultPolicyIsDeliveredWithoutANewIndex(t *testing.T) {
	a := newAgent(t)
	header := "deny"
	a.answer("/v1/agent/self", says(`{}`))
	a.answer("/v1/connect/intentions/check", says(`{"Allowed":true}`))
	answer := func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		w.Header().Set("X-Consul-Default-ACL-Policy", header)
		a.mu.Unlock()
		w.Header().Set("X-Consul-Index", "5")
		_, _ = w.Write([]byte(`{"web":[]}`))
	}
	a.answer("/v1/connect/intentions/match", answer)
	w := NewWatches(a.client(t, nil), nil)
	sink, values := into[Intentions]()
	w.Intentions.Reconcile("web", map[IntentionsKey]func(Intentions){{Service: "web"}: sink})
	background(t, w.Run)
	if got := receive(t, values); got.Default != connect.Deny {
		t.Errorf("first %+v", got)
	}
	a.mu.Lock()
	header = "allow"
	a.mu.Unlock()
	if got := receive(t, values); got.Default != connect.Allow {
		t.Errorf("then %+v", got)
	}
}

func TestRegistrationsAreWatchedByHash(t *testing.T) {
	const path = "/v1/agent/service/web-sidecar-proxy"
	registration := func(port int, hash string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Consul-ContentHash", hash)
			_, _ = fmt.Fprintf(w, `{"ID":"web-sidecar-proxy","Kind":"connect-proxy","Datacenter":"dc1","Port":%d,"Proxy":{"DestinationServiceName":"web","LocalServicePort":1}}`, port)
		}
	}
	a := newAgent(t)
	w := NewWatches(a.client(t, nil), nil)
	sink, values := into[Registration]()
	w.Registrations.Reconcile("web", map[string]func(Registration){"web-sidecar-proxy": sink})
	background(t, w.Run)
	eventually(t, "it is not registered", func() bool {
		s := w.Status()
		return errors.Is(s[0].Err, errNotRegistered) && strings.Contains(s[0].Err.Error(), `"web-sidecar-proxy"`)
	})
	a.answer(path, registration(1, "h1"))
	if got := receive(t, values); got.Service.BindPort != 1 {
		t.Errorf("first %+v", got)
	}
	a.answer(path, registration(2, "h2"))
	if got := receive(t, values); got.Service.BindPort != 2 {
		t.Errorf("second %+v", got)
	}
	eventually(t, "a query by the new hash", func() bool {
		seen := a.requests(path)
		return seen[len(seen)-1].URL.Query().Get("hash") == "h2"
	})
}

func TestChainsAndEndpointsAskForWhatTheKeySays(t *testing.T) {
	a := newAgent(t)
	a.answer("/v1/discovery-chain/api", says(testdata(t, "chain.json")))
	a.answer("/v1/health/connect/api", says(`[{"Node":{"Address":"192.0.2.1","Datacenter":"dc2"},"Service":{"ID":"x","Port":1}}]`))
	w := NewWatches(a.client(t, nil), nil)
	chains, gotChain := into[*connect.Chain]()
	endpoints, gotEndpoints := into[connect.Instances]()
	w.Chains.Reconcile("web", map[ChainKey]func(*connect.Chain){{Service: "api", Datacenter: "dc2"}: chains})
	w.Endpoints.Reconcile("web", map[EndpointsKey]func(connect.Instances){{Service: "api", Datacenter: "dc2", Filter: `Service.Meta.v == "1"`, Local: "dc1"}: endpoints})
	background(t, w.Run)
	if got := receive(t, gotChain); got.Start == "" {
		t.Errorf("chain %+v", got)
	}
	want := connect.Instances{Endpoints: []connect.Endpoint{{ID: "x", Address: "192.0.2.1", Port: 1, Weight: 1}}}
	if diff := cmp.Diff(want, receive(t, gotEndpoints)); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	if q := a.requests("/v1/discovery-chain/api")[0].URL.RawQuery; q != "compile-dc=dc2" {
		t.Errorf("chain asked with %q", q)
	}
	q := a.requests("/v1/health/connect/api")[0].URL.Query()
	if q.Get("dc") != "dc2" || q.Get("filter") != `Service.Meta.v == "1"` || q.Has("passing") {
		t.Errorf("endpoints asked with %v", q)
	}
}

func TestTargetsNobodyCanReachSayWhyInsteadOfKeepingEverybodyWaiting(t *testing.T) {
	a := newAgent(t)
	a.answer("/v1/health/connect/api", fails(500, "No path to datacenter"))
	w := NewWatches(a.client(t, nil), nil)
	far, gotFar := into[connect.Instances]()
	w.Endpoints.Reconcile("web", map[EndpointsKey]func(connect.Instances){{Service: "api", Datacenter: "dc2", Local: "dc1"}: far})
	background(t, w.Run)
	got := receive(t, gotFar).Endpoints
	if len(got) != 1 || got[0].Usable() || got[0].Unusable != `Consul has no path to datacenter "dc2"` {
		t.Errorf("endpoints %+v", got)
	}
}

func TestNamesThatWouldLeaveTheirPathAreNotSent(t *testing.T) {
	a := newAgent(t)
	c := a.client(t, nil)
	for _, name := range []string{"", ".", "..", "../agent/self", "a/b", "a\nb"} {
		_, _, err := c.openChain(ChainKey{Service: name})(t.Context(), watch.Cursor{})
		wantError(t, err, "service name")
		_, _, err = c.openEndpoints(EndpointsKey{Service: name})(t.Context(), watch.Cursor{})
		wantError(t, err, "service name")
		_, _, err = c.openEndpoints(EndpointsKey{Service: name, Query: true})(t.Context(), watch.Cursor{})
		wantError(t, err, "name of the prepared query")
		_, _, err = c.openPeer(PeerKey{Name: name})(t.Context(), watch.Cursor{})
		wantError(t, err, "name of a peer")
		_, _, err = c.gateways(t.Context(), GatewaysKey{Datacenter: "dc2"}, name, watch.Cursor{})
		wantError(t, err, "service name")
		_, _, err = c.openRegistration(name)(t.Context(), watch.Cursor{})
		wantError(t, err, "service ID")
		_, _, err = c.fetchLeaf(connect.Service{Name: name})(t.Context(), watch.Cursor{})
		wantError(t, err, "service name")
	}
	if n := len(a.seen); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

func TestFindProxyFindsTheOneSidecar(t *testing.T) {
	a := newAgent(t)
	c := a.client(t, nil)
	a.answer("/v1/agent/services", says(testdata(t, "services.json")))
	for _, id := range []string{"web-1", "WEB-1"} {
		if got, err := c.FindProxy(t.Context(), id); err != nil || got != "web-1-sidecar-proxy" {
			t.Errorf("%s: %q, %v", id, got, err)
		}
	}
	_, err := c.FindProxy(t.Context(), "db")
	wantError(t, err, `"db"`, "no sidecar is registered", "sidecar_service")
	a.answer("/v1/agent/services", says(`{"b":{"Kind":"connect-proxy","Proxy":{"DestinationServiceID":"web"}},"a":{"Kind":"connect-proxy","Proxy":{"DestinationServiceID":"Web"}},"c":{"Proxy":{"DestinationServiceID":"web"}}}`))
	_, err = c.FindProxy(t.Context(), "web")
	wantError(t, err, "there are 2, a, b", "-proxy-id")
	a.answer("/v1/agent/services", fails(403, "denied"))
	_, err = c.FindProxy(t.Context(), "web")
	wantError(t, err, "service:read")
}

func TestBundlesAreEqualByContent(t *testing.T) {
	one, two := meshca.New("one"), meshca.New("two")
	if !equalBundles(meshca.Bundle(one), meshca.Bundle(one)) || equalBundles(meshca.Bundle(one), meshca.Bundle(one, two)) {
		t.Error("bundles are compared wrongly")
	}
	changed := meshca.Bundle(one)
	changed.Roots[0].Active = false
	if equalBundles(meshca.Bundle(one), changed) {
		t.Error("a bundle without an active root counts as the same")
	}
}
