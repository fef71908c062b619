// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/agent/watch"
	"github.com/outrider-mesh/outrider/connect"
)

func decoded[V any](t *testing.T, text string) (v V) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTransparentModeIsReadFromTheRegistration(t *testing.T) {
	for _, tt := range []struct {
		name, proxy string
		want        *connect.Transparent
	}{
		{"none", ``, nil},
		{"direct", `,"Mode":"direct"`, nil},
		{"defaults", `,"Mode":"transparent","TransparentProxy":{}`, &connect.Transparent{OutboundPort: 15001}},
		{"all", `,"Mode":"transparent","TransparentProxy":{"OutboundListenerPort":15099,"DialedDirectly":true}`, &connect.Transparent{OutboundPort: 15099, DialedDirectly: true}},
	} {
		r, err := convertRegistration(sidecar(t, "", tt.proxy), "")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, r.Service.Transparent); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		if (r.ImplicitUpstreams(Implicit{Services: []connect.ServiceName{{Name: "api"}}}) != nil) != (tt.want != nil) {
			t.Errorf("%s: implicit upstreams of a sidecar in mode %+v", tt.name, tt.want)
		}
	}
}

func TestImplicitUpstreamsTakeDefaultsAndLeaveExplicitOnesAlone(t *testing.T) {
	r, err := convertRegistration(sidecar(t, "", `,"Mode":"transparent","Upstreams":[
		{"DestinationName":"api","LocalBindPort":9000},
		{"DestinationName":"far","Datacenter":"dc2","LocalBindPort":9001},
		{"DestinationName":"db","Config":{"limits":{"max_connections":7}}},
		{"DestinationName":"*","DestinationNamespace":"*","Config":{"connect_timeout_ms":1500},"MeshGateway":{"Mode":"local"}}]`), "")
	if err != nil {
		t.Fatal(err)
	}
	name := func(n string) connect.ServiceName {
		return connect.ServiceName{Name: n, Namespace: "default", Partition: "default"}
	}
	got := r.ImplicitUpstreams(Implicit{Services: []connect.ServiceName{name("other"), name("api"), name("db"), name("far")}})
	var words []string
	for _, u := range got {
		words = append(words, fmt.Sprintf("%s %v %d %v %q %q", u.ID, u.Implicit, u.MaxConnections, u.ConnectTimeout, u.MeshGateway, u.BindAddress))
	}
	want := []string{`db true 7 0s "" ""`, `far true -1 1.5s "local" ""`, `other true -1 1.5s "local" ""`}
	if diff := cmp.Diff(want, words); diff != "" {
		t.Error(diff)
	}
	if len(r.Upstreams) != 2 || r.Upstreams[0].BindPort != 9000 {
		t.Errorf("explicit upstreams: %+v", r.Upstreams)
	}
}

func TestVirtualIPsAreThoseOfConsulsServers(t *testing.T) {
	for _, tt := range []struct {
		auto, manual []string
		want         []netip.Addr
		err          string
	}{
		{},
		{auto: []string{"240.0.0.9", "240.0.0.2"}, manual: []string{"240.0.0.9", "10.5.0.1"},
			want: []netip.Addr{netip.MustParseAddr("10.5.0.1"), netip.MustParseAddr("240.0.0.2"), netip.MustParseAddr("240.0.0.9")}},
		{auto: []string{"::ffff:240.0.0.2", "2000::7"}, want: []netip.Addr{netip.MustParseAddr("240.0.0.2"), netip.MustParseAddr("2000::7")}},
		{auto: []string{"api"}, err: "is no IP address"},
		{manual: []string{"127.0.0.1"}, err: "can stand for no service"},
		{manual: []string{"0.0.0.0"}, err: "can stand for no service"},
		{manual: make([]string, maxVirtualIPs+1), err: "at most 64"},
	} {
		got, err := virtualIPs(&wireChain{AutoVirtualIPs: tt.auto, ManualVirtualIPs: tt.manual})
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%v %v: error %v, want %q in it", tt.auto, tt.manual, err, tt.err)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" || err != nil {
			t.Errorf("%v %v: %v\n%s", tt.auto, tt.manual, err, diff)
		}
	}
}

// The text is what Consul 1.22 answers, cut to the fields that are read.
func TestTopologyNamesWhatIntentionsAllow(t *testing.T) {
	key := ImplicitKey{Service: "web", Namespace: "default", Partition: "default", Datacenter: "dc1"}
	w := decoded[wireTopology](t, `{"TransparentProxy":true,"FilteredByACLs":true,"Upstreams":[
		{"Name":"virt","Datacenter":"dc1","Source":"routing-config","Intention":{"Allowed":true}},
		{"Name":"api","Datacenter":"dc1","Intention":{"Allowed":true}},
		{"Name":"l7","Datacenter":"dc1","Intention":{"Allowed":false,"HasPermissions":true}},
		{"Name":"denied","Datacenter":"dc1","Source":"proxy-registration","Intention":{"Allowed":false}},
		{"Name":"far","Datacenter":"dc2","Intention":{"Allowed":true}},
		{"Name":"web","Datacenter":"dc1","Intention":{"Allowed":true}},
		{"Name":"consul","Datacenter":"dc1","Intention":{"Allowed":true}},
		{"Name":"../x","Datacenter":"dc1","Intention":{"Allowed":true}}]}`)
	got := convertTopology(key, w)
	if diff := cmp.Diff([]string{"api", "l7", "virt"}, serviceNames(got)); diff != "" {
		t.Error(diff)
	}
	if len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "service:read") {
		t.Errorf("notes: %q", got.Notes)
	}
}

func serviceNames(i Implicit) []string {
	var out []string
	for _, s := range i.Services {
		out = append(out, s.Name)
	}
	return out
}

func TestTooManyImplicitUpstreamsAreLeftOutAndNamed(t *testing.T) {
	var w wireTopology
	for i := range maxImplicit + 5 {
		text := fmt.Sprintf(`{"Upstreams":[{"Name":"s%04d","Intention":{"Allowed":true}}]}`, i)
		w.Upstreams = append(w.Upstreams, decoded[wireTopology](t, text).Upstreams...)
	}
	got := convertTopology(ImplicitKey{Service: "web"}, w)
	if len(got.Services) != maxImplicit || len(got.Notes) != 1 || !strings.Contains(got.Notes[0], `"s0960" and 4 more`) {
		t.Errorf("%d services, notes %q", len(got.Services), got.Notes)
	}
}

func TestHighestPrecedenceDecidesWhatMayBeCalled(t *testing.T) {
	rules := []wireIntention{
		{DestinationName: "api", Action: "allow", Precedence: 9},
		{DestinationName: "api", Action: "deny", Precedence: 8},
		{DestinationName: "l7", Permissions: []json.RawMessage{[]byte("{}")}, Precedence: 9},
		{DestinationName: "bad", Action: "deny", Precedence: 9},
		{DestinationName: "*", Action: "allow", Precedence: 6},
	}
	for name, want := range map[string]bool{"api": true, "l7": true, "bad": false, "any": true} {
		if got := mayCall(rules, name, connect.Deny); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if mayCall(nil, "api", connect.Deny) || !mayCall(nil, "api", connect.Allow) {
		t.Error("without a rule, the default decides")
	}
}

// agentOf answers for Consul; handle may leave a path to it.
func agentOf(t *testing.T, handle http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	c, err := NewClient(Config{Address: s.URL, DefaultIntentionPolicy: "deny"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAnAgentWithoutTopologyIsAskedForTheParts(t *testing.T) {
	for _, code := range []int{http.StatusNotFound, http.StatusForbidden} {
		c := agentOf(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasPrefix(r.URL.Path, "/v1/internal/"):
				w.WriteHeader(code)
			case r.URL.Path == "/v1/connect/intentions/match" && r.URL.Query().Get("by") == "source":
				_, _ = w.Write([]byte(`{"web":[{"DestinationName":"api","Action":"allow","Precedence":9},{"DestinationName":"db","Action":"deny","Precedence":9}]}`))
			case r.URL.Path == "/v1/config/service-defaults":
				_, _ = w.Write([]byte(`[{"Name":"x"},{"Name":"ext","Destination":{"Addresses":["10.9.9.9","example.com"],"Port":443}}]`))
			case r.URL.Path == "/v1/catalog/services":
				_, _ = w.Write([]byte(`{"consul":[],"web":[],"api":[],"api-sidecar-proxy":[],"db":[],"other":[]}`))
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		})
		got, cursor, err := c.openImplicit(ImplicitKey{Service: "web"})(t.Context(), watch.Cursor{})
		if err != nil || !strings.HasPrefix(cursor.Hash, paused) {
			t.Fatalf("%d: %v, cursor %+v", code, err, cursor)
		}
		if diff := cmp.Diff([]string{"api"}, serviceNames(got)); diff != "" {
			t.Errorf("%d: %s", code, diff)
		}
		if fmt.Sprint(got.Destinations) != "[10.9.9.9:443]" || len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "destinations ext are behind") {
			t.Errorf("%d: destinations %v, notes %q", code, got.Destinations, got.Notes)
		}
	}
}

func TestWhatIsUnusedIsReadFromTheCacheInTurns(t *testing.T) {
	var now, most, blocking, uncached atomic.Int64
	release := make(chan struct{})
	c := agentOf(t, func(w http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		if r.URL.Query().Has("index") {
			blocking.Add(1)
		}
		if !r.URL.Query().Has("cached") {
			uncached.Add(1)
		}
		<-release
		w.Header().Set("X-Consul-Index", "7")
		_, _ = w.Write([]byte(`[]`))
	})
	const all = 3 * readsAtOnce
	done := make(chan error, all)
	for i := range all {
		fetch := c.openEndpoints(EndpointsKey{Service: fmt.Sprintf("s%d", i), Datacenter: "dc1", Unused: true})
		go func() {
			_, cursor, err := fetch(t.Context(), watch.Cursor{})
			if err == nil && !strings.HasPrefix(cursor.Hash, paused) {
				err = fmt.Errorf("cursor %+v would be waited on", cursor)
			}
			done <- err
		}()
	}
	deadline := time.After(10 * time.Second)
	for now.Load() < readsAtOnce {
		select {
		case <-deadline:
			t.Fatal("no reads")
		case <-time.After(time.Millisecond):
		}
	}
	close(release)
	for range all {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if most.Load() != readsAtOnce || blocking.Load() != 0 || uncached.Load() != 0 {
		t.Errorf("%d at once, want %d; %d blocking, %d past the cache", most.Load(), readsAtOnce, blocking.Load(), uncached.Load())
	}
}

func TestMeshDestinationsOnlyIsRead(t *testing.T) {
	mesh, err := convertMesh(decoded[[]wireMesh](t, `[{"Kind":"mesh","TransparentProxy":{"MeshDestinationsOnly":true}}]`))
	if err != nil || !mesh.DestinationsOnly {
		t.Errorf("%+v, %v", mesh, err)
	}
}

func TestDialedDirectlyIsReadFromEachInstance(t *testing.T) {
	w := decoded[wireEndpoint](t, `{"Service":{"Address":"10.0.0.1","Port":1,"Proxy":{"TransparentProxy":{"DialedDirectly":true}}}}`)
	if e := convertEndpoint(EndpointsKey{}, w); !e.Direct {
		t.Errorf("%+v", e)
	}
}
