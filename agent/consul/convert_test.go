// Copyright (c) The Outrider Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"crypto/tls"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/outrider-mesh/outrider/connect"
)

// recorded reads an answer of a real Consul 1.22.3.
func recorded[V any](t *testing.T, name string) V {
	t.Helper()
	return decode[V](t, testdata(t, name))
}

func testdata(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func decode[V any](t *testing.T, text string) V {
	t.Helper()
	var v V
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// wantError checks that err speaks of each part; no parts mean no error.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if len(parts) == 0 {
		if err != nil {
			t.Errorf("error %v, want none", err)
		}
		return
	}
	if err == nil {
		t.Errorf("no error, want one with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q lacks %q", err, part)
		}
	}
}

func TestRecordedRegistrationIsReadWhole(t *testing.T) {
	got, err := convertRegistration(recorded[wireService](t, "registration.json"), "")
	if err != nil {
		t.Fatal(err)
	}
	health := connect.PassiveHealth{MaxFailures: 3, BaseEjectionTime: 10 * time.Second, Interval: 22 * time.Second}
	base := connect.Upstream{
		Namespace: "default", Partition: "default", BindAddress: "127.0.0.1", ConnectTimeout: 3 * time.Second,
		MaxConnections: 7, MaxPending: 8, MaxRequests: -1, PassiveHealth: health,
	}
	with := func(edit func(*connect.Upstream)) connect.Upstream {
		u := base
		edit(&u)
		return u
	}
	want := Registration{
		Service: connect.Service{
			ID: "web-1", ProxyID: "web-1-sidecar-proxy", Name: "web", Namespace: "default", Partition: "default", Datacenter: "dc1",
			Protocol: connect.HTTP, BindAddress: "127.0.0.1", BindPort: 21000, LocalAddress: "127.0.0.1", LocalPort: 8080,
			LocalConnectTimeout: 2500 * time.Millisecond, MaxInboundConnections: 9,
		},
		Upstreams: []connect.Upstream{
			with(func(u *connect.Upstream) { u.ID, u.Name, u.BindPort, u.Protocol = "api", "api", 9191, connect.HTTP }),
			with(func(u *connect.Upstream) {
				u.ID, u.Name, u.BindPort, u.Datacenter = "db?dc=dc2", "db", 9192, "dc2"
				u.ConnectTimeout, u.MaxConnections, u.MaxPending = 1234*time.Millisecond, 4, -1
				u.PassiveHealth = connect.PassiveHealth{MaxFailures: 2, Interval: 5 * time.Second}
			}),
			with(func(u *connect.Upstream) {
				u.ID, u.Name, u.BindPort, u.Peer = "far?peer=east", "far", 9194, "east"
				u.PassiveHealth.MaxEjectionPercent = 100
			}),
			{
				ID: "query:geo", Name: "geo", Namespace: "default", Partition: "default", BindAddress: "127.0.0.1", BindPort: 9193,
				MaxConnections: -1, MaxPending: -1, MaxRequests: -1, Query: true,
			},
			with(func(u *connect.Upstream) {
				u.ID, u.Name, u.BindAddress, u.BindSocketPath, u.BindSocketMode = "sock", "sock", "", "/run/x.sock", fs.FileMode(0o600)
			}),
		},
		Warnings: []string{"proxy config: envoy_local_cluster_json is ignored: there is no Envoy"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("registration (-want +got):\n%s", diff)
	}
}

// sidecar is a minimal registration with a proxy block to fill in.
func sidecar(t *testing.T, top, proxy string) wireService {
	t.Helper()
	return decode[wireService](t, `{"Kind":"connect-proxy","ID":"web-sidecar-proxy","Datacenter":"dc1","Port":21000`+top+
		`,"Proxy":{"DestinationServiceName":"web","LocalServicePort":80`+proxy+`}}`)
}

func TestBindAddressComesFromConfigThenServiceThenEverywhere(t *testing.T) {
	for _, tt := range []struct {
		top, proxy string
		address    string
		port       int
		fails      []string
	}{
		{address: "0.0.0.0", port: 21000},
		{top: `,"Address":"192.0.2.1"`, address: "192.0.2.1", port: 21000},
		{top: `,"Address":"192.0.2.1"`, proxy: `,"Config":{"bind_address":"127.0.0.1","bind_port":8}`, address: "127.0.0.1", port: 8},
		{proxy: `,"Config":{"BindAddress":"::1","BindPort":"9"}`, address: "::1", port: 9},
		{top: `,"Address":"web.example"`, fails: []string{`bind address "web.example" is not an IP address`, "set bind_address"}},
		{proxy: `,"Config":{"bind_port":70000}`, fails: []string{"70000 is not a port"}},
	} {
		r, err := convertRegistration(sidecar(t, tt.top, tt.proxy), "")
		wantError(t, err, tt.fails...)
		if tt.fails == nil && (r.Service.BindAddress != tt.address || r.Service.BindPort != tt.port) {
			t.Errorf("%s %s: binds %s:%d, want %s:%d", tt.top, tt.proxy, r.Service.BindAddress, r.Service.BindPort, tt.address, tt.port)
		}
	}
}

func TestRegistrationsThatAreNoSidecarAreRefused(t *testing.T) {
	for _, tt := range []struct{ json, datacenter, fails string }{
		{`{"ID":"web","Datacenter":"dc1"}`, "", `is of kind ""`},
		{`{"ID":"gw","Kind":"mesh-gateway","Proxy":{},"Datacenter":"dc1"}`, "", `of kind "mesh-gateway"`},
		{`{"ID":"x","Kind":"connect-proxy","Proxy":{},"Datacenter":"dc1"}`, "", "names no service"},
		{`{"ID":"x","Kind":"connect-proxy","Proxy":{"DestinationServiceName":"web"}}`, "", "does not name its datacenter"},
		{`{"ID":"x","Kind":"connect-proxy","Proxy":{"DestinationServiceName":"web"}}`, "dc9", ""},
	} {
		_, err := convertRegistration(decode[wireService](t, tt.json), tt.datacenter)
		if tt.fails == "" {
			wantError(t, err)
		} else {
			wantError(t, err, tt.fails)
		}
	}
}

func TestUpstreamsThatCannotBeServedSayWhy(t *testing.T) {
	for _, tt := range []struct {
		name, proxy string
		ids         []connect.UpstreamID
		problem     string
		warning     string
	}{
		{name: "central config only", proxy: `,"Upstreams":[{"DestinationName":"*"},{"DestinationName":"api"}]`},
		{name: "gateway elsewhere", proxy: `,"Upstreams":[{"DestinationName":"a","Datacenter":"dc2","LocalBindPort":1,"MeshGateway":{"Mode":"local"}}]`,
			ids: []connect.UpstreamID{"a?dc=dc2"}},
		{name: "gateway mode of the proxy", proxy: `,"MeshGateway":{"Mode":"remote"},"Upstreams":[{"DestinationName":"a","Datacenter":"dc2","LocalBindPort":1}]`,
			ids: []connect.UpstreamID{"a?dc=dc2"}},
		{name: "query of a peer", proxy: `,"Upstreams":[{"DestinationType":"prepared_query","DestinationName":"a","DestinationPeer":"east","LocalBindPort":1}]`,
			ids: []connect.UpstreamID{"query:a"}, problem: `it is a prepared query of peer "east"`},
		{name: "datacenter of a peer", proxy: `,"Upstreams":[{"DestinationName":"a","DestinationPeer":"east","Datacenter":"dc2","LocalBindPort":1}]`,
			ids: []connect.UpstreamID{"a?peer=east"}, problem: `it is in datacenter "dc2" of peer "east"`},
		{name: "gateway mode at home", proxy: `,"Upstreams":[{"DestinationName":"a","Datacenter":"dc1","LocalBindPort":1,"MeshGateway":{"Mode":"local"}}]`,
			ids: []connect.UpstreamID{"a"}},
		{name: "unknown type", proxy: `,"Upstreams":[{"DestinationType":"magic","DestinationName":"a","LocalBindPort":1}]`,
			ids: []connect.UpstreamID{"a"}, problem: `destination type "magic" is not known`},
		{name: "bad socket mode", proxy: `,"Upstreams":[{"DestinationName":"a","LocalBindSocketPath":"/s","LocalBindSocketMode":"rw"}]`,
			ids: []connect.UpstreamID{"a"}, problem: "is not an octal number"},
		{name: "bad address", proxy: `,"Upstreams":[{"DestinationName":"a","LocalBindAddress":"lo","LocalBindPort":1}]`,
			warning: `upstream "a" is left out: local bind address "lo" is not an IP address`},
		{name: "bad port", proxy: `,"Upstreams":[{"DestinationName":"a","LocalBindPort":-1}]`, warning: "-1 is not a port"},
		{name: "two listeners", proxy: `,"Upstreams":[{"DestinationName":"a","LocalBindPort":1},{"DestinationName":"a","LocalBindPort":2}]`,
			ids: []connect.UpstreamID{"a", "a?listen=2"}},
		{name: "twice the same", proxy: `,"Upstreams":[{"DestinationName":"a","LocalBindPort":1},{"DestinationName":"a","LocalBindPort":2},{"DestinationName":"a","LocalBindPort":2}]`,
			ids: []connect.UpstreamID{"a", "a?listen=2"}, warning: "it is there twice"},
		{name: "escape hatch", proxy: `,"Upstreams":[{"DestinationName":"a","LocalBindPort":1,"Config":{"envoy_cluster_json":"{}"}}]`,
			ids: []connect.UpstreamID{"a"}, warning: "envoy_cluster_json is ignored"},
		{name: "transparent", proxy: `,"Mode":"transparent"`},
		{name: "transparent on no port", proxy: `,"Mode":"transparent","TransparentProxy":{"OutboundListenerPort":70000}`, warning: "70000 is not a port; 15001 is used"},
		{name: "extension", proxy: `,"EnvoyExtensions":[{"Name":"builtin/lua"}]`, warning: `Envoy extension "builtin/lua" is ignored`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := convertRegistration(sidecar(t, "", tt.proxy), "")
			if err != nil {
				t.Fatal(err)
			}
			var ids []connect.UpstreamID
			for _, u := range r.Upstreams {
				ids = append(ids, u.ID)
				if !strings.Contains(u.Problem, tt.problem) || (tt.problem == "") != (u.Problem == "") {
					t.Errorf("problem of %q is %q, want %q in it", u.ID, u.Problem, tt.problem)
				}
			}
			if diff := cmp.Diff(tt.ids, ids); diff != "" {
				t.Errorf("upstreams (-want +got):\n%s", diff)
			}
			warnings := strings.Join(r.Warnings, "; ")
			if !strings.Contains(warnings, tt.warning) || (tt.warning == "") != (warnings == "") {
				t.Errorf("warnings %q, want %q in them", warnings, tt.warning)
			}
		})
	}
}

func TestOpaqueConfigIsReadInEverySpelling(t *testing.T) {
	for _, tt := range []struct {
		config string
		want   connect.Upstream
		note   string
	}{
		{config: `{"connect_timeout_ms":5,"limits":{"max_connections":0},"passive_health_check":{"max_failures":1,"enforcing_consecutive_5xx":50,"max_ejection_percent":20,"base_ejection_time":"7s"}}`,
			want: connect.Upstream{ConnectTimeout: 5 * time.Millisecond, MaxConnections: 0, PassiveHealth: connect.PassiveHealth{MaxFailures: 1, Enforcing: 50, MaxEjectionPercent: 20, BaseEjectionTime: 7 * time.Second}}},
		{config: `{"ConnectTimeoutMs":"5","Limits":{"MaxConnections":9},"PassiveHealthCheck":{"MaxFailures":1,"EnforcingConsecutive5xx":0,"MaxEjectionPercent":900,"BaseEjectionTime":7000000000}}`,
			want: connect.Upstream{ConnectTimeout: 5 * time.Millisecond, MaxConnections: 9, PassiveHealth: connect.PassiveHealth{MaxFailures: 1, Enforcing: -1, MaxEjectionPercent: 100, BaseEjectionTime: 7 * time.Second}}},
		{config: `{"connect_timeout_ms":-5}`, want: connect.Upstream{MaxConnections: -1}, note: "connect_timeout_ms is not a whole number"},
		{config: `{"limits":7}`, want: connect.Upstream{MaxConnections: -1}, note: "limits is not a block"},
		{config: `{"limits":{"max_connections":1.5}}`, want: connect.Upstream{MaxConnections: -1}, note: "max_connections is not a whole number"},
		{config: `{"passive_health_check":{"base_ejection_time":"soon"}}`, want: connect.Upstream{MaxConnections: -1}, note: "soon is not a duration"},
		{config: `{"passive_health_check":{"base_ejection_time":1e30}}`, want: connect.Upstream{MaxConnections: -1}, note: "is not a duration from 0 to one year"},
		{config: `{"protocol":7}`, want: connect.Upstream{MaxConnections: -1}, note: "protocol is not a string"},
	} {
		r, err := convertRegistration(sidecar(t, "", `,"Upstreams":[{"DestinationName":"a","LocalBindPort":1,"Config":`+tt.config+`}]`), "")
		if err != nil {
			t.Fatal(err)
		}
		got := connect.Upstream{ConnectTimeout: r.Upstreams[0].ConnectTimeout, MaxConnections: r.Upstreams[0].MaxConnections, PassiveHealth: r.Upstreams[0].PassiveHealth}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.config, diff)
		}
		notes := strings.Join(r.Warnings, "; ")
		if !strings.Contains(notes, tt.note) || (tt.note == "") != (notes == "") {
			t.Errorf("%s: notes %q, want %q in them", tt.config, notes, tt.note)
		}
	}
}

func TestRecordedIntentionsKeepTheirJWTAndOrder(t *testing.T) {
	got, err := convertIntentions("web", recorded[map[string][]wireIntention](t, "intentions.json")["web"])
	if err != nil {
		t.Fatal(err)
	}
	okta := &connect.JWTRequirement{Providers: []connect.JWTClaims{{Provider: "okta"}}}
	role := &connect.JWTRequirement{Providers: []connect.JWTClaims{{Provider: "okta", Claims: []connect.JWTClaim{{Path: []string{"role"}, Value: "x"}}}}}
	path := func(kind connect.MatchKind, value string) connect.RequestMatch {
		return connect.RequestMatch{Path: connect.PathMatch{Kind: kind, Value: value}}
	}
	local := func(name string) connect.Source {
		return connect.Source{Partition: "default", Namespace: "default", Name: name}
	}
	want := []connect.Intention{
		{Source: local("edge"), Destination: "web", Namespace: "default", Precedence: 9, JWT: okta,
			Permissions: []connect.Permission{
				{Action: connect.Allow, HTTP: path(connect.MatchPrefix, "/"), JWT: role},
				{Action: connect.Deny, HTTP: path(connect.MatchExact, "/admin")},
			}},
		{Source: connect.Source{Peer: "east", Partition: "default", Namespace: "default", Name: "api"}, Destination: "web", Namespace: "default", Precedence: 9, Action: connect.Allow, JWT: okta},
		{Source: local("*"), Destination: "web", Namespace: "default", Precedence: 8, Action: connect.Deny, JWT: okta},
		{Source: local("batch"), Destination: "*", Namespace: "default", Precedence: 6, Action: connect.Allow},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("intentions (-want +got):\n%s", diff)
	}
}

func TestOneIntentionThatIsNotUnderstoodRefusesAll(t *testing.T) {
	good := `{"SourceName":"a","DestinationName":"web","Action":"allow","Precedence":9}`
	for _, tt := range []struct{ json, fails string }{
		{good, ""},
		{`{"SourceName":"a","DestinationName":"web","Action":"ALLOW","Precedence":9}`, `action is "ALLOW"`},
		{`{"SourceName":"a","DestinationName":"web","Precedence":9}`, `action is ""`},
		{`{"SourceName":"a","DestinationName":"web","Action":"allow"}`, "precedence is 0"},
		{`{"SourceName":"a","DestinationName":"web","Action":"allow","Precedence":10}`, "precedence is 10"},
		{`{"DestinationName":"web","Action":"deny","Precedence":9}`, "names no source"},
		{`{"SourceName":"a","DestinationName":"db","Action":"allow","Precedence":9}`, "about another destination"},
		{`{"SourceName":"a","SourceType":"uri","DestinationName":"web","Action":"allow","Precedence":9}`, `source type "uri"`},
		{`{"SourceName":"a","SourceSamenessGroup":"g","DestinationName":"web","Action":"allow","Precedence":9}`, "sameness group"},
		{`{"SourceName":"a","DestinationName":"web","Action":"allow","Permissions":[{"Action":"deny"}],"Precedence":9}`, "only one"},
		{`{"SourceName":"a","DestinationName":"web","Permissions":[{"Action":"maybe"}],"Precedence":9}`, `permission 1: action is "maybe"`},
	} {
		_, err := convertIntentions("web", decode[[]wireIntention](t, "["+good+","+tt.json+"]"))
		if tt.fails == "" {
			wantError(t, err)
		} else {
			wantError(t, err, tt.fails, "intention 2")
		}
	}
}

func TestARequirementOfNoProviderIsKept(t *testing.T) {
	got, err := convertIntentions("web", decode[[]wireIntention](t, `[{"SourceName":"a","DestinationName":"*","Action":"allow","Precedence":6,"JWT":{}}]`))
	if err != nil || got[0].JWT == nil {
		t.Errorf("got %+v, %v, want a JWT requirement that nothing can meet", got, err)
	}
}

func TestMeshLimitsAreReadOrRefused(t *testing.T) {
	recordedMesh := connect.Mesh{
		Incoming: connect.TLSLimits{MinVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}},
		Outgoing: connect.TLSLimits{MaxVersion: tls.VersionTLS13},
	}
	if got, err := convertMesh(recorded[[]wireMesh](t, "mesh.json")); err != nil || !cmp.Equal(recordedMesh, got) {
		t.Errorf("recorded: %v, %v", cmp.Diff(recordedMesh, got), err)
	}
	for _, tt := range []struct {
		json  string
		want  connect.Mesh
		fails string
	}{
		{json: `[]`},
		{json: `[{"Kind":"mesh"}]`},
		{json: `[{"Kind":"mesh","TLS":{"Incoming":{"TLSMinVersion":"TLS_AUTO"}}}]`},
		{json: `[{"Kind":"mesh","TLS":{"Incoming":{"TLSMinVersion":"TLSv1_0","TLSMaxVersion":"TLSv1_1"}}}]`,
			want: connect.Mesh{Incoming: connect.TLSLimits{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}}},
		{json: `[{"Kind":"mesh","TLS":{"Outgoing":{"TLSMinVersion":"TLSv2"}}}]`, fails: `TLS.Outgoing: TLSMinVersion: "TLSv2"`},
		{json: `[{"Kind":"mesh","TLS":{"Incoming":{"TLSMinVersion":"TLSv1_3","TLSMaxVersion":"TLSv1_2"}}}]`, fails: "is above"},
		{json: `[{"Kind":"mesh","TLS":{"Incoming":{"CipherSuites":["ROT13"]}}}]`, fails: `cipher suite "ROT13"`},
		{json: `[{"Kind":"proxy-defaults"}]`, fails: `kind "proxy-defaults"`},
		{json: `[{"Kind":"mesh"},{"Kind":"mesh"}]`, fails: "2 mesh config entries"},
	} {
		got, err := convertMesh(decode[[]wireMesh](t, tt.json))
		if tt.fails != "" {
			wantError(t, err, tt.fails)
		} else if err != nil || !cmp.Equal(tt.want, got) {
			t.Errorf("%s: %v, %v", tt.json, cmp.Diff(tt.want, got), err)
		}
	}
}
